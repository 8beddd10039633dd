import os
import pwd

import pytest
from probes import together

from tbpay import settings
from tbpay.settings import Settings


def test_an_environment_that_says_nothing_gives_no_settings() -> None:
    assert settings.from_environment() == Settings(None, None, None, debug=False)


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "FORMAT", "ACTOR", "DEBUG"):
        monkeypatch.setenv(f"TBPAY_{name}", "")

    assert settings.from_environment() == Settings(None, None, None, debug=False)


def test_the_environment_gives_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBPAY_DATABASE_URL", "/srv/tbpay.db")
    monkeypatch.setenv("TBPAY_FORMAT", "json")
    monkeypatch.setenv("TBPAY_ACTOR", "ann")
    monkeypatch.setenv("TBPAY_DEBUG", "1")

    assert settings.from_environment() == Settings("/srv/tbpay.db", "json", "ann", debug=True)


@pytest.mark.parametrize(("value", "debug"), [("0", False), ("1", True), ("yes", True)])
def test_debug_is_on_unless_it_is_0(
    monkeypatch: pytest.MonkeyPatch, value: str, debug: bool
) -> None:
    monkeypatch.setenv("TBPAY_DEBUG", value)

    assert settings.from_environment().debug is debug


def test_the_actor_is_who_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBPAY_ACTOR", "ann")

    assert settings.actor() == "ann"


def test_an_unnamed_actor_is_the_login_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "somebody-else")

    assert settings.actor() == pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.skipif(os.getuid() != 0, reason="not run: only root can become a user without a name")
def test_an_actor_without_a_login_name_is_a_number() -> None:
    nobodys = max(entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid < 2**31 - 1) + 1

    def say_actor(_: int) -> str:
        os.setuid(nobodys)
        return settings.actor()

    assert together(say_actor, processes=1) == [f"uid:{nobodys}"]
