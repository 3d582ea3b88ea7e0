"""Plays a recording for the film: with the logs and metrics of a job, as far as they had come."""

from __future__ import annotations

import base64
import json
from typing import Any

from meshtrain.errors import NotFoundError
from meshtrain.wire.messages import Answer, Done, FromPerson, Query
from meshtrain_tui.recording import Recording
from meshtrain_tui.replay import Player

STREAMS = ("log", "times")
"""Queries about a job's streams, which a recording of docs/record_run.py has answers to."""


class FilmPlayer(Player):
    """A player that stands still but when it is told to jump."""

    def __init__(self, recording: Recording) -> None:
        super().__init__(recording, real_now_s=lambda: 0.0, playing=False)
        self._all = recording

    async def ask(self, message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
        """As the master would have answered at this time. Raises as Player.ask does."""
        if not isinstance(message, Query) or message.what not in STREAMS:
            return await super().ask(message, timeout_s)
        log, times = (self._at_end(what, message.names) for what in STREAMS)
        arrivals = list(zip(times["offsets"], times["walls_s"], strict=True))
        if message.names[1] == "metrics":
            # The master notes no times of these; each line bears its own.
            arrivals = written(base64.b64decode(log["data"]))
        size_bytes = size_at(arrivals, log["size_bytes"], self.now_s())
        told = log if message.what == "log" else times
        row = {**told, "offset": message.offset, "size_bytes": size_bytes}
        row["ended"] = told["ended"] and size_bytes == log["size_bytes"]
        if message.what == "log":
            data = base64.b64decode(log["data"])[message.offset : size_bytes][: message.limit]
            row |= {
                "data": data,
                "begin": message.offset,
                "next_offset": message.offset + len(data),
            }
        else:
            known = [pair for pair in arrivals if message.offset <= pair[0] < size_bytes]
            row |= {
                "offsets": [offset for offset, _ in known],
                "walls_s": [wall_s for _, wall_s in known],
            }
        return Answer(message.request_id, rows=[row], total=1)

    def _at_end(self, what: str, names: tuple[str, ...]) -> dict[str, Any]:
        """What was answered when the recording ended."""
        answered = self._all.answer(what, names, len(self._all))
        if answered is None:
            raise NotFoundError(f"the recording has no {what} of {' '.join(names)}")
        row: dict[str, Any] = answered.rows[0]
        return row


def written(lines: bytes) -> list[tuple[int, float]]:
    """From which offset on JSON lines were written when, as their own `time` tells."""
    found: list[tuple[int, float]] = []
    offset = 0
    for line in lines.splitlines(keepends=True):
        found.append((offset, float(json.loads(line)["time"])))
        offset += len(line)
    return found


def size_at(arrivals: list[tuple[int, float]], size_bytes: int, wall_s: float) -> int:
    """How long a stream was at a time.

    Args:
        arrivals: from which offset on bytes came when.
        size_bytes: its length in the end.
    """
    for offset, came_wall_s in arrivals:
        if came_wall_s > wall_s:
            return offset
    return size_bytes
