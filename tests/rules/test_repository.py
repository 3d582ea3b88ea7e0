"""The rules that the project sets itself, where a machine can hold them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from meshtrain.spec.settings import MasterSettings, WorkerSettings

ROOT = Path(__file__).parents[2]
PACKAGES = ("meshtrain", "daemon/meshtrain_daemon", "tui/meshtrain_tui")
FILE_LINES_MAX = 470


def tracked(*patterns: str) -> list[Path]:
    told = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, capture_output=True, check=False
    )
    if told.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in told.stdout.decode().split("\0") if name]


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("folder", ["daemon", "tui", "configs", "systemd"])
def test_no_folder_becomes_a_top_level_module(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize(
    "module",
    [
        "meshtrain_daemon.master.app",
        "meshtrain_daemon.worker.app",
        "meshtrain.cli.main",
        "meshtrain_tui.command",
    ],
)
def test_only_the_training_process_loads_torch_and_only_the_plots_matplotlib(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "print([m for m in ('torch', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.stat().st_size and not re.match(r'(#!.*\n)?[rf]?"""', path.read_text())
    ]
    assert silent == []


def test_a_file_holds_one_idea() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources()
        if (lines := path.read_text().count("\n")) > FILE_LINES_MAX
    }
    assert long == {}


@pytest.mark.parametrize(
    ("model", "program"),
    [(MasterSettings, "master"), (WorkerSettings, "worker")],
)
def test_every_setting_does_something(model: type, program: str) -> None:
    folder = ROOT / "daemon" / "meshtrain_daemon" / program
    code = "\n".join(path.read_text() for path in folder.glob("*.py"))
    code += (ROOT / "meshtrain" / "spec" / "settings.py").read_text().split("class Settings")[1]
    used = [
        name
        for name in model.model_fields  # type: ignore[attr-defined]
        if re.search(rf"settings\.{name}\b|settings\.{name}_folder\b", code)
    ]
    assert sorted(set(model.model_fields) - set(used)) == []  # type: ignore[attr-defined]


def test_tests_wait_for_conditions_and_never_sleep_for_long() -> None:
    sleeping = re.compile(r"\bsleep\((0\.[1-9]|[1-9])")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked("tests/*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if sleeping.search(line) and "sleeping" not in line
    ]
    assert found == []


def test_nothing_is_unpickled_or_run_unchecked() -> None:
    unsafe = re.compile(r"pickle\.loads?\(|yaml\.load\(|\bshell=True|verify=False|\b0\.0\.0\.0\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if unsafe.search(line)
    ]
    assert found == []


def test_decoders_are_made_when_a_module_is_loaded() -> None:
    # msgspec works out a type at its first use, and two threads that do so at the same time
    # end the process: seen in 77 of 400 processes with nested structs.
    late = re.compile(r"\.decode\([^\n]*\btype=")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if late.search(line) and "one thread" not in line
    ]
    assert found == []


def test_the_readme_s_tree_is_up_to_date() -> None:
    told = subprocess.run(
        [sys.executable, "docs/make_tree.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout
