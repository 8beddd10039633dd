import ast
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from probes import label

import tbpay
from tbpay.errors import InvalidInputError
from tbpay.models import MAX_AMOUNT_CENTS, MAX_BALANCE_CENTS
from tbpay.money import parse_cents, percentage, show_cents, whole_cents

PACKAGE = Path(tbpay.__file__).parent
NEAR_MONEY = [
    *(PACKAGE / name for name in ("money.py", "models.py", "sms_pricing.py", "schema.py")),
    *sorted((PACKAGE / "stores").glob("*.py")),
]


@pytest.mark.parametrize(
    ("text", "cents"),
    [
        ("10", 1_000),
        ("10.5", 1_050),
        ("10.50", 1_050),
        ("10.05", 1_005),
        ("0.01", 1),
        ("0.1", 10),
        ("19.99", 1_999),
        ("007", 700),
        ("999999", 99_999_900),
        ("999999.99", MAX_AMOUNT_CENTS),
    ],
)
def test_dollars_are_read_as_cents(text: str, cents: int) -> None:
    assert parse_cents(text) == cents


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", "0", "0.0", "0.00", "-5", "-0", "+5", "1e3", "1e400", "1_000", "1,000", "1,50"],
        *["10.555", "10.", ".5", "10.5.0", "NaN", "inf", "0x10", " 7", "7 ", "7\n", "7\0", "$7"],
        *["1000000", "999999.999", "9" * 5_000, "１０", "10．5", "٣", "²", "½", "7\udcff"],
    ],
    ids=label,
)
def test_what_is_no_amount_in_dollars_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        parse_cents(text)

    assert len(refusal.value.message) < 200


def test_zero_is_an_amount_only_where_it_is_allowed() -> None:
    assert parse_cents("0", lowest=0) == 0
    assert parse_cents("0.00", lowest=0) == 0
    with pytest.raises(InvalidInputError, match="-1"):
        parse_cents("-1", lowest=0)


@pytest.mark.parametrize(
    ("cents", "text"),
    [
        (0, "0.00"),
        (5, "0.05"),
        (-5, "-0.05"),
        (-100, "-1.00"),
        (123_450, "1234.50"),
        (-MAX_BALANCE_CENTS, "-999999999.99"),
    ],
)
def test_cents_are_shown_as_dollars(cents: int, text: str) -> None:
    assert show_cents(cents) == text


@given(cents=st.integers(1, MAX_AMOUNT_CENTS))
def test_what_is_shown_reads_back_as_the_same_cents(cents: int) -> None:
    assert parse_cents(show_cents(cents)) == cents


def test_fifteen_per_cent_of_9_99_are_1_50() -> None:
    assert percentage(999, 15) == 150


@given(amount_cents=st.integers(0, MAX_AMOUNT_CENTS), percent=st.integers(1, 100))
def test_a_percentage_is_rounded_half_up_to_the_cent(amount_cents: int, percent: int) -> None:
    exact = Decimal(amount_cents) * percent / 100

    assert percentage(amount_cents, percent) == exact.quantize(Decimal(1), ROUND_HALF_UP)
    assert 0 <= percentage(amount_cents, percent) <= amount_cents


@given(micros=st.integers(0, 10**15))
def test_micros_are_rounded_up_to_whole_cents(micros: int) -> None:
    assert 0 <= whole_cents(micros) * 10_000 - micros < 10_000


@pytest.mark.parametrize("path", NEAR_MONEY, ids=lambda path: path.name)
def test_no_float_comes_near_an_amount(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float | complex))
        assert not (isinstance(node, ast.Name) and node.id in {"float", "round"})
        assert not (isinstance(node, ast.Attribute) and node.attr in {"Float", "Double", "Numeric"})
        assert not isinstance(node, ast.Div)
