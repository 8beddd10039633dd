"""What a segment sells for by the owner's table, worked out apart from the program; and phones."""

from fractions import Fraction
from pathlib import Path

import pytest

from tbpay.models import Transaction
from tbpay.stores import balance_store

TWILIO = {
    "US": Fraction("0.0113"),
    "CA": Fraction("0.0170"),
    "GB": Fraction("0.0524"),
    "FR": Fraction("0.0798"),
    "IT": Fraction("0.0927"),
    "CH": Fraction("0.0725"),
    "NZ": Fraction("0.1050"),
    "ZA": Fraction("0.1089"),
}
"""Dollars for a segment."""

PRICES = {country: twilio / Fraction("0.20") for country, twilio in TWILIO.items()}
"""What a customer pays for it, of which 80 per cent are earned."""

PHONES = {
    "US": "+12015550123",
    "CA": "+14162345678",
    "GB": "+447400123456",
    "FR": "+33612345678",
    "IT": "+393123456789",
    "CH": "+41781234567",
    "NZ": "+64211234567",
    "ZA": "+27711234567",
}
GERMAN, JERSEY = "+4915123456789", "+447797712345"


def columns(dollars: Fraction) -> tuple[int, int]:
    """Answer the two columns of a balance: cents rounded down, and the micros on top of them."""
    balance_cents = dollars * 100 // 1
    return balance_cents, int((dollars * 100 - balance_cents) * 10_000)


def stands_at(account: int) -> tuple[int, int]:
    """Answer a balance in its two columns."""
    balance = balance_store.get_or_create(account)
    return balance.balance_cents, balance.subcent_micros


def moved_to(line: Transaction) -> tuple[int, int, int]:
    """Answer by how much the whole cents moved, and the two columns that the balance came to."""
    assert line.sms_charge is not None
    return line.amount_cents, line.balance_after_cents, line.sms_charge.subcent_after_micros


def sell_at(monkeypatch: pytest.MonkeyPatch, folder: Path, *rates: str) -> None:
    """Put other rates in force: each is a country, Twilio's price and the customer's or none."""
    header = "country_code,twilio_usd_per_segment,customer_usd_per_segment"
    rows = [f"{header},country_name,effective_from", *(f"{it},Some,2020-01-01" for it in rates)]
    (folder / "rates.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setenv("TBPAY_RATES_FILE", str(folder / "rates.csv"))
