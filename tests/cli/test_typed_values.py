"""What operators type: each value has one parser, which takes what is meant and nothing like it."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from command_line import Answer, tbpay
from databases import Database
from probes import dump, label, run
from test_every_command import COMMANDS, WORKS

from tbpay.models import time_text

T = TypeVar("T", bound=Callable[..., None])

LONG = "x" * 2**20


@pytest.fixture
def unchanged(shop: Database) -> Iterator[None]:
    """Whatever is refused leaves the database as it was."""
    before = dump(shop)
    yield
    assert dump(shop) == before


def refused_at_the_door(test: T) -> T:
    """Such a value never comes to a database, whichever it is."""
    pytest.mark.one_database(test)
    pytest.mark.usefixtures("unchanged")(test)
    return test


def assert_bad_input(answer: Answer) -> None:
    assert (answer.code, answer.out) == (2, "")
    assert all(line.isprintable() for line in answer.err.splitlines())
    assert len(answer.err) < 2_000
    assert "Traceback" not in answer.err


# Money

AMOUNTS = (
    "balance credit 1 --reason x --amount",
    "balance debit 1 --reason x --amount",
    "discount create NEW10 --amount",
    "discount create NEW10 --percent 5 --min-amount",
    "discount update LAUNCH10 --min-amount",
    "discount validate LAUNCH10 --amount",
    "order refund 1 --yes --amount",
    "order create 1 --type top_up --amount",
    "pricing list --amount",
    "pricing quote +447700900123 --amount",
)


@pytest.mark.parametrize(
    ("typed", "cents"),
    [
        ("10", 1000),
        ("10.5", 1050),
        ("10.50", 1050),
        ("0.01", 1),
        ("0.1", 10),
        ("19.99", 1999),
        ("007", 700),
        ("999999.99", 99_999_999),
    ],
)
@pytest.mark.usefixtures("shop")
def test_money_is_dollars_with_at_most_two_decimals(typed: str, cents: int) -> None:
    credited = tbpay("balance credit 1 --json --reason x --amount", typed)
    ordered = tbpay("order create 1 --json --type top_up --amount", typed)
    created = tbpay("discount create NEW10 --json --amount", typed)
    quoted = tbpay("pricing quote +447700900123 --json --amount", typed)

    assert credited.json["amount_cents"] == cents
    assert ordered.json["credit_cents"] == cents
    assert created.json["discount_value"] == cents
    assert quoted.json["amount_cents"] == cents


NOT_MONEY = (
    *("-5", "+5", "0", "0.00", "-0", "1e3", "1_000", "1,000", "1.000,00", "１０", "٣", "²", "½"),
    *(
        "10.555",
        "10.",
        ".5",
        "NaN",
        "inf",
        " 7",
        "7 ",
        "7\n",
        "",
        " ",
        "1000000",
        "0x10",
        "$5",
        "5USD",
    ),
    *("9" * 5_000, "1 0", "10\u200b", "−5"),
)


@pytest.mark.parametrize("words", AMOUNTS)
@refused_at_the_door
def test_what_is_only_like_money_is_bad_input_and_moves_nothing(words: str) -> None:
    for typed in NOT_MONEY:
        answer = tbpay(words, typed)

        assert_bad_input(answer)
        flag = words.split()[-1]
        assert answer.err.startswith(f"error: invalid value for '{flag}': '"), typed


@pytest.mark.usefixtures("shop")
def test_a_bound_may_be_zero() -> None:
    for words in ("account list --json --below", "balance show --json --below"):
        assert tbpay(words, "0").items == []
        assert len(tbpay(words, "0.01").items) == 1
        for typed in NOT_MONEY:
            assert tbpay(words, typed).code == (0 if typed in ("0", "0.00") else 2)


# Codes

CODES = (
    "discount show",
    "discount validate",
    "discount activate",
    "discount deactivate",
    "discount update --max-uses 5",
    "discount create --percent 10",
    "order create 1 --type top_up --amount 5 --code",
)


@pytest.mark.parametrize("words", CODES)
@refused_at_the_door
def test_what_is_only_like_a_code_is_bad_input(words: str) -> None:
    for typed in (
        *("ſave", "straße", "a", "AB", "A B", "", "   ", "SAVE\n", "\tSAVE", "SAVE%", "_SAVE"),
        *("ＳＡＶＥ", "ıSAVE", "САЛЕ", "A" * 51, "SAVE;", "../SAVE"),
    ):
        answer = tbpay(words, "--", typed) if words.startswith("discount") else tbpay(words, typed)

        assert_bad_input(answer)
        assert "is not a discount code" in answer.err


@pytest.mark.usefixtures("shop")
def test_a_code_is_read_in_any_case_and_kept_in_upper() -> None:
    assert tbpay("discount show --json", " launch10 ").json["code"] == "LAUNCH10"
    assert tbpay("discount create --percent 5 --json", "new-5_x").json["code"] == "NEW-5_X"


@pytest.mark.parametrize(
    ("flag", "wrong"),
    [
        ("--percent", ("0", "101", "10.5", "007", "-1", "1e1", "٥", "", "10%", "9" * 5_000)),
        ("--max-uses", ("0", "-1", "007", "2147483648", "1_0", "٥", "", str(2**64))),
        ("--per-account", ("0", "-1", "007", "2147483648", "1_0", "٥", "", str(2**64))),
        ("--stripe-coupon", ("", "a b", "é", "x" * 256, "a\n")),
    ],
)
@refused_at_the_door
def test_a_percentage_a_count_and_a_coupon_have_one_parser_each(
    flag: str, wrong: tuple[str, ...]
) -> None:
    for typed in wrong:
        assert_bad_input(tbpay(f"discount create NEW10 --percent 10 {flag}", typed))


# Ids and accounts

IDS = (
    "order show",
    "order complete",
    "order fail",
    "order fail 2",
    "order refund",
    "account show",
    "balance show",
    "balance show 1",
    "balance history",
    "balance credit --amount 5 --reason x",
    "balance debit --amount 5 --reason x",
    "order create --type top_up --amount 5",
)
NOT_IDS = ("0", "-1", "007", "1.0", "1e3", "1 ", "", "x", "١", "²", str(2**63), "9" * 5_000, "#1")


@pytest.mark.parametrize("words", IDS)
@refused_at_the_door
def test_what_is_only_like_an_id_is_bad_input(words: str) -> None:
    for typed in NOT_IDS:
        assert_bad_input(tbpay(words, typed))
        assert_bad_input(tbpay(f"{words} --", typed))


@pytest.mark.usefixtures("unchanged")
def test_the_highest_id_is_one_that_nothing_has() -> None:
    for words in IDS:
        answer = tbpay(f"{words} --json {2**63 - 1} {'--yes' if 'order f' in words else ''}")

        assert (answer.code, answer.error["code"]) == (3, "not_found"), words
        assert str(2**63 - 1) in answer.error["message"]


@pytest.mark.usefixtures("shop")
def test_an_account_is_named_by_its_id_or_its_email_address() -> None:
    for words in ("account show", "balance show", "balance history", "order list --account"):
        assert tbpay(f"{words} ann@example.org --json") == tbpay(f"{words} 1 --json")

    assert tbpay("balance credit bob@example.org --amount 5 --reason x --json").json[
        "account_id"
    ] == (2)
    assert tbpay("order create bob@example.org --type top_up --amount 5 --json").json[
        "account_id"
    ] == (2)
    assert tbpay("discount validate LAUNCH10 --account bob@example.org").code == 0


@pytest.mark.usefixtures("unchanged")
def test_an_email_address_that_no_account_has_is_not_found() -> None:
    for words in (*IDS[5:], "order list --account", "discount validate LAUNCH10 --account"):
        answer = tbpay(f"{words} eve@example.org --json")

        assert (answer.code, answer.out) == (3, "")
        assert answer.error["message"] == "no account with the email 'eve@example.org'"


@pytest.mark.parametrize(
    "typed", ["@", "a@", "@b", "a b@c", "a@b\n", "a@b@c", "a\u200b@b", "a@b\x1b"]
)
@refused_at_the_door
def test_what_is_only_like_an_email_address_is_bad_input(typed: str) -> None:
    assert_bad_input(tbpay("account create --email", typed))
    assert_bad_input(tbpay("account show", typed))


@pytest.mark.parametrize(
    ("flag", "wrong"),
    [
        ("--status", ("Pending", "open", "", "pending ")),
        ("--type", ("topup", "", "TOP_UP")),
        ("--payment-intent", ("", "a b", "é")),
    ],
)
@refused_at_the_door
def test_words_and_stripe_ids_are_taken_exactly(flag: str, wrong: tuple[str, ...]) -> None:
    for typed in wrong:
        assert_bad_input(tbpay(f"order list {flag}", typed))


@pytest.mark.parametrize(
    "number", ["447700900123", "+44", "+4407700900123", "+44/7700/900123", "", "+٤٤", "１"]
)
def test_what_is_only_like_a_phone_number_is_bad_input(number: str) -> None:
    assert_bad_input(tbpay("pricing quote", number))


@pytest.mark.parametrize("segments", ["0", "-1", "1.5", "1000001", "1e3", "٣", ""])
def test_what_is_only_like_a_number_of_segments_is_bad_input(segments: str) -> None:
    assert_bad_input(tbpay("pricing quote +447700900123 --segments", segments))


# Times


@pytest.fixture
def at_eight(shop: Database) -> Database:
    """Order 1 was created on 23 November 2026 at 08:13, the others a month before it."""
    run(
        shop,
        "UPDATE orders SET created_at = '2026-10-23T08:13:00.000000Z'",
        "UPDATE orders SET created_at = '2026-11-23T08:13:00.000000Z' WHERE id = 1",
        "UPDATE audit_log SET at = '2026-10-23T08:13:00.000000Z'",
        "UPDATE audit_log SET at = '2026-11-23T08:13:00.000000Z' WHERE id = 1",
    )
    return shop


@pytest.mark.parametrize(
    "since",
    [
        "2026-11-23",
        "2026-11-23T08:13:00Z",
        "2026-11-23T08:13",
        "2026-11-23 08:13:00",
        "2026-11-23T09:13:00+01:00",
        "2026-11-23T03:13-05:00",
        "2026-11-23t08:13:00z",
        "2026-11-23T08:12:59.999999Z",
        "2026-10-23T08:13:00.000001Z",
    ],
)
@pytest.mark.usefixtures("at_eight")
def test_an_interval_begins_at_its_first_moment_and_a_naive_time_is_utc(since: str) -> None:
    assert [order["id"] for order in tbpay("order list --json --since", since).items] == [1]
    assert [entry["id"] for entry in tbpay("audit list --json --since", since).items] == [1]


@pytest.mark.parametrize(
    ("until", "found"),
    [
        ("2026-11-23", [1]),
        ("2026-11-23T08:13:00.000001Z", [1]),
        ("2026-11-23T09:14+01:00", [1]),
        ("2026-11-23T08:13:00Z", []),
        ("2026-11-23T00:00", []),
        ("2026-11-22", []),
    ],
)
@pytest.mark.usefixtures("at_eight")
def test_an_interval_ends_before_its_end_and_a_bare_date_includes_its_day(
    until: str, found: list[int]
) -> None:
    answer = tbpay("order list --json --since 2026-11-01 --until", until)

    assert [order["id"] for order in answer.items] == found


@pytest.mark.parametrize(
    ("ago", "delta"),
    [
        ("30m", timedelta(minutes=30)),
        ("6h", timedelta(hours=6)),
        ("7d", timedelta(days=7)),
        ("90m", timedelta(minutes=90)),
        ("400d", timedelta(days=400)),
    ],
)
def test_a_time_may_be_so_long_ago(ago: str, delta: timedelta, shop: Database) -> None:
    just_within = time_text(datetime.now(UTC) - delta + timedelta(seconds=30))
    just_before = time_text(datetime.now(UTC) - delta - timedelta(seconds=30))
    run(
        shop,
        f"UPDATE orders SET created_at = '{just_before}'",
        f"UPDATE orders SET created_at = '{just_within}' WHERE id = 1",
    )

    assert [order["id"] for order in tbpay(f"order list --json --since {ago}").items] == [1]
    assert [order["id"] for order in tbpay(f"order list --json --until {ago}").items] == [4, 3, 2]


TIMES = (
    *("order list --since", "order list --until", "audit list --since"),
    *("discount create NEW10 --percent 5 --starts", "discount create NEW10 --percent 5 --ends"),
    "discount update LAUNCH10 --ends",
)


@refused_at_the_door
def test_what_is_only_like_a_time_is_bad_input() -> None:
    for typed in (
        *("now", "tomorrow", "yesterday", "7", "-7d", "+7d", "7w", "7D", "1.5h", "7 d", "7d ago"),
        *("2026-02-30", "2026-13-01", "2026-11-23T24:01", "2026-11-23T25:00", "10000-01-01"),
        *("0000-01-01", "2026-1-1", "20261123", "2026-W48-1", "2026-11-23T08:13:61Z", "٢٠٢٦-١١-٢٣"),
        *("2026-11-23T", "2026-11-23T08:13+25:00", "infinity", "999999d", "", " 2026-11-23"),
        *("2026-11-23\n", "1795421580", "23.11.2026", "0001-01-01T00:00+01:00"),
    ):
        for words in TIMES:
            answer = tbpay(words, typed)

            assert_bad_input(answer)
            assert "is not a time" in answer.err, typed


@pytest.mark.usefixtures("at_eight")
def test_the_last_day_that_there_is_ends_an_interval_too() -> None:
    for until in ("9999-12-31", "9999-12-30", "9999-12-31T23:59:59.999999Z"):
        answer = tbpay(f"order list --json --since 2026-11-01 --until {until}")

        assert answer.code == 0
        assert [order["id"] for order in answer.items] == [1]


@pytest.mark.usefixtures("at_eight")
def test_an_interval_that_ends_before_it_begins_is_bad_input() -> None:
    for interval in (
        "--since 2026-11-23 --until 2026-11-22",
        "--since 2026-11-23T08:13 --until 2026-11-23T08:13",
        "--since 6h --until 2d",
    ):
        answer = tbpay(f"order list {interval}")

        assert (answer.code, answer.out) == (2, "")
        assert "--until must be later than --since" in answer.err


@pytest.mark.usefixtures("shop")
def test_a_code_ends_with_the_day_that_is_named_and_starts_with_it() -> None:
    made = tbpay("discount create NEW10 --percent 5 --json --starts 2026-12-01 --ends 2026-12-24")
    hour = tbpay("discount update NEW10 --json --ends 2026-12-24T18:00+01:00")

    assert made.json["starts_at"] == "2026-12-01T00:00:00.000000Z"
    assert made.json["ends_at"] == "2026-12-25T00:00:00.000000Z"
    assert hour.json["ends_at"] == "2026-12-24T17:00:00.000000Z"


@pytest.mark.usefixtures("unchanged")
def test_a_code_that_ends_before_it_starts_is_bad_input() -> None:
    for window in (
        "--starts 2026-12-01 --ends 2026-11-29",
        "--starts 2026-12-01T08:13 --ends 2026-12-01T08:13",
    ):
        answer = tbpay(f"discount create NEW10 --percent 5 {window}")

        assert_bad_input(answer)
        assert "which is not after its start at 2026-12-01T" in answer.err


# Keys and policies

KEYS = (
    "balance credit 1 --amount 5 --reason x --key",
    "balance debit 1 --amount 5 --reason x --key",
    "order create 1 --type top_up --amount 5 --key",
    "order refund 1 --amount 5 --yes --key",
)


@pytest.mark.parametrize("words", KEYS)
@refused_at_the_door
def test_what_is_only_like_a_key_is_bad_input(words: str) -> None:
    for typed in ("", "1234567", "x" * 256, "schlüssel", "12345678\n", "1234567\x7f", " \t      "):
        answer = tbpay(words, typed)

        assert_bad_input(answer)
        assert "is not a key: 8 to 255 printable ASCII characters" in answer.err


@pytest.mark.parametrize("key", ["12345678", "x" * 255, " " * 8, "-- '\"$(id)%", "key with spaces"])
@pytest.mark.usefixtures("shop")
def test_a_key_is_kept_as_it_was_typed_once_among_lines_orders_and_refunds(key: str) -> None:
    for words in (KEYS[0], *KEYS[2:]):
        answer = tbpay(f"{words.removesuffix(' --key')} --json", f"--key={key}")

        assert answer.json["idempotency_key"] == key


@refused_at_the_door
def test_a_policy_is_one_of_three_words() -> None:
    for typed in ("", "Refuse", "none", "available ", "negative,available"):
        assert_bad_input(tbpay("order refund 1 --yes --policy", typed))


# Hostile arguments, in every place of every command

ESCAPE, BIDI, NOT_UTF8, SURROGATE = "\x1b[2J", "5\u202e", "caf\udce9", "\ud83d"
FREE_TEXT = {"--reason", "--search", "--actor", "--subject"}


@pytest.mark.parametrize("hostile", [ESCAPE, BIDI, NOT_UTF8, SURROGATE, LONG, "a\0b"], ids=label)
@pytest.mark.parametrize("name", COMMANDS)
@refused_at_the_door
def test_a_hostile_value_of_a_flag_is_bad_input(name: str, hostile: str) -> None:
    for flag in flags_with_a_value(name):
        if flag in FREE_TEXT and hostile in (ESCAPE, BIDI):
            continue
        if flag == "--database" and hostile not in (LONG, "a\0b"):
            # A file may be called that; this one is not there.
            continue
        if flag == "--text" and hostile != LONG:
            # A message may be any text; that it drives no terminal is told of the quote.
            continue
        answer = tbpay(f"{name} {WORKS[name]} {flag}", hostile)

        if flag == "--confirm":
            assert (answer.code, answer.err) == (9, "error: not confirmed: nothing was changed\n")
        elif (flag, name.split()[0]) == ("--database", "pricing"):
            assert answer.code in (0, 2)
        elif flag == "--text-file":
            # Again: a file may be called that, or no file can be.
            assert (answer.code, answer.out) in ((6, ""), (2, ""))
            assert all(line.isprintable() for line in answer.err.splitlines())
        else:
            assert_bad_input(answer)


def flags_with_a_value(name: str) -> list[str]:
    return [
        parameter.opts[-1]
        for parameter in COMMANDS[name].params
        if parameter.param_type_name == "option" and not parameter.is_flag
    ]


@pytest.mark.parametrize("hostile", [ESCAPE, BIDI, NOT_UTF8, SURROGATE, LONG, "a\0b"], ids=label)
@pytest.mark.parametrize("name", COMMANDS)
@refused_at_the_door
def test_a_hostile_argument_is_bad_input(name: str, hostile: str) -> None:
    takes_one = any(each.param_type_name == "argument" for each in COMMANDS[name].params)
    words = WORKS[name].split(" ", 1)[-1] if takes_one and " " in WORKS[name] else ""

    for answer in (tbpay(f"{name} {words}", hostile), tbpay(f"{name} {words} --", hostile)):
        if name == "pricing check":
            # A file may be called that, or no file can be; none is there.
            assert (answer.code, answer.out) in ((6, ""), (2, ""))
            assert all(line.isprintable() for line in answer.err.splitlines())
        else:
            assert_bad_input(answer)


@pytest.mark.parametrize("hostile", [ESCAPE, BIDI, NOT_UTF8, SURROGATE, LONG, "a\0b"], ids=label)
def test_a_hostile_name_of_a_command_or_flag_is_bad_input(hostile: str) -> None:
    for answer in (
        tbpay("", hostile),
        tbpay("order", hostile),
        tbpay("", f"--{hostile}"),
        tbpay("order list", f"--{hostile}"),
        tbpay("order list", f"-{hostile}"),
        tbpay("order list", f"--json={hostile}"),
        tbpay("order list -o", hostile),
        tbpay("", "--database", f"://{hostile}:@"),
    ):
        assert_bad_input(answer)


# By a pattern that goes back over it, such a text is read for hours.
@pytest.mark.timeout(60)
def test_a_url_of_a_million_colons_is_read_to_its_end() -> None:
    for url in ("x://" + ":" * 2**20, "x://" + "a@" * 2**19, "x://?" + "password" * 2**17):
        assert_bad_input(tbpay("order list --database", url))
        assert_bad_input(tbpay("order list", url))
