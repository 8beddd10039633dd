"""Flags that stand everywhere, formats, and what is no command of ours."""

import csv
from pathlib import Path

import pytest
from command_line import tbpay
from conftest import run_tbpay
from databases import Database
from probes import rows, run

import tbpay as package
from tbpay.errors import Code


@pytest.fixture
def other(shop: Database, migrated: Path, tmp_path: Path) -> Path:
    """Another database, a file with nothing in it, beside the shop."""
    path = tmp_path / "other.db"
    path.write_bytes(migrated.read_bytes())
    assert rows(path, "SELECT count(*) FROM accounts") == [(0,)]
    assert rows(shop, "SELECT count(*) FROM accounts") == [(2,)]
    return path


# Which database


def test_the_database_is_named_before_the_group_or_after_the_verb_and_the_latter_wins(
    shop: Database, other: Path
) -> None:
    for words, accounts in {
        "account list --json": 2,
        f"--database {other} account list --json": 0,
        f"account list --json --database {other}": 0,
        f"--database {other} account list --json --database {shop.url}": 2,
        f"--database {shop.url} account list --json --database {other}": 0,
        f"account list --json --database sqlite:///{other}": 0,
        f"account list --json --database=sqlite+pysqlite:///{other}": 0,
    }.items():
        assert len(tbpay(words).items) == accounts, words


def test_a_relative_path_is_one_from_here(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(other.parent)

    assert tbpay(f"account list --json --database {other.name}").items == []
    assert tbpay("db status --json --database sqlite:///other.db").json["database"] == str(other)


def test_the_next_command_forgets_which_database_the_last_one_used(other: Path) -> None:
    tbpay(f"account list --database {other}")

    assert len(tbpay("account list --json").items) == 2


@pytest.mark.usefixtures("shop")
def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBPAY_DATABASE_URL", "")
    monkeypatch.setenv("TBPAY_FORMAT", "")

    answer = tbpay("account list")

    assert answer.code == 7
    assert "(the default; TBPAY_DATABASE_URL is not set)" in answer.err


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3cret@db.example.com/shop",
        "postgres://ann:s3cret@db/shop?sslmode=require",
        "postgresql+psycopg://ann:s3cr@et/s3cret@db/shop",
        "postgresql://:s3cret@/shop",
        "postgresql://ann@db/shop?password=s3cret",
        "postgresql://db/shop?sslmode=require&sslpassword=s3cret",
        "mysql://ann:s3cret@db/shop",
        "sqlite://ann:s3cret@host/shop.db",
    ],
)
def test_a_password_in_the_flag_is_refused_and_not_repeated(url: str) -> None:
    for words in (f"account list --database {url}", f"--database={url} account list"):
        answer = tbpay(words)

        assert (answer.code, answer.out) == (2, "")
        assert "set TBPAY_DATABASE_URL instead" in answer.err
        assert "s3cret" not in answer.err


@pytest.mark.usefixtures("shop")
def test_a_password_in_the_wrong_place_is_not_repeated_either() -> None:
    url = "postgresql://ann:s3cret@db/shop"

    for words in (f"db upgrade {url}", f"order list {url}", f"account {url}", f"{url} order list"):
        for answer in (tbpay(words), tbpay(f"--json {words}")):
            assert (answer.code, answer.out) == (2, "")
            assert "s3cret" not in answer.err


@pytest.mark.parametrize("name", ["a:b@c.db", "x@y.db", "password=1.db", "100%.db", "what?.db"])
def test_a_file_may_be_called_as_it_likes(name: str, stocked: Path, tmp_path: Path) -> None:
    copy = tmp_path / name
    copy.write_bytes(stocked.read_bytes())

    answer = tbpay("account list --json --database", str(copy))

    assert len(answer.items) == 2


