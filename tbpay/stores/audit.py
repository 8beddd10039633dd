"""The audit log: who changed what through the command line, and why."""

import json
import os
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from tbpay import database, schema, settings
from tbpay.database import atomically
from tbpay.errors import InvalidInputError
from tbpay.models import MAX_ACTION, AuditEntry, Page, moment, read_time, text, time_text
from tbpay.stores.paging import page, place

_log = schema.audit_log


class AuditStore:
    """Write and read the audit log."""

    def record(
        self, action: str, subject: str, *, reason: str | None = None, **detail: Any
    ) -> AuditEntry:
        """Write one row: this process's actor did this to that, for a reason.

        ``action`` is a command's two words, ``subject`` an entity and its name. ``detail`` is kept
        as JSON.
        """
        text(action, "action", MAX_ACTION)
        text(subject, "subject")
        if reason is not None:
            text(reason, "reason")
        values = {
            "at": time_text(datetime.now(UTC)),
            "actor": _actor(),
            "host": os.uname().nodename or "unknown",
            "action": action,
            "subject": subject,
            "reason": reason,
            "detail": json.dumps(detail, sort_keys=True),
        }
        return atomically(lambda: _record(values))

    def find(
        self,
        *,
        actor: str | None = None,
        subject: str | None = None,
        since: datetime | None = None,
        limit: int | None = 50,
        cursor: str | None = None,
    ) -> Page[AuditEntry]:
        """List rows, newest first: by exactly this actor, of exactly this subject, from a time."""
        wanted: list[sa.ColumnElement[bool]] = []
        if actor is not None:
            wanted.append(_log.c.actor == text(actor, "actor"))
        if subject is not None:
            wanted.append(_log.c.subject == text(subject, "subject"))
        if since is not None:
            wanted.append(_log.c.at >= time_text(moment(since, "since")))
        statement = sa.select(_log).where(*wanted)
        return page(_audit_entry, statement, _log.c.id, place("audit", limit, cursor))


audit_store = AuditStore()


def _actor() -> str:
    """The actor as the environment names it; a name that is no text is the operator's to mend."""
    try:
        return text(settings.actor(), "the actor")
    except InvalidInputError as error:
        raise InvalidInputError(f"TBPAY_ACTOR: {error.message}") from error


def _record(values: dict[str, Any]) -> AuditEntry:
    new = sa.insert(_log).returning(_log)
    return _audit_entry(database.connection().execute(new, values).one())


def _audit_entry(row: Any) -> AuditEntry:
    return AuditEntry(
        id=row.id,
        at=read_time(row.at),
        actor=row.actor,
        host=row.host,
        action=row.action,
        subject=row.subject,
        reason=row.reason,
        detail=row.detail,
    )
