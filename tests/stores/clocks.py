"""A clock of the stores that can be set: there is no other way to be at a moment on purpose."""

from datetime import UTC, datetime, timedelta, tzinfo

import pytest

from tbpay.stores import audit, discounts, orders, redemptions, refunds, trail


class Clock:
    """The stores' clock. It goes on as the machine's does until it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._stands_at: datetime | None = None
        self._ahead = timedelta()
        told = self

        class ToldDatetime(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                assert tz is UTC
                return told.now()

        for store in (audit, discounts, orders, redemptions, refunds, trail):
            monkeypatch.setattr(store, "datetime", ToldDatetime)

    def now(self) -> datetime:
        return self._stands_at or datetime.now(UTC) + self._ahead

    def stand(self, at: datetime) -> None:
        """Let every moment be this one."""
        self._stands_at = at

    def set(self, at: datetime) -> None:
        """Let it be this moment now, and go on from there."""
        self._stands_at, self._ahead = None, at - datetime.now(UTC)
