"""A mesh that is told by hand, and a master that answers by hand, to be recorded and replayed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from meshtrain.core.changes import BaseRow, Change, JobRow, NodeRow, Note, SweepRow, TransferRow
from meshtrain.core.job import BaseState, JobKind, JobState
from meshtrain.core.view import MeshView
from meshtrain.errors import NotFoundError
from meshtrain.net.zmq_feed import FeedBatch
from meshtrain.wire.messages import Answer, Done, FromPerson, Query
from meshtrain_tui.recorder import Recorder
from meshtrain_tui.recording import Recording, RecordingFile, apply_all

WALL_S = 1_700_000_000.0
PARENT, CHILD = "51be" + "0" * 25 + "a90", "7f3a" + "0" * 25 + "c21"


class Told:
    """Tells batches, each at a time of its own, and ends."""

    def __init__(self, batches: Sequence[FeedBatch], each: Callable[[int], object]) -> None:
        self.view = MeshView()
        self.trouble = ""
        self.closed = False
        self._batches = batches
        self._each = each

    async def batches(self) -> AsyncIterator[FeedBatch]:
        for index, batch in enumerate(self._batches):
            self._each(index)
            if batch.whole:
                self.view = MeshView()
            apply_all(self.view, batch.changes)
            yield batch

    def close(self) -> None:
        self.closed = True


def node(node_id: str, **changed: Any) -> NodeRow:
    given: dict[str, Any] = {
        "connected": True,
        "drained": False,
        "accepting": True,
        "cpu_slots": 4,
        "cpus_used": 0,
        "gpus": (),
        "gpus_used": (),
        "memory_bytes": 0,
        "holds": 0,
    }
    return NodeRow(node_id, **(given | changed))


def job(name: str, state: JobState = JobState.WAITING, **changed: Any) -> JobRow:
    return JobRow(name, f"few_shot/{name}", JobKind.EXPERIMENT, state, "s1", **changed)


def base(recipe_hash: str = CHILD, **changed: Any) -> BaseRow:
    given: dict[str, Any] = {"label": "cnn", "state": BaseState.COMMITTED}
    return BaseRow(recipe_hash, **(given | changed))


def a_day() -> list[FeedBatch]:
    """A sweep that starts, runs and ends, told in batches."""
    told: list[list[Change]] = [
        [node("gpu1"), node("gpu2"), SweepRow("s1", "few_shot", 3, 1, 0, WALL_S), base()],
        [job("a"), job("b"), job("c"), Note(WALL_S, "few_shot came")],
        [job("a", JobState.RUNNING, node_id="gpu1", started_wall_s=WALL_S + 20)],
        [TransferRow("ar7", "gpu2", {"gpu1": 700, "master": 30}, 0.5, wall_s=WALL_S + 30)],
        [job("a", JobState.SUCCEEDED, started_wall_s=WALL_S + 20, ended_wall_s=WALL_S + 40)],
        [job("b", JobState.FAILED, failure="out of memory: 24 GB"), Note(WALL_S + 50, "b failed")],
    ]
    return [
        FeedBatch(1, index + 1, tuple(changes), whole=index == 0)
        for index, changes in enumerate(told)
    ]


def rows_of(view: MeshView) -> tuple[object, ...]:
    """All that a view says, to be compared."""
    return (
        view.jobs,
        view.sweeps,
        view.bases,
        view.nodes,
        view.transfers,
        view.notes,
        view.moved,
        {sweep_id: view.progress(sweep_id) for sweep_id in view.sweeps},
        view.saved(),
    )


async def recorded(
    path: Path,
    batches: Sequence[FeedBatch],
    *,
    answers: dict[tuple[str, tuple[str, ...]], Answer] | None = None,
    every_s: float = 10.0,
    add: bool = False,
) -> Told:
    """Record batches that come every so many seconds; the source as it was at its end."""
    clock = {"wall_s": WALL_S}

    async def ask(message: FromPerson) -> Done | Answer:
        assert isinstance(message, Query)
        answer = (answers or {}).get((message.what, message.names))
        if answer is None:
            raise NotFoundError("not here")
        return Answer(message.request_id, rows=answer.rows, total=answer.total)

    source = Told(batches, lambda index: clock.update(wall_s=WALL_S + index * every_s))
    with RecordingFile(path, add=add) as file:
        recorder = Recorder(
            source,
            file,
            address="127.0.0.1:7470",
            bytes_max=1 << 30,
            now_wall_s=lambda: clock["wall_s"],
        )
        await recorder.run()
        await recorder.ask_again(ask)
    return source


def recording(path: Path) -> Recording:
    return Recording(path)
