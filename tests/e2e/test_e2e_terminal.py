"""`meshtrain top` as a person uses it: the real process in a real terminal, on a live mesh."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mesh import Mesh, NewMesh
from terminal import BEFORE, ENDED, PtyTerminal, Terminal, TmuxTerminal, terminal

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_terminal")]

LARGE, SMALL = (100, 30), (80, 24)

TALK = """
name: %s
command: "i=0; while sleep 0.05; do i=$((i+1)); echo epoch $i of {speaker}; done"
matrix: {speaker: [anna, ben]}
"""

GRID = """
name: %s
command: >-
  test {width} != 20 -o {fold} != 1 &&
  printf '{{"accuracy": 0.{depth}{fold}}}' > {output}/metrics.json
matrix: {width: [10, 20], depth: [4, 5], fold: [0, 1]}
retries: 0
results: {metric: accuracy, over: fold}
"""


@pytest.fixture(scope="module")
def mesh(new_module_mesh: NewMesh) -> Mesh:
    """A node with room for all that the tests run."""
    mesh = new_module_mesh()
    mesh.start("n1", cpu_slots=8)
    return mesh


@contextmanager
def dashboard(kind: type[Terminal], mesh: Mesh, folder: Path) -> Iterator[Terminal]:
    """A terminal in which somebody has started the dashboard."""
    command = [sys.executable, "-m", "meshtrain.cli", "top", "--master", mesh.address]
    with terminal(kind, command, folder, size=LARGE) as window:
        window.sees("● live", "1 node", "[1 Overview]")
        yield window


@contextmanager
def talking(mesh: Mesh, sweep: str) -> Iterator[str]:
    """Two jobs that go on printing while this lasts; gives the name of one."""
    sweep_id = mesh.submit(TALK % sweep)
    for speaker in ("anna", "ben"):
        mesh.wait_job_state(f"{sweep}/speaker={speaker}", "running")
    yield f"{sweep}/speaker=anna"
    mesh.cancel(sweep_id)


def measure(mesh: Mesh, sweep: str) -> None:
    """A sweep with results, of which some are missing."""
    sweep_id = mesh.submit(GRID % sweep)

    def ended() -> bool:
        return {row["state"] for row in mesh.jobs(sweep_id)} <= {"succeeded", "failed"}

    mesh.wait_until(ended, f"{sweep} has ended")


def epochs(text: str) -> list[int]:
    """Of the log, the lines that are on the screen."""
    return [int(number) for number in re.findall(r"epoch (\d+) of anna", text)]


def follow(window: Terminal, job: str) -> None:
    """Find a job among all, open it, and see its log grow."""
    window.keys("2")
    window.sees("[2 Jobs]")
    window.keys("/")
    window.sees("a regular expression")
    window.keys(job, "Enter")
    window.until(lambda text: re.search(rf"/{job}/ · 1 of \d", text), "one job of many")
    window.sees("▶ running")
    window.keys("Enter")
    window.sees(f"› {job}", "● following")
    full = window.until(lambda text: epochs(text) if 1 not in epochs(text) else [], "a full page")
    first = full[-1]
    window.until(lambda text: (epochs(text) or [0])[-1] > first + 10, "later lines")


def cancel(window: Terminal, mesh: Mesh, job: str) -> None:
    """Ask for the end of a job, think better of it, and then do it."""
    sweep = job.partition("/")[0]
    before = mesh.jobs(sweep)
    window.keys("c")
    window.sees(f"Cancel {job}?", f"$ meshtrain cancel {job}", "y yes", "n no")
    window.keys("n")
    window.sees_no(f"Cancel {job}?")
    assert changed(before, mesh.jobs(sweep)) == {}
    window.keys("c")
    window.sees(f"Cancel {job}?")
    window.keys("y")
    window.sees("cancelled 1 job", "u undo")
    window.until(lambda text: re.search(rf"^ {job}  \S cancelled  n1 ", text, re.MULTILINE))
    assert changed(before, mesh.jobs(sweep)) == {job: "cancelled"}


def changed(before: list[Any], after: list[Any]) -> dict[str, str]:
    """The jobs that are in another state now, and in which."""
    states = {row["job_id"]: row["state"] for row in before}
    return {row["name"]: row["state"] for row in after if states[row["job_id"]] != row["state"]}


def quit_cleanly(window: Terminal) -> None:
    """Leave: the terminal is as it was, and works."""
    assert "its own screen" in window.left_on()
    window.keys("q")
    assert window.ended() == 0
    assert window.text().rstrip().splitlines() == [BEFORE, f"{ENDED} 0"]
    assert window.left_on() == set()
    # What is typed is seen again, and a line at a time is given to what runs.
    window.keys("so it goes", "Enter")
    window.until(lambda text: text.count("so it goes") == 2, "the terminal's echo, and cat's")


def test_a_job_is_followed_and_cancelled_and_a_matrix_opened_in_a_terminal(
    mesh: Mesh, tmp_path: Path
) -> None:
    with (
        talking(mesh, "talk") as job,
        dashboard(PtyTerminal, mesh, tmp_path) as window,
    ):
        follow(window, job)

        window.keys("f")
        window.sees("‖ paused")
        stood = epochs(window.text())
        assert len(stood) > 10
        size = window.until(lines_of)
        window.until(lambda text: (lines_of(text) or 0) > size + 10, "that there are more lines")
        assert epochs(window.text()) == stood

        window.keys("/", "epoch 3 of", "Enter")
        window.sees("not found below")
        window.keys("N")
        window.sees("›epoch 3 of anna", "“epoch 3 of”")
        window.keys("Escape")
        window.sees_no("“epoch 3 of”")
        window.keys("f")
        window.sees("● following")
        window.until(lambda text: epochs(text)[0] > stood[-1], "the end of the log")

        cancel(window, mesh, job)
        window.sees("■ ended")
        window.keys("Escape")
        window.sees("- cancelled")

        measure(mesh, "grid")
        window.resize(*SMALL)
        window.keys("3")
        window.sees("[3 Matrix]", "grid · accuracy · mean over fold (n of 2)")
        window.sees("0.405 ± 0.007 (2)", "0.400 (1) ✗", "✗ failed")
        window.keys("Enter")
        window.sees("width=10,depth=4,fold=0  succeeded  0.400", "fold=1  succeeded  0.410")
        window.keys("Down", "Enter")
        window.sees("› grid/width=10,depth=4,fold=1", "succeeded")
        window.keys("Escape")
        window.sees("[3 Matrix]", "grid · accuracy")
        quit_cleanly(window)


def lines_of(text: str) -> int:
    """How many lines the log has, as its status tells."""
    found = re.search(r"line [\d,]+ of ([\d,]+)", text)
    return int(found[1].replace(",", "")) if found else 0


@pytest.mark.skipif(bool(TmuxTerminal.absent), reason=TmuxTerminal.absent)
def test_a_job_is_followed_and_cancelled_and_a_matrix_opened_in_tmux(
    mesh: Mesh, tmp_path: Path
) -> None:
    with (
        talking(mesh, "tmux_talk") as job,
        dashboard(TmuxTerminal, mesh, tmp_path) as window,
    ):
        follow(window, job)
        cancel(window, mesh, job)
        measure(mesh, "tmux_grid")
        window.resize(*SMALL)
        window.keys("3")
        window.sees("tmux_grid · accuracy · mean over fold", "0.405 ± 0.007 (2)", "0.400 (1) ✗")
        window.keys("Enter")
        window.sees("width=10,depth=4,fold=0  succeeded  0.400")
        window.keys("Escape")
        window.sees_no("fold=0  succeeded  0.400")
        quit_cleanly(window)


def test_what_is_mistyped_is_told_and_changes_nothing(mesh: Mesh, tmp_path: Path) -> None:
    with talking(mesh, "typed") as job, dashboard(PtyTerminal, mesh, tmp_path) as window:
        window.keys("2")
        window.sees(job)
        before = mesh.jobs("typed")
        window.keys("Z", "X", "Z")
        window.sees("Z does nothing here.", "? shows all")
        assert window.text().count("does nothing here") == 1
        window.keys(":")
        window.sees("Search for")
        window.keys("cancle everything")
        window.sees("Nothing here is called “cancle everything”", "Delete some of it")
        window.keys("Enter")
        window.sees_no("Delete some of it")
        window.sees("[2 Jobs]", "Nothing here is called “cancle everything”")
        assert changed(before, mesh.jobs("typed")) == {}
        quit_cleanly(window)


def test_a_dead_masters_picture_is_called_stale_until_it_is_back(
    mesh: Mesh, tmp_path: Path
) -> None:
    with talking(mesh, "late"), dashboard(PtyTerminal, mesh, tmp_path) as window:
        window.keys("2", "/", "late", "Enter")
        window.sees("/late/ · 2 of ")
        window.until(lambda text: text.count("▶ running") == 2, "both jobs")
        mesh.kill("master")
        window.sees("○ stale since", f"Nothing heard from the master at {mesh.address}")
        assert "● live" not in window.text()
        assert window.text().count("▶ running") == 2
        mesh.start_master()
        window.sees("● live", "1 node")
        window.sees_no("stale since")
        mesh.cancel("late")
        window.until(lambda text: text.count("- cancelled") == 2, "news of the master's new life")
        quit_cleanly(window)
