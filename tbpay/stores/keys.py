"""Idempotency keys: each thing that one made is the record of it, with a hash of what was asked."""

import json
from typing import Any

import sqlalchemy as sa

from tbpay.errors import Code, ConflictError, excerpt


class TakenError(Exception):
    """Another unit has just written what this one was about to write."""


def key_columns(key: str | None, *asked: object) -> dict[str, str | None]:
    """Answer the two columns that record a key, and a hash of what it was used for."""
    return {
        "idempotency_key": key,
        "idempotency_hash": None if key is None else fingerprint(*asked),
    }


def fingerprint(*asked: object) -> str:
    """Hash an operation and what it was asked to do: never reason, actor, price or time."""
    import hashlib

    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def require_same(row: Any, asked_hash: str | None, used_for: str) -> None:
    """Raise ConflictError where the key of a row was used for something else than is asked now."""
    if row.idempotency_hash != asked_hash:
        raise ConflictError(
            f"the key {excerpt(row.idempotency_key)} was used for something else: {used_for}",
            code=Code.KEY_REUSED,
        )


def is_taken(error: sa.exc.IntegrityError, index: str) -> bool:
    """Tell whether a row was refused by this unique index, which PostgreSQL names.

    On SQLite there is one writer at a time: what it looked for before it wrote is not there.
    """
    named = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    return bool(named == index)
