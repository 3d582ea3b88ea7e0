"""One stream on loopback to disk: our server and fetcher beside a plain copy, in turn.

The plain copy is two processes: `socket.sendfile` on one side, `recv_into` and `write`
on the other. Ours is one server and one fetcher, requests signed and bodies in the
clear, every chunk verified. Both end with an fsync; the plain copy's time is also
given without it. Loopback has no limit here, so this shows what the data path costs.

    python fanout_stream.py plain-send|plain-receive      commanded as `fanout_voice` says
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fanout_voice as voice
from fanout_data import Data
from fanout_figures import MIB, layout, spread
from fanout_programs import Program, ProgramError, end_all
from fanout_rows import MASTER, SECOND
from fanout_star import digest_of
from harness.systems import BENCHMARKS

LOOPBACK = "127.0.0.1"
RECEIVER = "receiver"
_PIECE_BYTES = MIB
_LIMIT_S = 120.0


@dataclass(slots=True)
class Streams:
    """Seconds of each run."""

    size_bytes: int
    plain_s: list[float] = field(default_factory=list)
    """To the last byte written."""
    plain_fsync_s: list[float] = field(default_factory=list)
    ours_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def rates_mib_s(self, seconds: Sequence[float]) -> list[float]:
        """Seconds as MiB per second."""
        return [self.size_bytes / MIB / each for each in seconds]

    def ratio(self, to: Sequence[float]) -> float | None:
        """Our median rate to another's."""
        if not self.ours_s or not to:
            return None
        return statistics.median(to) / statistics.median(self.ours_s)

    def table(self) -> str:
        """The figures as text."""

        def row(title: str, seconds: Sequence[float]) -> list[str]:
            ratio = self.ratio(seconds)
            rates = spread(self.rates_mib_s(seconds), 0)
            return [title, rates, "–" if ratio is None else f"{ratio:.2f}"]

        rows = [
            ["who", "MiB/s", "ours to it"],
            row("plain copy, with fsync", self.plain_fsync_s),
            row("plain copy, without", self.plain_s),
            row("meshtrain, with fsync and verified", self.ours_s),
        ]
        size_mib = self.size_bytes // MIB
        return layout(f"one stream of {size_mib} MiB on loopback to disk, without TLS", rows)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "size_bytes": self.size_bytes,
            "plain_s": self.plain_s,
            "plain_fsync_s": self.plain_fsync_s,
            "ours_s": self.ours_s,
            "ours_to_plain_fsync": self.ratio(self.plain_fsync_s),
            "ours_to_plain": self.ratio(self.plain_s),
            "failures": self.failures,
        }


def measure(
    data: Data, scratch: Path, runs: int, say: Callable[[str], None], warm_ups: int = 1
) -> Streams:
    """Plain and ours in turn.

    Args:
        data: the file that is sent.
        scratch: a folder on the disk.
        runs: how often.
        say: tells how it goes.
        warm_ups: how many runs come before and aren't counted.
    """
    streams = Streams(data.size_bytes)
    for number in range(-warm_ups, runs):
        for title, parts in (("plain", _plain), ("ours", _ours)):
            folder = Path(tempfile.mkdtemp(prefix="stream-", dir=scratch))
            try:
                done, begun_s = _run(parts(folder, data, *_free_ports()), folder)
                if digest_of(Path(done["path"])) != data.xxh3:
                    raise ProgramError("what came is not what was sent")
            except ProgramError as error:
                streams.failures.append(f"{title}: {error.in_short()}")
                say(f"  stream   {title:<6} FAILED {error}")
                continue
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            took_s = done["done_s"] - begun_s
            warm_up = "" if number >= 0 else "   (to warm up)"
            say(f"  stream   {title:<6} {data.size_bytes / MIB / took_s:6.0f} MiB/s{warm_up}")
            if number < 0:
                continue
            if parts is _plain:
                streams.plain_fsync_s.append(took_s)
                streams.plain_s.append(done["written_s"] - begun_s)
            else:
                streams.ours_s.append(took_s)
    return streams


Parts = list[tuple[str, list[str], dict[str, Any]]]
"""Name, command and order of each program: who serves, then who receives."""


def _plain(folder: Path, data: Data, port: int, _: int) -> Parts:
    program = [sys.executable, str(BENCHMARKS / "fanout_stream.py")]
    order = {"port": port, "file": str(data.file), "into": str(folder / "copy")}
    return [
        ("sender", [*program, "plain-send"], order),
        ("receiver", [*program, "plain-receive"], order),
    ]


def _ours(folder: Path, data: Data, server_port: int, own_port: int) -> Parts:
    program = [sys.executable, str(BENCHMARKS / "fanout_host.py")]
    source = {"node_id": SECOND, "url": f"http://{LOOPBACK}:{server_port}"}
    order = {
        "members": str(data.members((MASTER, SECOND, RECEIVER), MASTER)),
        "manifest": str(data.manifest()),
        "encrypt": False,
        "host": LOOPBACK,
        "sources": [source],
    }
    return [
        (
            name,
            program,
            {
                **order,
                "keys": str(data.keys(name)),
                "store": str(folder / "store" if name == RECEIVER else data.store(name)),
                "port": port,
                "fetches": name == RECEIVER,
            },
        )
        for name, port in ((SECOND, server_port), (RECEIVER, own_port))
    ]


def _run(parts: Parts, folder: Path) -> tuple[dict[str, Any], float]:
    """What the receiver told, and when it was let go."""
    programs: list[Program] = []
    try:
        for name, command, order in parts:
            programs.append(Program(name, command, order, folder / f"{name}.stderr"))
        deadline_s = time.monotonic() + _LIMIT_S
        for program in programs:
            program.wait_for("ready", deadline_s)
        os.sync()
        begun_s = time.monotonic()
        for program in programs:
            program.tell("go")
        return programs[-1].wait_for("done", deadline_s), begun_s
    finally:
        end_all(programs)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        # Both are taken before either is given up, so that they differ.
        for each in (one, other):
            each.bind((LOOPBACK, 0))
        return one.getsockname()[1], other.getsockname()[1]


# --- the plain copy's programs --------------------------------------------------------


def _send(order: dict[str, Any]) -> None:
    with socket.create_server((LOOPBACK, order["port"])) as listening:
        voice.say("ready")
        voice.hear()
        connection, _ = listening.accept()
        with connection, Path(order["file"]).open("rb") as file:
            connection.sendfile(file)
    while voice.hear():
        pass


def _receive(order: dict[str, Any]) -> None:
    into = Path(order["into"])
    buffer = memoryview(bytearray(_PIECE_BYTES))
    voice.say("ready")
    voice.hear()
    with socket.create_connection((LOOPBACK, order["port"])) as connection:
        fd = os.open(into, os.O_CREAT | os.O_WRONLY)
        while count := connection.recv_into(buffer):
            left = buffer[:count]
            while left:
                left = left[os.write(fd, left) :]
        written_s = time.monotonic()
        os.fsync(fd)
        os.close(fd)
    voice.done(into, written_s=written_s)
    while voice.hear():
        pass


if __name__ == "__main__":
    {"plain-send": _send, "plain-receive": _receive}[sys.argv[1]](voice.order())
