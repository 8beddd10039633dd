"""What workers write down: what they are about to do, and what they were told about it.

Each line is appended by one write, the first before the call, the second after its answer. Of a
worker that is killed in between nobody knows whether the call was done: it may have been.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

Asked = dict[str, Any]
Answer = dict[str, Any]


class Outcome(StrEnum):
    """What can be said of a call from outside."""

    DONE = "done"
    NOT_DONE = "not done"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Call:
    """One call of a store: what was asked, by a name that is its own, and what came of it."""

    name: str
    verb: str
    asked: Asked
    outcome: Outcome = Outcome.UNKNOWN
    answer: Answer = field(default_factory=dict)

    @property
    def deed(self) -> str:
        """What is to be done once, however many calls there are for it."""
        if "charge" in self.asked:
            return f"charge {self.asked['charge']}, given back"
        return self.asked.get("key") or self.asked.get("stripe") or self.name

    @property
    def may_be_done(self) -> bool:
        return self.outcome is not Outcome.NOT_DONE


class Journal:
    """The file of one worker, to which it alone appends."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def intend(self, call: Call) -> None:
        self._append([call.name, call.verb, call.asked])

    def note(self, call: Call) -> None:
        self._append([call.name, call.outcome, call.answer])

    def _append(self, entry: list[Any]) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")


def read(path: Path) -> list[Call]:
    """Answer the calls of a worker, in its order; none of one that was killed before its first."""
    return list(_calls(path).values()) if path.exists() else []


def _calls(path: Path) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    for name, word, what in _entries(path):
        if name in calls:
            calls[name] = replace(calls[name], outcome=Outcome(word), answer=what)
        else:
            calls[name] = Call(name, word, what)
    return calls


def _entries(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for line in path.read_bytes().splitlines(keepends=True):
        # What has no end was being written when its worker was killed.
        if line.endswith(b"\n"):
            name, word, what = json.loads(line)
            yield name, word, what