@pytest.mark.parametrize(
    "name",
    [
        "mysql://db/shop",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        ":memory:",
        "sqlite:///x.db?mode=rwc",
        "",
        "x" * 5_000,
        "nonsense://x",
        "a\0b",
    ],
)
def test_what_names_no_database_is_bad_input(name: str) -> None:
    answer = tbpay("account list --json --database", name)

    assert (answer.code, answer.out) == (2, "")
    assert answer.error["exit"] == 2


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("mysql://ann:s3cret@db/shop", 2),
        ("postgresql://ann:s3cr@et@db/shop", 2),
        ("postgresql://ann:s3cret@127.0.0.1:1/shop", 6),
    ],
)
def test_a_password_in_the_setting_is_not_repeated(
    url: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TBPAY_DATABASE_URL", url)

    answer = tbpay("account list")

    assert (answer.code, answer.out) == (code, "")
    assert "s3cr" not in answer.err


# Which format


@pytest.mark.usefixtures("shop")
def test_the_format_is_named_before_the_group_or_after_the_verb_and_the_latter_wins() -> None:
    table, json, csv_text, tsv = (tbpay(f"account list -o {form}").out for form in FORMATS)
    assert len({table, json, csv_text, tsv}) == 4

    assert tbpay("account list").out == table
    assert tbpay("account list --json").out == json
    assert tbpay("account list --format json").out == json
    assert tbpay("account list --format=csv").out == csv_text
    assert tbpay("account list -otsv").out == tsv
    assert tbpay("--json account list").out == json
    assert tbpay("-o csv account list").out == csv_text
    assert tbpay("--json account list -o csv").out == csv_text
    assert tbpay("-o csv account list --json").out == json
    assert tbpay("--json account list --json -o json").out == json


FORMATS = ("table", "json", "csv", "tsv")


@pytest.mark.usefixtures("shop")
def test_the_environment_names_the_format_where_no_flag_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = {form: tbpay(f"account list -o {form}").out for form in FORMATS}

    for form in FORMATS:
        monkeypatch.setenv("TBPAY_FORMAT", form)
        assert tbpay("account list").out == expected[form]
        assert tbpay("account list -o tsv").out == expected["tsv"]

    monkeypatch.setenv("TBPAY_FORMAT", "json")
    assert tbpay("order show 99").error["code"] == Code.NOT_FOUND


@pytest.mark.parametrize(
    "flags", ["--json", "-o json", "-ojson", "--format json", "--format=json", "-o csv --json"]
)
@pytest.mark.usefixtures("shop")
def test_an_error_is_json_however_json_is_asked_for(flags: str) -> None:
    for words in (f"{flags} ordr", f"{flags} order show 99", f"order show 99 {flags}"):
        assert tbpay(words).error["exit"] in (2, 3)

    assert tbpay("order show -- --json").err.startswith("error: ")
    assert tbpay("order show 99 -o csv").err == "error: no order 99\n"


@pytest.mark.usefixtures("shop")
def test_of_two_formats_the_last_one_is_the_error_s_too() -> None:
    for flags in ("-o table", "-otable", "--format=csv", "--format tsv"):
        plain = tbpay(f"--json balance show 99 {flags}")
        as_json = tbpay(f"{flags} balance show 99 --json")

        assert (plain.code, plain.out, plain.err) == (3, "", "error: no account 99\n")
        assert (as_json.code, as_json.out) == (3, "")
        assert as_json.error["message"] == "no account 99"


@pytest.mark.usefixtures("shop")
def test_a_format_that_is_none_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for form in ("JSON", "yaml", "", "json "):
        assert tbpay("account list -o", form).code == 2

    monkeypatch.setenv("TBPAY_FORMAT", "yaml")
    answer = tbpay("account list")
    assert answer.code == 2
    assert answer.err == (
        "error: TBPAY_FORMAT: the format must be one of table, json, csv, tsv, not 'yaml'\n"
    )
    assert tbpay("account list --json").code == 0
    assert tbpay("--help").code == 0


@pytest.mark.parametrize("flags", ["--json -o csv", "-o table --json", "--all --limit 5"])
@pytest.mark.usefixtures("shop")
def test_flags_that_say_two_things_are_refused(flags: str) -> None:
    answer = tbpay(f"account list {flags}")

    assert (answer.code, answer.out) == (2, "")
    assert "exclude each other" in answer.err


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "1e3", "٣", "", " 5", "05"])
@pytest.mark.usefixtures("shop")
def test_a_limit_is_a_plain_number_up_to_a_thousand(limit: str) -> None:
    assert tbpay("account list --limit", limit).code == 2
    assert tbpay("account list --limit 1000").code == 0


def test_a_list_has_fifty_things_unless_told(db: Database) -> None:
    run(db, *(f"INSERT INTO accounts (email) VALUES ('{n}@x.org')" for n in range(60)))

    assert len(tbpay("account list --json").items) == 50
    assert len(tbpay("account list --json --all").items) == 60
    assert len(tbpay("account list --json --limit 1000").items) == 60


