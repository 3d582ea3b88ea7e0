"""The worker's daemon as a whole, as far as no master is needed."""

from __future__ import annotations

import inspect
from pathlib import Path

from meshtrain.spec.settings_loading import worker_settings
from meshtrain_daemon.worker.node import WorkerNode


def test_work_that_comes_while_the_daemon_leaves_is_for_the_next_one(tmp_path: Path) -> None:
    """A GPU job may end in that moment: it is told once its memory is back, by the next."""

    async def tell() -> None:
        raise AssertionError("it is not begun")

    flags = {"home": tmp_path, "gpus": (), "gpu_locks": tmp_path}
    node = WorkerNode(worker_settings(flags=flags), lambda line: None)
    work = tell()
    assert node._spawn(work) is None
    assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED
