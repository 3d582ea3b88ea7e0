"""Bars of long commands: on a terminal, and nowhere else."""

from __future__ import annotations

import io
import sys

import pytest

from meshtrain.cli import working as module
from meshtrain.cli.sending import Sending
from meshtrain.cli.working import Step, working


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_shown_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with working("hashing") as step:
        step.says("sending", 100)
        step.advance(50)
        step.reached(60, 100)
    assert stream.getvalue() == ""


def test_a_bar_is_drawn_on_a_terminal_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(module, "DELAY_S", 0.0)
    with working("a task") as step:
        sending = Sending(step, "data", 1000)
        sending.hashed(1000)
        sending.lacks(400)
        sending.sent(100)
        assert step._progress is not None
        while not step._progress.live.is_started:
            pass
        step._progress.refresh()
        (task,) = step._progress.tasks
        assert (task.description, task.completed, task.total) == ("sending data", 100, 400)
    told = stream.getvalue()
    assert "sending data" in told
    assert "100/400 bytes" in told
    # What was drawn is wiped.
    assert told.rstrip().endswith("\x1b[2K")


def test_what_is_over_at_once_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with working("a task"):
        pass
    assert "a task" not in stream.getvalue()


def test_a_step_without_a_bar_takes_everything() -> None:
    step = Step("x")
    step.says("y")
    step.advance(1)
    step.reached(0, 0)