@pytest.mark.usefixtures("db")
def test_an_empty_list_is_an_answer() -> None:
    assert tbpay("order list") == tbpay("order list -o table")
    assert tbpay("order list").err == "note: none found\n"
    assert tbpay("order list").out == ""
    assert tbpay("order list --json").json == {"items": [], "next": None}
    assert tbpay("order list -o tsv").out.startswith("id\taccount_id\torder_type\tamount_cents\t")
    for name in ("account list", "balance show", "discount list", "order list", "audit list"):
        answer = tbpay(f"{name} -o csv")
        assert (answer.code, answer.err) == (0, "")
        assert len(list(csv.reader(answer.out.splitlines()))) == 1


# What is no command


def test_bare_tbpay_prints_the_help() -> None:
    bare = tbpay("")

    assert (bare.code, bare.err) == (0, "")
    assert bare.out == tbpay("--help").out
    assert "Usage: tbpay [OPTIONS] COMMAND" in bare.out


@pytest.mark.parametrize("group", ["account", "order", "balance", "discount", "pricing", "audit"])
def test_a_group_without_a_verb_prints_its_help_as_usage(group: str) -> None:
    answer = tbpay(group)

    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        tbpay(f"{group} --help").out + f"error: missing command\nhint: tbpay {group} --help\n"
    )
    assert tbpay(f"--json {group}").error["code"] == Code.USAGE


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ordr", "no such command 'ordr'. Did you mean 'order'?"),
        ("order lst", "no such command 'lst'. Did you mean 'list'?"),
        ("order list --statu x", "no such option: --statu"),
        ("order --json list", "no such option: --json"),
        ("order show 1 2", "got unexpected extra argument(s) (2)"),
        ("account show", "missing argument 'ACCOUNT'"),
        ("balance credit 1 --amount 5", "missing option '--reason'"),
        ("order list --limit", "option '--limit' requires an argument"),
        ("order list --json=yes", "option '--json' does not take a value"),
        ("order show", "give ID or --stripe-session"),
        ("order show 1 --stripe-session cs_1", "give ID or --stripe-session, not both"),
        ("order complete", "give ID or --stripe-session"),
        ("order fail", "give ID or --stripe-session"),
        ("order fail 2 4 --stripe-session cs_1", "give ID or --stripe-session, not both"),
        ("order refund", "missing argument 'ID'"),
        ("discount create NEW10", "missing --percent or --amount"),
        ("discount update LAUNCH10", "give --max-uses, --ends, --per-account or --min-amount"),
        ("discount show LAUNCH10 --limit 5", "--limit, --all and --cursor are for --uses"),
        ("discount show LAUNCH10 --all", "--limit, --all and --cursor are for --uses"),
        ("discount show LAUNCH10 --cursor x", "--limit, --all and --cursor are for --uses"),
        ("discount create --percent 5", "missing CODE"),
        ("discount create", "missing CODE and --percent or --amount"),
        (
            "discount create NEW10 --percent 5 --amount 5",
            "--percent and --amount exclude each other",
        ),
        ("db upgrade --sql --json", "a script is text: --sql has no other format"),
    ],
)
@pytest.mark.usefixtures("shop")
def test_a_command_line_that_says_too_little_or_too_much_is_usage(words: str, message: str) -> None:
    answer = tbpay(f"--json {words}")

    assert (answer.code, answer.out) == (2, "")
    assert answer.error["code"] == Code.USAGE
    assert answer.error["message"].startswith(message)
    assert answer.error["hint"].endswith("--help")


def test_the_version_is_one_line() -> None:
    version = f"tbpay {package.__version__}\n"

    assert tbpay("--version").out == version
    assert tbpay("--version --json order").out == version
    assert run_tbpay("--version").stdout == version


def test_an_argument_after_two_dashes_is_no_flag(shop: Database) -> None:
    answer = tbpay("balance credit --amount 5 --reason --help --json -- 1")

    assert answer.json["description"] == "--help"
    assert tbpay("order show -- --help").code == 2
    assert rows(shop, "SELECT count(*) FROM transactions") == [(3,)]


def test_the_module_is_the_command(shop: Database) -> None:
    done = run_tbpay("order", "show", "2", "--json")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == tbpay("order show 2 --json").out
    assert run_tbpay("order", "show", "99", "--database", shop.url).returncode == 3
