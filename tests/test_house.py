"""The house stands: its floors, its top level, its doors, and what the README says of them."""

import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

from conftest import ROOT, commands

import tbpay
from tbpay.cli.exits import EXIT_OF, Exit
from tbpay.errors import Code

README = (ROOT / "README.md").read_text()
TOP_LEVEL = {"tbpay", "alembic", "alembic.ini", "tests", "pyproject.toml", "README.md"}


def test_imports_point_downwards() -> None:
    checked = subprocess.run(
        [Path(sysconfig.get_path("scripts")) / "lint-imports", "--no-cache"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert checked.returncode == 0, checked.stdout


def test_nothing_maps_objects_to_tables() -> None:
    source = "".join(path.read_text() for path in (ROOT / "tbpay").rglob("*.py"))

    assert "sqlalchemy.orm" not in source


def test_the_top_level_is_fixed() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], check=False, cwd=ROOT, capture_output=True, text=True
    )
    names = tracked.stdout.split() or [path.name for path in ROOT.iterdir()]

    assert {name.split("/")[0] for name in names if not name.startswith(".")} == TOP_LEVEL


def test_the_migrations_folder_does_not_hide_the_library() -> None:
    assert not list((ROOT / "alembic").rglob("__init__.py"))


def test_every_command_has_a_line_and_an_example() -> None:
    for name, command in commands():
        assert command.help, name
        assert f"tbpay {name}" in command.epilog, name


def test_every_command_stands_in_the_readme_and_no_other() -> None:
    [section] = re.findall(r"^## Commands\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    listed = re.findall(r"^\| `tbpay ([a-z]+ [a-z]+)", section, re.MULTILINE)

    assert sorted(listed) == sorted(name for name, _ in commands())


def test_every_option_stands_in_the_readme() -> None:
    for name, command in commands():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.opts[-1] in README, (name, parameter.opts)


def test_every_exit_code_stands_in_the_readme_and_no_other() -> None:
    listed = re.findall(r"^\| ([0-9]+) \|", README, re.MULTILINE)

    assert [int(code) for code in listed] == list(Exit)
    assert set(EXIT_OF.values()) <= set(Exit)


def test_every_error_code_stands_in_the_readme() -> None:
    [listed] = re.findall(
        r"^The `code` of an error in JSON is one of (.*)\.$", README, re.MULTILINE
    )

    assert listed == ", ".join(f"`{code}`" for code in Code)


def test_every_setting_that_is_read_stands_in_the_readme() -> None:
    source = "".join(path.read_text() for path in (ROOT / "tbpay").rglob("*.py"))
    read = set(re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", source)) - {"TERM"}

    assert read == set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE)) | {"TYPER_USE_RICH"}


def test_the_wheel_holds_the_migrations(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        check=False,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout

    [wheel] = tmp_path.glob(f"tbpay-{tbpay.__version__}-*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if "/_migrations/" in name}
    shipped = {
        f"tbpay/_migrations/{path.relative_to(ROOT / 'alembic')}"
        for path in (ROOT / "alembic").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert held == shipped
