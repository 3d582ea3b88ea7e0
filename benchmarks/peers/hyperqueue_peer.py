"""HyperQueue: one job whose tasks are the processes, server and worker from the Python wheel."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

from hyperqueue import LocalCluster
from hyperqueue.cluster import WorkerConfig
from hyperqueue.ffi import JobId
from hyperqueue.ffi.protocol import JobDescription, ResourceRequest, TaskDescription
from peer import About, BenchmarkError, Options, Peer, drive, version_of

_POLL_S = 0.01
_FAILURE_CHECK_S = 0.5


class HyperQueuePeer(Peer[JobId]):
    chunk_jobs = 10_000

    def __init__(self) -> None:
        self._cluster: LocalCluster | None = None

    def start(self, options: Options) -> About:
        if [name for _, name in socket.if_nameindex()] != ["lo"]:
            raise BenchmarkError(
                "HyperQueue listens on every interface: start it through loopback_only.py"
            )
        os.environ["RUST_LOG"] = "error"
        self._work = str(options.scratch)
        self._cluster = LocalCluster(
            server_dir=str(options.scratch / "server"),
            worker_config=WorkerConfig(cores=options.slots),
        )
        self._connection = self._cluster.client().connection
        return About(
            versions=version_of("hyperqueue"),
            durability="none: the journal is off",
            how="one job with a task per process, no output files",
        )

    def submit(self, argv: Sequence[str], count: int) -> JobId:
        tasks = [
            TaskDescription(
                id=index,
                args=list(argv),
                cwd=self._work,
                stdout=None,
                stderr=None,
                stdin=None,
                env={},
                dependencies=[],
                task_dir=False,
                priority=0,
                resource_request=[ResourceRequest(cpus=1)],
                crash_limit=None,
            )
            for index in range(count)
        ]
        return self._connection.submit_job(JobDescription("bench", tasks, max_fails=None))

    def wait(self, ticket: JobId, timeout_s: float) -> None:
        # Its own wait looks once a second; forgetting is refused until a job has ended.
        deadline_s = time.monotonic() + timeout_s
        next_check_s = 0.0
        while True:
            # Once it is forgotten nothing can be asked of it; asking at every turn would slow it.
            if time.monotonic() >= next_check_s:
                if self._connection.get_failed_tasks([ticket])[ticket]:
                    raise BenchmarkError(f"job {ticket} has failed tasks")
                next_check_s = time.monotonic() + _FAILURE_CHECK_S
            try:
                self._connection.forget_job(ticket)
                return
            except RuntimeError:
                if time.monotonic() > deadline_s:
                    raise BenchmarkError(f"not done after {timeout_s:.0f} s") from None
            time.sleep(_POLL_S)

    def stop(self) -> None:
        if self._cluster is not None:
            self._cluster.stop()


if __name__ == "__main__":
    drive(HyperQueuePeer())
