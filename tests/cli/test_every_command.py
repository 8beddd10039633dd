"""What holds for every command: the tree is walked, so that a new one cannot forget.

A new command finds itself here by failing: ``WORKS`` wants one working line of it.
"""

import base64
import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import Answer, tbpay
from conftest import ROOT, commands
from databases import Database
from probes import dump, rows, run

from tbpay.cli.output import Format
from tbpay.cli.root import GROUPS, app
from tbpay.errors import Code

# What each command can be asked for in the shop, its arguments first.
WORKS = {
    "account create": "--email new@example.org",
    "account list": "",
    "account show": "1",
    "audit list": "",
    "balance charge": "1 +447700900123 --segments 2 --key charge-of-1",
    "balance credit": "1 --amount 10.50 --reason goodwill --key credit-of-1",
    "balance debit": "1 --amount 10.50 --reason 'paid out' --key debit-of-1",
    "balance history": "1",
    "balance show": "",
    "db check": "",
    "db downgrade": "0002 --confirm 0002",
    "db status": "",
    "db upgrade": "",
    "discount activate": "RETIRED",
    "discount create": "NEW10 --percent 10 --max-uses 5",
    "discount deactivate": "LAUNCH10",
    "discount list": "",
    "discount show": "LAUNCH10 --uses",
    "discount update": "LAUNCH10 --max-uses 5 --per-account 2",
    "discount validate": "LAUNCH10 --amount 25 --account 1",
    "ledger verify": "",
    "order complete": "2 --payment-intent pi_1",
    "order create": "1 --type top_up --amount 25 --code LAUNCH10 --key order-of-1",
    "order fail": "2 4 --yes",
    "order list": "",
    "order refund": "1 --amount 5 --reason complaint --yes --key refund-of-1",
    "order show": "2",
    "pricing check": str(ROOT / "tests/rates.csv"),
    "pricing list": "",
    "pricing quote": "+447700900123",
}
# What is as it should be already: saying it again is done, and changes nothing.
DONE_ALREADY = {
    "discount activate": "LAUNCH10",
    "discount deactivate": "RETIRED",
    "discount update": "LAUNCH10 --max-uses 3",
    "order complete": "1",
    "order fail": "3",
}
COMMANDS = dict(commands())
CHANGING = [
    name
    for name, command in COMMANDS.items()
    if "dry_run" in {each.name for each in command.params}
]
REASONS = {
    "balance credit": "goodwill",
    "balance debit": "paid out",
    "order refund": "complaint",
}
KEYED = [name for name, command in COMMANDS.items() if "key" in {p.name for p in command.params}]
LISTS = [name for name, command in COMMANDS.items() if "cursor" in {p.name for p in command.params}]
NUMBER = re.compile(r'"(id|transaction_id)": \d+')
TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{6})?Z")

every_command = pytest.mark.parametrize("name", COMMANDS)
every_change = pytest.mark.parametrize("name", CHANGING)
every_key = pytest.mark.parametrize("name", KEYED)
every_list = pytest.mark.parametrize("name", LISTS)


def test_every_command_has_a_line_that_works() -> None:
    assert sorted(WORKS) == sorted(COMMANDS)


# Answers


@every_command
@pytest.mark.usefixtures("shop")
def test_every_command_answers_with_one_json_document_in_ascii_and_nothing_else(name: str) -> None:
    answer = tbpay(f"{name} {WORKS[name]} --json")

    assert answer.code == 0
    assert isinstance(answer.json, dict)
    assert "items" not in answer.json or list(answer.json) == ["items", "next"]
    assert answer.out.isascii()
    assert "\x1b" not in answer.out


@every_command
@pytest.mark.usefixtures("shop")
def test_every_command_answers_people_in_lines_that_end(name: str) -> None:
    answer = tbpay(f"{name} {WORKS[name]}")

    assert answer.code == 0
    assert answer.out.endswith("\n") or name == "db check"
    assert all(line.isprintable() and line == line.rstrip() for line in answer.out.splitlines())


