"""Points where a test may have a process die, stop or fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshtrain import failpoints
from meshtrain.errors import SettingsError
from meshtrain.failpoints import NOTE_VARIABLE, POINTS, VARIABLE

POINT = "store.committed"


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    failpoints.arm({})


def test_off_nothing_happens() -> None:
    failpoints.arm({})
    for name in POINTS:
        failpoints.reach(name)


def test_an_error_comes_once_at_its_point_alone() -> None:
    failpoints.arm({VARIABLE: f"{POINT}=error"})
    failpoints.reach("store.written")
    with pytest.raises(OSError, match=POINT):
        failpoints.reach(POINT)
    failpoints.reach(POINT)


def test_it_counts_to_the_nth_time_and_takes_several() -> None:
    failpoints.arm({VARIABLE: f"{POINT}:3=error, store.written=error"})
    failpoints.reach(POINT)
    failpoints.reach(POINT)
    with pytest.raises(OSError):
        failpoints.reach("store.written")
    with pytest.raises(OSError):
        failpoints.reach(POINT)


def test_a_note_is_made_and_while_it_is_there_nothing_happens(tmp_path: Path) -> None:
    note = tmp_path / "note"
    environment = {VARIABLE: f"{POINT}=error", NOTE_VARIABLE: str(note)}
    failpoints.arm(environment)
    with pytest.raises(OSError):
        failpoints.reach(POINT)
    assert note.read_text() == f"{POINT} {os.getpid()}\n"
    failpoints.arm(environment)
    failpoints.reach(POINT)


@pytest.mark.parametrize(
    "command",
    ["store.comitted", f"{POINT}:0", f"{POINT}:x", f"{POINT}:", f"{POINT}=explode", f"{POINT}="],
)
def test_what_is_no_command_is_refused(command: str) -> None:
    with pytest.raises(SettingsError, match=VARIABLE):
        failpoints.arm({VARIABLE: command})
    for name in POINTS:
        failpoints.reach(name)


@pytest.mark.parametrize("action", ["", "=kill"])
def test_a_process_kills_itself(action: str) -> None:
    code = "import os; from meshtrain import failpoints as f; f.arm(os.environ); "
    done = subprocess.run(
        [sys.executable, "-c", code + f"f.reach('{POINT}'); print('lived')"],
        env={**os.environ, VARIABLE: POINT + action},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b""


def test_a_process_stops_and_goes_on() -> None:
    code = "import os; from meshtrain import failpoints as f; f.arm(os.environ); "
    process = subprocess.Popen(
        [sys.executable, "-c", code + f"f.reach('{POINT}'); print('went on')"],
        env={**os.environ, VARIABLE: f"{POINT}=stop"},
        stdout=subprocess.PIPE,
    )
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    process.send_signal(signal.SIGCONT)
    told, _ = process.communicate(timeout=30)
    assert told == b"went on\n"
