"""`meshtrain logs` over a real scheduler's state: which attempt, from where, through what."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cli_double import cli_with, out, run
from master_double import MasterDouble, small_sweep, user_error
from typer.testing import CliRunner

from meshtrain.cli.main import build
from meshtrain.cli.patient import PatientLink
from meshtrain.core import events as ev
from meshtrain.core.job import Failure, FailureClass
from meshtrain.net.base import MasterAwayError, NotAdmittedError
from meshtrain.wire import messages as msg


@pytest.fixture
def master() -> MasterDouble:
    master = MasterDouble()
    master.add_node("node-1")
    return master


def one_job(master: MasterDouble, attempts: int = 1) -> str:
    """A job that was lost with its node so often, and then succeeded; its name."""
    sweep = small_sweep(shares=(0.5,), folds=1)
    master.submit(sweep)
    master.run_once()
    for _ in range(attempts - 1):
        node_id, command = master.assigned.pop()
        failure = Failure(FailureClass.HOST_LOST, "gone", node_id)
        master.tell(ev.AttemptEnded(node_id, command.attempt_id, command.epoch, failure=failure))
        # The more often it is lost, the longer it waits.
        master.wait(600)
    master.run_all()
    for number, attempt in enumerate(master.attempts_of(sweep.jobs[0].job_id), start=1):
        master.streams[attempt.attempt_id, "log"] = b"of attempt %d\n" % number
    return sweep.jobs[0].name


def test_the_attempt_before_the_last_and_all_of_them(master: MasterDouble) -> None:
    name = one_job(master, attempts=3)
    assert out(master, "logs", name) == "of attempt 3\n"
    assert out(master, "logs", name, "--previous") == "of attempt 2\n"
    assert out(master, "logs", name, "--attempt", "1") == "of attempt 1\n"
    result = run(master, "logs", name, "--attempt", "all")
    assert result.stdout == "of attempt 1\nof attempt 2\nof attempt 3\n"
    assert "— attempt 2 of 3 —" in result.stderr
    told = [json.loads(line) for line in out(master, "logs", name, "--json").splitlines()]
    assert told == [{"attempt": 3, "rank": None, "text": "of attempt 3"}]


def test_a_job_that_ran_once_has_no_previous_attempt(master: MasterDouble) -> None:
    name = one_job(master)
    result = run(master, "logs", name, "-p")
    assert result.exit_code == 2
    assert "was run once so far" in result.stderr


def test_options_that_exclude_each_other(master: MasterDouble) -> None:
    for options in (("-p", "--attempt", "1"), ("--raw", "--json"), ("-f", "-p")):
        result = run(master, "logs", "x", *options)
        assert result.exit_code == 2
        assert "--" in result.stderr or "-f" in result.stderr


@pytest.mark.parametrize(
    ("data", "lines", "shown"),
    [
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\nb\nc", 1, b"c"),
        (b"a\nb\n", 9, b"a\nb\n"),
        (b"a\nb\n", 0, b""),
        (b"", 3, b""),
        (b"x" * 70_000 + b"\n" + b"y\n" * 3, 4, b"x" * 70_000 + b"\n" + b"y\n" * 3),
        (b"x" * 70_000 + b"\n" + b"y\n" * 40_000, 40_000, b"y\n" * 40_000),
    ],
)
def test_the_last_lines(master: MasterDouble, data: bytes, lines: int, shown: bytes) -> None:
    name = one_job(master)
    (key,) = master.streams
    master.streams[key] = data
    assert run(master, "logs", name, "-n", str(lines)).stdout_bytes == shown


def test_the_last_lines_across_lost_bytes(master: MasterDouble) -> None:
    name = one_job(master)
    (key,) = master.streams
    head, tail = b"first\n[lost]\n", b"last\n"
    master.streams[key] = head + bytes(100_000) + tail
    master.lost[key] = {len(head): len(head) + 100_000}
    assert run(master, "logs", name, "-n", "3").stdout_bytes == head + tail
    assert run(master, "logs", name, "-n", "1").stdout_bytes == tail


def test_following_tells_why_a_job_failed(master: MasterDouble) -> None:
    master.outcome = lambda job: user_error("no such file: data.npz")
    sweep = small_sweep(shares=(0.5,), folds=1)
    master.submit(sweep)
    master.run_all()
    result = run(master, "logs", "-f", sweep.jobs[0].name)
    assert result.stderr.endswith("failed: user error: no such file: data.npz\n"), result.stderr


class Restarting:
    """A link whose requests fail while the master is away."""

    def __init__(self, master: MasterDouble, script: list[Callable[[], None]]) -> None:
        self._master = master
        self._script = script
        self.opened = self.closed = 0

    def __enter__(self) -> Restarting:
        self.opened += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self.closed += 1

    def request(self, message: msg.FromPerson, timeout_s: float | None = None) -> Any:
        if self._script:
            self._script.pop(0)()
        return self._master.request(message)


def away() -> None:
    raise MasterAwayError("no master answers")


def here() -> None: ...


def test_P7_following_goes_on_when_the_master_is_back(master: MasterDouble) -> None:
    name = one_job(master)
    link = Restarting(master, [here, away, away, here])
    cli = cli_with(master)
    cli.connect = lambda way, timeout_s: link
    result = CliRunner().invoke(build(), ["logs", "-f", name], obj=cli)
    assert result.exit_code == 0, result.output
    assert result.stdout == "of attempt 1\n"
    assert result.stderr.count("doesn't answer: waiting for it") == 1
    assert result.stderr.count("the master is back") == 1
    assert link.opened == link.closed == 3


def test_a_first_question_that_nobody_answers_fails(master: MasterDouble) -> None:
    name = one_job(master)
    cli = cli_with(master)
    cli.connect = lambda way, timeout_s: Restarting(master, [away])
    result = CliRunner().invoke(build(), ["logs", "-f", name], obj=cli)
    assert result.exit_code == 1
    assert "no master answers" in result.stderr


def test_keys_that_are_refused_are_not_waited_for(master: MasterDouble) -> None:
    def refuse() -> None:
        raise NotAdmittedError("refuses these keys")

    cli = cli_with(master)
    cli.connect = lambda way, timeout_s: Restarting(master, [here, refuse])
    query = msg.Query("q", "jobs")
    with PatientLink(cli) as link:
        link.request(query)
        with pytest.raises(NotAdmittedError):
            link.request(query)