@every_command
@pytest.mark.parametrize(("form", "mark"), [(Format.CSV, ","), (Format.TSV, "\t")])
@pytest.mark.usefixtures("shop")
def test_every_command_answers_with_a_header_and_rows_of_the_same_width(
    name: str, form: Format, mark: str
) -> None:
    answer = tbpay(f"{name} {WORKS[name]} -o {form}")

    header, *records = csv.reader(answer.out.splitlines(), delimiter=mark)
    assert answer.code == 0
    assert all(re.fullmatch("[a-z0-9_]+", each) for each in header)
    assert {len(record) for record in records} <= {len(header)}


@every_command
def test_every_command_has_the_flags_that_stand_everywhere(name: str) -> None:
    flags = {flag for parameter in COMMANDS[name].params for flag in parameter.opts}

    assert {"--database", "-o", "--format", "--json"} <= flags
    assert (name in CHANGING) == ("--yes" in flags) == ("--dry-run" in flags)
    assert (name in LISTS) == ("--limit" in flags) == ("--all" in flags)


def test_every_list_of_the_database_comes_in_pages() -> None:
    lists = {name for name in COMMANDS if name.endswith((" list", " history"))}

    assert lists - {"pricing list"} | {"balance show", "discount show"} == set(LISTS)


@every_list
@pytest.mark.usefixtures("shop")
def test_the_pages_of_a_list_are_the_list(name: str) -> None:
    tbpay("order create 2 --type top_up --amount 25 --code LAUNCH10")
    whole = tbpay(f"{name} {WORKS[name]} --all --json")

    items: list[dict[str, Any]] = []
    cursor = None
    while cursor or not items:
        going_on = f"--cursor {cursor}" if cursor else ""
        page = tbpay(f"{name} {WORKS[name]} --limit 1 --json {going_on}")
        assert len(page.items) == 1
        items += page.items
        cursor = page.json["next"]

    assert whole.json == {"items": items, "next": None}
    assert len(items) > 1


@every_list
@pytest.mark.usefixtures("shop")
def test_a_page_that_is_not_the_last_says_how_to_go_on(name: str) -> None:
    tbpay("order create 2 --type top_up --amount 25 --code LAUNCH10")
    answer = tbpay(f"{name} {WORKS[name]} --limit 1")

    assert re.fullmatch(r"note: more: repeat with --cursor [\w-]+, or --all\n", answer.err)


@every_list
@pytest.mark.usefixtures("shop")
def test_a_cursor_of_no_list_is_bad_input(name: str) -> None:
    another_lists = base64.urlsafe_b64encode(b"things:1").decode().rstrip("=")
    for cursor in (another_lists, "x", "", "ſ", "=", "a" * 10_000):
        answer = tbpay(f"{name} {WORKS[name]} --json --cursor", cursor)

        assert (answer.code, answer.out) == (2, "")
        assert answer.error["message"].endswith("is not a cursor of this list")


# Failures


