"""SMS charges: whether each moved its balance by just what it cost, to the micro."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from tbpay import schema
from tbpay.models import (
    MAX_COST_MICROS,
    MAX_SEGMENTS,
    MAX_SUBCENT_MICROS,
    TransactionType,
)
from tbpay.money import MICROS_PER_CENT
from tbpay.reports.verify.looking import (
    Condition,
    Difference,
    Scope,
    Subject,
    amount,
    unless,
    within,
)

_charges = schema.sms_charges
_lines = schema.transactions

_earlier = _charges.alias("earlier")
_given = _charges.alias("given")

_RANGES = {
    "segments": (1, MAX_SEGMENTS),
    "rate_micros": (1, MAX_COST_MICROS),
    "cost_micros": (1, MAX_COST_MICROS),
    "subcent_after_micros": (0, MAX_SUBCENT_MICROS),
}

# What gives a charge back repeats of it, and what stands for nothing there.
_GIVEN = {
    "phone": "",
    "country_code": "",
    "segments": 0,
    "rate_micros": 0,
    "cost_micros": 0,
    "twilio_cost_micros": 0,
}


def count(scope: Scope) -> dict[str, int]:
    """Count what there is to look at."""
    return {"charges": scope.count(_charges)}


def differences(scope: Scope) -> Iterator[Difference]:
    """Answer what is wrong with charges and with what gives them back."""
    for charges in scope.steps(_charges.c.transaction_id):
        for charge in scope.rows(_wrong(charges)):
            yield from _of_charge(charge)
    for field in ("transaction_id", "gives_back_id"):
        for charge in scope.rows(_doubled(scope, _charges.c[field])):
            this = Subject("charges", charge.account_id, f"charge of line {charge.transaction_id}")
            yield this.differs(field, charge.named, "named once")


def _doubled(scope: Scope, column: sa.Column[Any]) -> sa.Select[Any]:
    """Select the lines that several charges name, by the last of these."""
    return (
        sa.select(
            sa.func.max(_charges.c.account_id).label("account_id"),
            sa.func.max(_charges.c.transaction_id).label("transaction_id"),
            column.label("named"),
        )
        .where(scope.owns(_charges), column.is_not(None))
        .group_by(column)
        .having(sa.func.count() > 1)
    )


def subcent_after(account_id: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Answer the micros above its cents that an account has by its last charge, 0 before one."""
    last = (
        sa.select(_earlier.c.subcent_after_micros)
        .where(_earlier.c.account_id == account_id)
        .order_by(_earlier.c.transaction_id.desc())
        .limit(1)
    )
    return sa.func.coalesce(last.scalar_subquery(), 0)


def _wrong(charges: Condition) -> sa.Select[Any]:
    """Select the charges that are not what their lines and those before them say."""
    before = (
        sa.select(_earlier.c.subcent_after_micros)
        .where(
            _earlier.c.account_id == _charges.c.account_id,
            _earlier.c.transaction_id < _charges.c.transaction_id,
        )
        .order_by(_earlier.c.transaction_id.desc())
        .limit(1)
        .scalar_subquery()
    )
    subcent_before_micros = sa.func.coalesce(before, 0)
    ranged = {name: within(_charges.c[name], *bounds) for name, bounds in _RANGES.items()}
    is_charge = _charges.c.gives_back_id.is_(None)
    added_micros = sa.case((is_charge, 1), else_=-1) * (
        ranged["subcent_after_micros"] - within(subcent_before_micros, 0, MAX_SUBCENT_MICROS)
    )
    sound = sa.and_(
        ranged["cost_micros"] == ranged["rate_micros"] * ranged["segments"],
        sa.or_(
            _charges.c.twilio_cost_micros.is_(None),
            within(_charges.c.twilio_cost_micros, 1, MAX_COST_MICROS) % ranged["segments"] == 0,
        ),
        _lines.c.account_id == _charges.c.account_id,
        _lines.c.transaction_type
        == sa.case((is_charge, TransactionType.DEBIT), else_=TransactionType.CREDIT),
        amount(_lines.c.amount_cents) * MICROS_PER_CENT == ranged["cost_micros"] + added_micros,
        sa.or_(
            is_charge,
            sa.and_(
                _given.c.account_id == _charges.c.account_id,
                _given.c.gives_back_id.is_(None),
                *(
                    sa.func.coalesce(_given.c[name], none)
                    == sa.func.coalesce(_charges.c[name], none)
                    for name, none in _GIVEN.items()
                ),
            ),
        ),
    )
    return (
        sa.select(
            _charges,
            _lines.c.account_id.label("line_account_id"),
            _lines.c.transaction_type,
            _lines.c.amount_cents,
            subcent_before_micros.label("subcent_before_micros"),
            _given.c.account_id.label("given_account_id"),
            _given.c.gives_back_id.label("given_gives_back_id"),
            *(_given.c[name].label(f"given_{name}") for name in _GIVEN),
        )
        .select_from(
            _charges.outerjoin(_lines, _lines.c.id == _charges.c.transaction_id).outerjoin(
                _given, _given.c.transaction_id == _charges.c.gives_back_id
            )
        )
        .where(charges, unless(sound))
        .order_by(_charges.c.transaction_id)
    )


def _of_charge(charge: Any) -> Iterator[Difference]:
    this = Subject("charges", charge.account_id, f"charge of line {charge.transaction_id}")
    misfits = [
        name for name, bounds in _RANGES.items() if not _is_within(getattr(charge, name), *bounds)
    ]
    for name in misfits:
        lowest, highest = _RANGES[name]
        yield this.differs(name, getattr(charge, name), f"{lowest} to {highest}")
    if charge.line_account_id is None:
        yield this.differs("transaction_id", charge.transaction_id, "a line")
        return
    yield from this.compared("account_id", charge.account_id, charge.line_account_id)
    is_charge = charge.gives_back_id is None
    kind = TransactionType.DEBIT if is_charge else TransactionType.CREDIT
    yield from this.compared("transaction_type", charge.transaction_type, kind)
    if not is_charge:
        yield from _of_given(this, charge)
    if misfits:
        return
    yield from this.compared(
        "cost_micros", charge.cost_micros, charge.rate_micros * charge.segments
    )
    twilio_micros = charge.twilio_cost_micros
    if twilio_micros is not None and (
        not _is_within(twilio_micros, 1, MAX_COST_MICROS) or twilio_micros % charge.segments
    ):
        yield this.differs("twilio_cost_micros", twilio_micros, "so much for each segment")
    # What it left by the line's whole cents, against what it says it left.
    sign = 1 if is_charge else -1
    if type(charge.amount_cents) is int and type(charge.subcent_before_micros) is int:
        after_micros = charge.subcent_before_micros + sign * (
            charge.amount_cents * MICROS_PER_CENT - charge.cost_micros
        )
        yield from this.compared("subcent_after_micros", charge.subcent_after_micros, after_micros)


def _of_given(this: Subject, charge: Any) -> Iterator[Difference]:
    """Answer what is wrong between what gives a charge back and that charge."""
    is_own = charge.given_account_id == charge.account_id and charge.given_gives_back_id is None
    if charge.given_account_id is None or not is_own:
        yield this.differs("gives_back_id", charge.gives_back_id, "a charge of the same account")
    else:
        for name in _GIVEN:
            yield from this.compared(name, getattr(charge, name), getattr(charge, f"given_{name}"))


def _is_within(value: object, lowest: int, highest: int) -> bool:
    return type(value) is int and lowest <= value <= highest
