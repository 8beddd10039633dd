"""Whether the guards are in place, word for word, and nobody else's work stands on our tables."""

import re
from collections.abc import Iterator

import sqlalchemy as sa

from tbpay.guards import GUARD_FUNCTIONS, GUARDS
from tbpay.schema import METADATA

OURS = tuple(name for name in METADATA.tables if name != "accounts")

_OIDS = ", ".join(f"to_regclass('{name}')" for name in OURS)

# Triggers of the server's own keep a foreign key; they are worth a word when they are off.
_TRIGGERS = f"""
    SELECT relname AS table, tgname AS name, pg_get_triggerdef(pg_trigger.oid, TRUE) AS text,
        tgisinternal AS is_internal, tgenabled = 'A' AS is_always_on, proname AS function,
        lanname = 'plpgsql' AND NOT prosecdef AND pronamespace = relnamespace
            AND proconfig = ARRAY['search_path=' || quote_ident(nspname) || ', pg_temp'] AS is_safe,
        prosrc AS body
    FROM pg_trigger
        JOIN pg_class ON pg_class.oid = tgrelid
        JOIN pg_proc ON pg_proc.oid = tgfoid
        JOIN pg_language ON pg_language.oid = prolang
        JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE tgrelid IN ({_OIDS}) AND (NOT tgisinternal OR tgenabled = 'D')
    ORDER BY relname, tgname
"""  # noqa: S608 - our own names

# A view is a rule by the name of _RETURN.
_VIEWS_AND_RULES = f"""
    SELECT DISTINCT ours.relname, CASE rulename WHEN '_RETURN' THEN 'view' ELSE 'rule' END,
        CASE rulename WHEN '_RETURN' THEN theirs.relname ELSE rulename END
    FROM pg_depend
        JOIN pg_class AS ours ON ours.oid = refobjid
        JOIN pg_rewrite ON pg_rewrite.oid = objid
        JOIN pg_class AS theirs ON theirs.oid = ev_class
    WHERE classid = 'pg_rewrite'::regclass AND refclassid = 'pg_class'::regclass
        AND refobjid IN ({_OIDS})
    ORDER BY 1, 2, 3
"""  # noqa: S608 - our own names


def differences(connection: sa.Connection) -> list[tuple[str, str]]:
    """Answer what is not as ``tbpay.guards`` has it: the table, and what is wrong there.

    A guard that is missing, switched off or worded otherwise; a trigger, view or rule of somebody
    else's on a table of ours. ``accounts`` is not ours to guard.
    """
    if connection.dialect.name == "sqlite":
        return list(_in_sqlite(connection))
    return [*_triggers_in_postgresql(connection), *_others_in_postgresql(connection)]


def _in_sqlite(connection: sa.Connection) -> Iterator[tuple[str, str]]:
    found = {
        name: (kind, table.lower(), text)
        for kind, name, table, text in connection.exec_driver_sql(
            "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE type IN ('trigger', 'view')"
        )
    }
    guards = GUARDS["sqlite"]
    for name, expected in guards.items():
        if name not in found:
            yield _guarded(expected), f"trigger {name} is missing"
        elif found[name][2].split() != expected.split():
            yield _guarded(expected), f"trigger {name} is not made as expected"
    for name, (kind, on, text) in found.items():
        if kind == "trigger" and on in OURS and name not in guards:
            yield on, f"trigger {name} is not expected"
        if kind == "view":
            for table in OURS:
                if re.search(rf"\b{table}\b", text, re.IGNORECASE):
                    yield table, f"view {name} is not expected"


def _triggers_in_postgresql(connection: sa.Connection) -> Iterator[tuple[str, str]]:
    found = {(row.table, row.name): row for row in connection.exec_driver_sql(_TRIGGERS)}
    guards = {(_guarded(text), name): text for name, text in GUARDS["postgresql"].items()}
    for (table, name), expected in guards.items():
        if (there := found.get((table, name))) is None:
            yield table, f"trigger {name} is missing"
        elif _trigger(there.text) != _trigger(expected):
            yield table, f"trigger {name} is not made as expected"
        elif not there.is_always_on:
            yield table, f"trigger {name} is not always on"
    for (table, name), there in found.items():
        if not there.is_internal and (table, name) not in guards:
            yield table, f"trigger {name} is not expected"
    for table in sorted({there.table for there in found.values() if there.is_internal}):
        yield table, "its foreign keys are switched off"
    functions = {row.function: row for place, row in found.items() if place in guards}
    for name, row in functions.items():
        body = GUARD_FUNCTIONS.get(name)
        if not row.is_safe or body is None or row.body.split() != body.split():
            yield row.table, f"function {name} is not made as expected"


def _others_in_postgresql(connection: sa.Connection) -> Iterator[tuple[str, str]]:
    for table, kind, name in connection.exec_driver_sql(_VIEWS_AND_RULES):
        yield table, f"{kind} {name} is not expected"


def _guarded(text: str) -> str:
    """Answer the table that a trigger stands on."""
    words = text.split()
    return words[words.index("ON") + 1]


def _trigger(text: str) -> object:
    """Take a CREATE TRIGGER apart as far as PostgreSQL says its events in another order."""
    head, _, rest = " ".join(text.split()).partition(" ON ")
    *before, events = re.split(" (BEFORE|AFTER) ", head, maxsplit=1)
    return before, sorted(events.split(" OR ")), rest
