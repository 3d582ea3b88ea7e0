"""The same measurements for every system: a driver hands over its Peer, `drive` does the rest.

A driver prints one JSON object a line, each with its `event`:

    about      versions, durability, how a job is run
    ready      the system is up and warm
    latency    index, submitted_s on CLOCK_MONOTONIC; the job itself writes its index
               into the harness's pipe, and the harness takes the time of that
    rate       jobs, submit_s, total_s
    waiting    waiting, jobs, fill_s, at_rest, total_s; or unable, with the reason
    end        all was measured; what follows is the teardown
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import select
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from process import TRUE
from process_tree import wait_at_rest

Ticket = TypeVar("Ticket")

_PR_SET_PDEATHSIG = 1
_HOLD_TIMEOUT_S = 60.0
_JOB_TIMEOUT_S = 60.0


class BenchmarkError(Exception):
    """Raised when a system didn't do what it was asked; the message says what."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the harness asks of one driver."""

    slots: int
    """How many jobs may run at once."""
    scratch: Path
    """An empty folder on a real disk; what must be durable goes here."""
    jobs: int
    latency_samples: int
    waiting: int
    waiting_jobs: int
    """How many jobs are timed while `waiting` more wait behind them."""
    stamps: Path
    """The pipe whose other end the harness reads."""
    limit_s: float
    """How long any one measurement may take."""
    idle_gap_s: float


@dataclass(frozen=True, slots=True)
class About:
    """What a reader must know to judge the figures."""

    versions: dict[str, str]
    durability: str
    how: str


class Peer(ABC, Generic[Ticket]):
    """One system under measurement. Its submit and wait are its own fastest ways."""

    chunk_jobs = 1000
    """How many jobs go into one submit while the queue is filled."""

    @abstractmethod
    def start(self, options: Options) -> About:
        """Brings the system up with `options.slots` slots on this host, on loopback."""

    @abstractmethod
    def submit(self, argv: Sequence[str], count: int) -> Ticket:
        """Submits `count` jobs that each run `argv`; returns once the system has them all."""

    @abstractmethod
    def wait(self, ticket: Ticket, timeout_s: float) -> None:
        """Returns once this client knows every job of `ticket` as done.

        Raises:
            BenchmarkError: a job failed, or `timeout_s` passed.
        """

    @abstractmethod
    def stop(self) -> None:
        """Stops all that `start` started, whatever is still queued."""

    def fill(self, argv: Sequence[str], count: int, deadline_s: float) -> int:
        """Queues up to `count` jobs until `deadline_s` (monotonic); returns how many."""
        queued = 0
        tickets = []
        while queued < count and time.monotonic() < deadline_s:
            chunk = min(self.chunk_jobs, count - queued)
            tickets.append(self.submit(argv, chunk))
            queued += chunk
        self._filled = tickets
        return queued


