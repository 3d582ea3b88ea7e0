"""What is installed elsewhere: a wheel with every file that the code reads beside itself."""

from __future__ import annotations

import zipfile
from pathlib import Path

import hatchling.build
import pytest

ROOT = Path(__file__).parents[2]
CARRIED = {
    "meshtrain": "meshtrain",
    "daemon/meshtrain_daemon": "meshtrain_daemon",
    "tui/meshtrain_tui": "meshtrain_tui",
    "configs": "meshtrain/configs",
    "systemd": "meshtrain/systemd",
}
"""The folders of the checkout, and where they lie once they are installed."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in it."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        name = hatchling.build.build_wheel(str(folder))
    with zipfile.ZipFile(folder / name) as file:
        return set(file.namelist())


@pytest.mark.parametrize("folder", CARRIED)
def test_each_file_of_a_package_is_in_the_wheel(wheel: set[str], folder: str) -> None:
    files = [
        path.relative_to(ROOT / folder)
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    seen = [path for path in files if not any(part.startswith(".") for part in path.parts)]
    assert seen
    assert [str(path) for path in seen if f"{CARRIED[folder]}/{path.as_posix()}" not in wheel] == []


def test_the_wheel_brings_no_other_top_level_name(wheel: set[str]) -> None:
    names = {name.partition("/")[0] for name in wheel}
    packages = {place.partition("/")[0] for place in CARRIED.values()}
    assert {name for name in names if not name.endswith(".dist-info")} == packages
