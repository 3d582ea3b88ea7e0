"""A master in memory that has jobs, and logs that grow by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from meshtrain.errors import MeshtrainError, UserError
from meshtrain_tui.log import line_index
from meshtrain_tui.log.stream import LogStream

WALL_S = 1_700_000_000.0
MIB = 1 << 20


@dataclass
class Stored:
    """A stream as the master has it."""

    data: bytes = b""
    times: list[tuple[int, float]] = field(default_factory=list)
    #: where a hole begins → where it ends
    holes: dict[int, int] = field(default_factory=dict)
    ended: bool = False


@dataclass
class LogMaster:
    """Answers the queries job, log, lines and times, as the master does."""

    streams: dict[tuple[str, str], Stored] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    sent_bytes: int = 0
    away: bool = False

    def print(
        self, attempt_id: str, data: bytes, wall_s: float | None = None, stream: str = "log"
    ) -> None:
        """The job prints something, and it comes to the master."""
        stored = self.streams.setdefault((attempt_id, stream), Stored())
        if wall_s is not None:
            stored.times.append((len(stored.data), wall_s))
        stored.data += data

    def end(self, attempt_id: str) -> None:
        for (of, _), stored in self.streams.items():
            stored.ended |= of == attempt_id

    async def ask(
        self, what: str, names: tuple[str, ...], *, offset: int = 0, limit: int = 1
    ) -> dict[str, Any]:
        self.asked[what] += 1
        if self.away:
            raise MeshtrainError("no master answers at 127.0.0.1:7470 within 5 s")
        if what == "job":
            if names[0] not in self.jobs:
                raise UserError(f"no job is called {names[0]}")
            return self.jobs[names[0]]
        _, stream, attempt_id = names
        stored = self.streams.get((attempt_id, stream), Stored())
        row: dict[str, Any] = {"size_bytes": len(stored.data), "ended": stored.ended}
        if what == "times":
            pairs = [pair for pair in stored.times if pair[0] >= offset]
            return row | {
                "offsets": [pair[0] for pair in pairs],
                "walls_s": [pair[1] for pair in pairs],
            }
        size = line_index.BLOCK_BYTES
        if what == "lines":
            begin = offset // size * size
            data = stored.data[begin : begin + min(limit, 4 * MIB)]
            counts = [data.count(b"\n", at, at + size) for at in range(0, len(data), size)]
            return row | {"counts": counts, "begin": begin, "next_offset": begin + len(data)}
        assert what == "log"
        begin = self._behind(stored, offset)
        ends = [begin + min(limit, MIB), len(stored.data)]
        end = max(min(ends + [hole for hole in stored.holes if hole > begin]), begin)
        data = stored.data[begin:end]
        self.sent_bytes += len(data)
        return row | {
            "data": data,
            "begin": begin,
            "next_offset": self._behind(stored, begin + len(data)),
        }

    @staticmethod
    def _behind(stored: Stored, offset: int) -> int:
        for begin, end in sorted(stored.holes.items()):
            if begin <= offset < end:
                offset = end
        return offset


async def stream_of(
    data: bytes,
    times: list[tuple[int, float]] | None = None,
    *,
    rank: int = 0,
    holes: dict[int, int] | None = None,
) -> LogStream:
    """A stream that has these bytes, refreshed."""
    master = LogMaster({("a", "log"): Stored(data, times or [], holes or {})})
    stream = LogStream(master.ask, "j", "a", rank=rank)
    await stream.refresh()
    return stream


def job_row(**changed: Any) -> dict[str, Any]:
    """The answer to the query job."""
    row: dict[str, Any] = {
        "job_id": "j",
        "name": "few_shot/shots=5,fold=2",
        "kind": "experiment",
        "state": "running",
        "sweep_id": "few_shot-1",
        "node_id": "gpu2",
        "recipe_hash": "7f3a" + "0" * 25 + "c21",
        "generation": 1,
        "retries": 1,
        "failure": "",
        "reason": "",
        "submitted_wall_s": WALL_S - 3600,
        "started_wall_s": WALL_S - 720,
        "ended_wall_s": None,
        "metrics": {},
        "priority": 3,
        "cell": {"shots": 5, "fold": 2},
        "group": None,
        "work": {"command": "python src/replicate.py --shots 5 --folds 2", "inputs": {}, "env": {}},
        "resources": {
            "gpus": 1,
            "gpu_memory_bytes": 12_000_000_000,
            "cpus": 1,
            "memory_bytes": 0,
            "nodes": 1,
            "trainer": False,
            "alone": False,
        },
        "limits": {"retries_max": 2, "timeout_s": 3600.0, "checkpoint_every_s": None, "user": None},
        "cancelling": False,
        "last_failure": None,
        "attempts": [
            attempt_row("a1", state="failed", ended_wall_s=WALL_S - 800, failure=OUT_OF_MEMORY),
            attempt_row("a2"),
        ],
        "base": {
            "recipe_hash": "7f3a" + "0" * 25 + "c21",
            "label": "resnet50",
            "state": "committed",
            "holders": ["gpu1", "gpu2"],
        },
    }
    return row | changed


OUT_OF_MEMORY = {
    "failure_class": "out of memory",
    "message": "CUDA out of memory: 24 GB were not enough",
    "node_id": "gpu1",
    "exit_code": 1,
}


def attempt_row(attempt_id: str, **changed: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "attempt_id": attempt_id,
        "state": "live",
        "placements": [{"node_id": "gpu2", "gpus": [0], "cpus": 0, "alone": False}],
        "assigned_wall_s": WALL_S - 725,
        "started_wall_s": WALL_S - 720,
        "ended_wall_s": None,
        "failure": None,
        "resumed_from": None,
    }
    return row | changed