def emit(event: str, **fields: Any) -> None:
    """Prints one line for the harness."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def version_of(*packages: str) -> dict[str, str]:
    """The installed versions of `packages`, by name."""
    return {package: metadata.version(package) for package in packages}


def raise_for_exit_codes(exit_codes: Sequence[int]) -> None:
    """Raises BenchmarkError unless every job ended with 0."""
    bad = [code for code in exit_codes if code != 0]
    if bad:
        raise BenchmarkError(
            f"{len(bad)} of {len(exit_codes)} jobs failed, the first with {bad[0]}"
        )


class Gate:
    """Jobs that hold every slot until they are let go, so that a queue can build up behind them."""

    def __init__(self, folder: Path) -> None:
        self._held_path = folder / "held"
        self._gate_path = folder / "gate"
        for path in (self._held_path, self._gate_path):
            os.mkfifo(path)
        # Opened for both ways: neither side then waits for the other, nor meets an end of file.
        self._held_fd = os.open(self._held_path, os.O_RDWR | os.O_NONBLOCK)
        self._gate_fd = os.open(self._gate_path, os.O_RDWR)

    def argv(self) -> tuple[str, ...]:
        return ("/bin/sh", "-c", f"echo > {self._held_path}; read line < {self._gate_path}")

    def wait_held(self, slots: int, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        held = 0
        while held < slots:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([self._held_fd], [], [], left_s)[0]:
                raise BenchmarkError(
                    f"only {held} of {slots} slots took a job in {timeout_s:.0f} s"
                )
            held += len(os.read(self._held_fd, slots - held))

    def open(self, slots: int) -> None:
        # One newline a reader: the shell's `read` takes single bytes, so none can take two.
        os.write(self._gate_fd, b"\n" * slots)

    def close(self) -> None:
        os.close(self._held_fd)
        os.close(self._gate_fd)


def measure_latency(peer: Peer[Any], options: Options, warm: int = 3) -> None:
    """One job at a time on an idle system, each started only once the last is known as done."""
    for index in range(-warm, options.latency_samples):
        argv = ("/bin/sh", "-c", f"echo {index} > {options.stamps}")
        time.sleep(options.idle_gap_s)
        submitted_s = time.monotonic()
        ticket = peer.submit(argv, 1)
        peer.wait(ticket, _JOB_TIMEOUT_S)
        if index >= 0:
            emit("latency", index=index, submitted_s=submitted_s)


def measure_rate(peer: Peer[Any], options: Options) -> None:
    """From the first submit until all are known as done."""
    begin_s = time.monotonic()
    ticket = peer.submit(TRUE, options.jobs)
    submitted_s = time.monotonic()
    peer.wait(ticket, options.limit_s)
    end_s = time.monotonic()
    emit("rate", jobs=options.jobs, submit_s=submitted_s - begin_s, total_s=end_s - begin_s)


def measure_waiting(peer: Peer[Any], options: Options) -> None:
    """The rate of the first jobs of a queue, with `options.waiting` more behind them.

    Every slot is held while the queue is filled and until the system has come to rest, then
    all are let go at once. Filling isn't timed as part of the rate.
    """
    gate = Gate(options.scratch)
    try:
        holders = peer.submit(gate.argv(), options.slots)
        gate.wait_held(options.slots, _HOLD_TIMEOUT_S)
        timed = peer.submit(TRUE, options.waiting_jobs)
        begin_s = time.monotonic()
        queued = peer.fill(TRUE, options.waiting, begin_s + options.limit_s)
        fill_s = time.monotonic() - begin_s
        at_rest = wait_at_rest(os.getpid(), options.limit_s)
        if queued < options.waiting:
            emit("waiting", unable=f"took only {queued} jobs in {fill_s:.0f} s", waiting=queued)
            gate.open(options.slots)
            return
        begin_s = time.monotonic()
        gate.open(options.slots)
        try:
            peer.wait(timed, options.limit_s)
        except BenchmarkError as error:
            emit("waiting", unable=str(error), waiting=queued)
            return
        total_s = time.monotonic() - begin_s
        peer.wait(holders, _JOB_TIMEOUT_S)
        emit(
            "waiting",
            waiting=queued,
            jobs=options.waiting_jobs,
            fill_s=fill_s,
            at_rest=at_rest,
            total_s=total_s,
        )
    finally:
        gate.close()


def _parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(description="Measures one system; started by dispatch.py")
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--stamps", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--latency-samples", type=int, default=0)
    parser.add_argument("--waiting", type=int, default=0)
    parser.add_argument("--waiting-jobs", type=int, default=0)
    parser.add_argument("--limit-s", type=float, default=120.0)
    parser.add_argument("--idle-gap-s", type=float, default=0.02)
    return Options(**vars(parser.parse_args(arguments)))


def _die_with_the_harness() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _stop_on_signal(signal_number: int, _frame: object) -> NoReturn:
    # A second signal must not cut the teardown short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + signal_number)


def _let_workers_find_this_environment() -> None:
    # Systems start their workers by name, and those import `process` too.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)


def drive(peer: Peer[Any], arguments: Sequence[str] | None = None) -> None:
    """Runs one driver: parses its arguments, measures `peer`, and stops it whatever happens."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _stop_on_signal)
    _die_with_the_harness()
    _let_workers_find_this_environment()
    try:
        about = peer.start(options)
        emit("about", versions=about.versions, durability=about.durability, how=about.how)
        peer.wait(peer.submit(TRUE, 20 * options.slots), _HOLD_TIMEOUT_S)
        emit("ready")
        if options.latency_samples:
            measure_latency(peer, options)
        if options.jobs:
            measure_rate(peer, options)
        if options.waiting:
            measure_waiting(peer, options)
        emit("end")
    finally:
        peer.stop()
