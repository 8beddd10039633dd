"""A command loads what it needs and nothing else: what is loaded is what is waited for."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import environment
from databases import Database

from tbpay.cli.root import GROUPS

DRIVER: dict[str, set[str]] = {"sqlite": set(), "postgresql": {"psycopg"}}
HEAVY = {"sqlalchemy", "alembic", "rich", "phonenumbers", "psycopg"}
GROUP_MODULES = {row[2] for row in GROUPS}

Loaded = Callable[[str], set[str]]


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    """Run a program; answer the names of the modules that it has loaded at its end."""
    names = tmp_path / "modules"
    at_exit = f"import atexit, pathlib, sys; names = pathlib.Path({str(names)!r}); atexit.register("
    at_exit += "lambda: names.write_text(' '.join(sys.modules)))\n"

    def run(program: str) -> set[str]:
        subprocess.run(
            [sys.executable, "-c", at_exit + program],
            check=True,
            capture_output=True,
            timeout=30,
            env=environment(),
        )
        return set(names.read_text().split())

    return run


def command(words: str) -> str:
    return f"sys.argv[1:] = {words.split()!r}; from tbpay.cli import main; main()"


def test_importing_every_command_loads_no_library_but_typer(loaded: Loaded) -> None:
    names = loaded(f"import tbpay.cli.root, {', '.join(GROUP_MODULES)}")

    assert "typer" in names
    assert not names & HEAVY


def test_the_version_loads_no_typer(loaded: Loaded) -> None:
    assert not loaded(command("--version")) & {"typer", *HEAVY}


def test_help_loads_no_group(loaded: Loaded) -> None:
    assert not loaded(command("--help")) & (GROUP_MODULES | HEAVY)


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_quote_loads_phonenumbers_and_no_database(form: str, loaded: Loaded) -> None:
    names = loaded(command(f"pricing quote +447700900123 -o {form}"))

    assert names & HEAVY == {"phonenumbers"}
    assert names & GROUP_MODULES == {"tbpay.cli.pricing"}


@pytest.mark.parametrize(
    "words", ["order list -o json", "order list -o csv", "order list -o tsv", "order show 2"]
)
def test_an_answer_from_the_database_loads_no_rich_and_no_alembic(
    words: str, loaded: Loaded, shop: Database
) -> None:
    names = loaded(command(words))

    assert names & HEAVY == {"sqlalchemy", *DRIVER[shop.dialect]}
    assert names & GROUP_MODULES == {"tbpay.cli.order"}