@every_command
@pytest.mark.parametrize(
    "wrong", ["--nonsense", "-o yaml", "--format", "--database ''", "-- '' ''"]
)
@pytest.mark.usefixtures("shop")
def test_every_command_that_fails_says_so_on_stderr_alone(name: str, wrong: str) -> None:
    plain = tbpay(f"{name} {WORKS[name]} {wrong}")
    before = tbpay(f"--json {name} {WORKS[name]} {wrong}")
    after = tbpay(f"{name} --json {WORKS[name]} {wrong}")

    assert (plain.code, plain.out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\nhint: tbpay ([a-z]+ [a-z]+ )?--help\n", plain.err)
    for answer in (before, after):
        assert_is_error(answer, 2)
        assert answer.error["code"] == Code.USAGE


@every_command
@pytest.mark.usefixtures("shop")
def test_every_command_names_the_database_that_is_not_there(name: str, tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"

    answer = tbpay(f"{name} {WORKS[name]} --json --database {missing}")

    if name.startswith("pricing ") or name in ("db upgrade", "db status"):
        assert answer.code == 0
    else:
        assert_is_error(answer, 7)
        assert answer.error["message"] == f"no tbpay tables in {missing} (--database)"
        assert answer.error["hint"] == f"tbpay db upgrade --database {missing}"
    assert missing.exists() == (name == "db upgrade")


@every_command
def test_every_command_names_the_file_that_is_no_database(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    garbage = tmp_path / "notes.txt"
    garbage.write_text("this is not a database\n" * 100)
    monkeypatch.setenv("TBPAY_DATABASE_URL", str(garbage))

    answer = tbpay(f"{name} {WORKS[name]} --json")

    if name.startswith("pricing "):
        assert answer.code == 0
    else:
        assert_is_error(answer, 6)
        assert answer.error["message"].startswith(f"{garbage} (TBPAY_DATABASE_URL) is not")
    assert garbage.read_text() == "this is not a database\n" * 100


def assert_is_error(answer: Answer, code: int) -> None:
    assert (answer.code, answer.out) == (code, "")
    assert answer.error.keys() == {"code", "exit", "message", "hint"}
    assert answer.error["code"] in set(Code)
    assert answer.error["exit"] == code
    assert answer.error["message"].isprintable()
    assert answer.err.count('{"error"') == 1
    assert answer.err.isascii()


# Changes


@every_command
def test_a_command_that_changes_something_is_one_that_says_so(name: str, shop: Database) -> None:
    before = dump(shop)

    tbpay(f"{name} {WORKS[name]}")

    changed = dump(shop) != before
    assert changed == (name in CHANGING or name == "db downgrade")


@every_change
def test_a_dry_run_answers_the_same_and_changes_nothing(name: str, shop: Database) -> None:
    before = dump(shop)

    dry = tbpay(f"{name} {WORKS[name]} --dry-run --json")

    assert dry.code == 0
    assert dump(shop) == before
    assert "note: dry run: nothing was changed\n" in dry.err
    assert "to undo" not in dry.err
    real = tbpay(f"{name} {WORKS[name]} --json")
    assert steady(dry.out, shop) == steady(real.out, shop)


def steady(text: str, db: Database) -> str:
    """Take out when it was done, and the numbers that PostgreSQL gives out once for ever."""
    numbered = NUMBER.sub("", text) if db.dialect == "postgresql" else text
    return TIME.sub("", numbered)


@every_change
def test_a_dry_run_refuses_what_is_refused(name: str, shop: Database) -> None:
    run(shop, "UPDATE tbpay_alembic_version SET version_num = '0002'")

    assert tbpay(f"{name} {WORKS[name]} --dry-run").code == 7


@every_change
def test_a_change_writes_one_audit_row(
    name: str, shop: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TBPAY_ACTOR", "ann")
    before = rows(shop, "SELECT id FROM audit_log")

    answer = tbpay(f"{name} {WORKS[name]} --json")

    written = rows(shop, "SELECT actor, action, reason, subject, detail FROM audit_log ORDER BY id")
    assert answer.code == 0
    assert len(written) == len(before) + 1
    actor, action, reason, subject, detail = written[-1]
    assert (actor, action) == ("ann", name)
    assert reason == REASONS.get(name)
    assert subject.split()[0] in ("account", "order", "discount", "2")
    assert isinstance(json.loads(detail), dict)


AUDIT_LOG_TAKES_NOTHING = {
    "sqlite": [
        "CREATE TRIGGER full BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'full'); END"
    ],
    "postgresql": ["ALTER TABLE audit_log ADD CHECK (false) NOT VALID"],
}


@every_change
def test_a_change_and_its_audit_row_stand_or_fall_together(name: str, shop: Database) -> None:
    run(shop, *AUDIT_LOG_TAKES_NOTHING[shop.dialect])
    before = dump(shop)

    answer = tbpay(f"{name} {WORKS[name]}")

    assert (answer.code, answer.out) == (1, "")
    assert dump(shop) == before


@every_change
def test_a_change_that_is_made_already_is_done_and_leaves_no_trace(
    name: str, shop: Database
) -> None:
    if name not in DONE_ALREADY:
        assert name in KEYED or name.split()[1] == "create"
        return
    before = dump(shop)

    answer = tbpay(f"{name} {DONE_ALREADY[name]} --json")

    assert answer.code == 0
    assert answer.err == "note: nothing was changed: it was so already\n"
    assert dump(shop) == before


@every_key
def test_a_key_used_again_answers_the_first_result_and_leaves_no_trace(
    name: str, shop: Database
) -> None:
    first = tbpay(f"{name} {WORKS[name]} --json")
    before = dump(shop)

    second = tbpay(f"{name} {WORKS[name]} --json")

    # An order that was made before is the order as it is now.
    replayed = {} if name == "order create" else {"replayed": True}
    assert (second.code, second.json) == (0, first.json | replayed)
    assert "note: nothing was changed: it was" in second.err
    assert "to undo" not in second.err
    assert dump(shop) == before


@every_key
def test_a_key_used_for_something_else_is_a_conflict(name: str, shop: Database) -> None:
    tbpay(f"{name} {WORKS[name]}")
    before = dump(shop)

    other = WORKS[name].replace("--amount ", "--amount 1").replace("--segments ", "--segments 1")
    answer = tbpay(f"{name} {other} --json")

    assert_is_error(answer, 5)
    assert answer.error["code"] == Code.KEY_REUSED
    assert dump(shop) == before


@every_key
def test_where_no_key_is_given_one_is_made_and_said_before_the_work(
    name: str, shop: Database
) -> None:
    words = re.sub(" --(key|code) [^ ]+", "", WORKS[name].replace("10.50", "5"))

    refused = tbpay(f"{name} {words} --amount 0.30 --key short --json")
    first, again = tbpay(f"{name} {words} --json"), tbpay(f"{name} {words} --json")

    assert refused.code == 2
    keys = []
    for answer in (first, again):
        said = re.match(
            "note: should the outcome stay unknown, repeat with --key ([0-9a-f]{32})\n", answer.err
        )
        assert said is not None
        keys.append(said[1])
        assert answer.json["idempotency_key"] == said[1]
        assert answer.json.get("replayed", False) is False
    assert len(set(keys)) == 2
    before = dump(shop)
    dry = tbpay(f"{name} {words} --dry-run --json")
    assert dry.json["idempotency_key"] is None
    assert "--key" not in dry.err
    repeated = tbpay(f"{name} {words} --json --key {keys[0]}")
    assert repeated.json["id"] == first.json["id"]
    assert dump(shop) == before


def test_saying_it_again_writes_no_second_audit_row(shop: Database) -> None:
    for words in ("order complete 2", "order fail 4", "discount deactivate LAUNCH10"):
        first = tbpay(f"{words} --json")
        before = dump(shop)

        second = tbpay(f"{words} --json")

        assert (second.code, second.json) == (0, first.json)
        assert dump(shop) == before


# Help


@every_command
def test_every_command_explains_itself(name: str) -> None:
    long, short = tbpay(f"{name} --help"), tbpay(f"{name} -h")

    assert (long.code, long.err) == (0, "")
    assert long == short
    assert long.out.startswith(f"Usage: tbpay {name} [OPTIONS]")
    assert all(line.isprintable() for line in long.out.splitlines())


@every_command
def test_every_example_is_a_command_of_ours(name: str) -> None:
    examples = tbpay(f"{name} --help").out.partition("\nExamples:\n")[2].splitlines()

    assert examples
    for example in examples:
        assert_is_ours(example)
        assert shlex.split(example)[1:3] == name.split()


@pytest.mark.parametrize("group", ["", *(row[0] for row in GROUPS)])
def test_every_group_explains_itself_with_examples(group: str) -> None:
    long, short = tbpay(f"{group} --help"), tbpay(f"{group} -h")

    assert (long.code, long.err) == (0, "")
    assert long == short
    assert all(line.isprintable() for line in long.out.splitlines())
    examples = long.out.partition("\nExamples:\n")[2].splitlines()
    assert examples
    for example in examples:
        assert_is_ours(example)


def test_the_root_says_of_a_group_what_the_group_says_of_itself() -> None:
    root = tbpay("--help").out

    for name, line, _ in GROUPS:
        assert f"  {name:8}  {line}\n" in root
        assert f"\n\n  {line}\n\n" in tbpay(f"{name} --help").out


def test_a_group_says_of_a_command_what_the_command_says_of_itself() -> None:
    for name, command in COMMANDS.items():
        group, verb = name.split()

        listed = " ".join(tbpay(f"{group} --help").out.split())

        assert f"{verb} {command.get_short_help_str()}" in listed
        assert command.help.startswith(command.get_short_help_str())


def assert_is_ours(example: str) -> None:
    """Let the parser read an example to its end, and run nothing."""
    program, group, verb, *arguments = shlex.split(example)
    assert program == "tbpay"
    command = COMMANDS[f"{group} {verb}"]
    if arguments != ["--help"]:
        root = typer.main.get_command(app).make_context("tbpay", [group])
        command.make_context(verb, arguments, parent=root)
