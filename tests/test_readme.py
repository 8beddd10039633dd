"""The README tells the truth: its commands run and print what it shows."""

import ast
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from conftest import ROOT
from databases import Database

from tbpay.reports.verify import verify
from tbpay.stores import account_store, balance_store

README = (ROOT / "README.md").read_text()
KEY = re.compile(r"\b[0-9a-f]{32}\b")
TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{6})?Z")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_every_command_prints_what_the_readme_shows(tmp_path: Path) -> None:
    home = tmp_path / "ann"
    home.mkdir()
    environment = {
        "HOME": str(home),
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "TBPAY_ACTOR": "ann",
    }
    for block in blocks("console"):
        shown = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
        for command, expected in zip(shown[::2], shown[1::2], strict=True):
            done = subprocess.run(  # noqa: S602 - a reader's shell runs them too
                command,
                check=False,
                shell=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                env=environment,
                cwd=home,
                timeout=60,
            )
            printed = done.stdout.replace(str(home), "/home/ann")
            assert steady(printed) == steady(expected), command


def steady(text: str) -> str:
    """Put one time for every time, and one key for every key that was made."""
    return KEY.sub("0" * 32, TIME.sub("2026-11-23T08:13:00Z", text)).strip()


def test_the_web_applications_example_runs(db: Database) -> None:
    account_store.create("ann@example.com")
    [example] = [block for block in blocks("python") if "order_store" in block]
    assert example.count('"app.db"') == 1

    named = example.replace('"app.db"', repr(db.url))
    exec(compile(named, "README.md", "exec"), {})  # noqa: S102 - the reader's code is ours

    assert balance_store.get_balance(1) == 150
    assert verify().differences == []


def test_autogenerate_of_the_web_application_leaves_our_tables_alone(db: Database) -> None:
    [snippet] = [block for block in blocks("python") if "include_name" in block]
    names: dict[str, object] = {}
    exec(compile(ast.parse(snippet), "README.md", "exec"), names)  # noqa: S102
    theirs = sa.MetaData()
    sa.Table(
        "accounts",
        theirs,
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("email", sa.String(255), unique=True),
        sa.Column("created_at", sa.String(50)),
    )
    engine = db.engine()

    def differences(**options: object) -> list[object]:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts=options)
            return list(compare_metadata(context, theirs))

    assert differences() != []
    assert differences(include_name=names["include_name"]) == []
    engine.dispose()
