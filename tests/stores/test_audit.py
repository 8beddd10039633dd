import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from databases import Database
from probes import refused

from tbpay import settings
from tbpay.database import atomically
from tbpay.errors import Code, InvalidInputError
from tbpay.models import AuditEntry
from tbpay.stores import audit_store, balance_store


@pytest.mark.usefixtures("db")
def test_a_row_says_who_did_what_where_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBPAY_ACTOR", "ann")

    entry = audit_store.record("order fail", "order 12", reason="double click", was="pending")

    assert entry == AuditEntry(
        id=1,
        at=entry.at,
        actor="ann",
        host=os.uname().nodename,
        action="order fail",
        subject="order 12",
        reason="double click",
        detail='{"was": "pending"}',
    )
    assert abs((datetime.now(UTC) - entry.at).total_seconds()) < 10
    assert audit_store.find().items == [entry]


@pytest.mark.usefixtures("db")
def test_a_row_needs_neither_a_reason_nor_detail() -> None:
    entry = audit_store.record("order fail", "order 12")

    assert (entry.actor, entry.reason, entry.detail) == (settings.actor(), None, "{}")


@pytest.mark.usefixtures("db")
def test_detail_keeps_hostile_text_as_json() -> None:
    hostile: dict[str, Any] = {"note": "\x1b[2J\0\ud800 =1+1 \u202e", "cents": 2**62, "none": None}

    entry = audit_store.record("order fail", "order 12", **hostile)

    assert entry.detail.isascii()
    assert json.loads(entry.detail) == hostile


@pytest.mark.parametrize("named", ["\u200b", "x" * 256, "ann\udcff"], ids=ascii)
def test_an_actor_that_is_no_text_is_refused(
    db: Database, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("TBPAY_ACTOR", named)

    with refused(db, InvalidInputError, Code.INVALID):
        audit_store.record("order fail", "order 12")


def test_an_action_has_50_characters_at_most(db: Database) -> None:
    assert audit_store.record("x" * 50, "order 12").action == "x" * 50
    with refused(db, InvalidInputError, Code.INVALID, "action takes 50 characters, not 51"):
        audit_store.record("x" * 51, "order 12")


def test_a_row_is_kept_with_its_unit_or_not_at_all(account: int) -> None:
    def change_and_fail() -> None:
        balance_store.add_credits(account, 5, "a gift")
        audit_store.record("balance credit", f"account {account}")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        atomically(change_and_fail)

    assert audit_store.find().items == []
    assert balance_store.get_balance(account) == 0


@pytest.mark.usefixtures("db")
def test_rows_are_found_by_actor_subject_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for actor, subject in (("ann", "order 1"), ("bob", "order 1"), ("ann", "order 12")):
        monkeypatch.setenv("TBPAY_ACTOR", actor)
        made.append(audit_store.record("order fail", subject))

    assert audit_store.find().items == made[::-1]
    assert audit_store.find(actor="ann").items == [made[2], made[0]]
    assert audit_store.find(actor="ANN").items == []
    assert audit_store.find(subject="order 1").items == [made[1], made[0]]
    assert audit_store.find(since=made[1].at).items == [made[2], made[1]]
    assert audit_store.find(since=made[2].at + timedelta(microseconds=1)).items == []
