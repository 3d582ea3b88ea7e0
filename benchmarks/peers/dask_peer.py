"""Dask distributed: a mapped function that starts the process, on a local cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import dask
from distributed import Client, Future, LocalCluster
from peer import About, BenchmarkError, Options, Peer, drive, raise_for_exit_codes, version_of
from process import run_process


class DaskPeer(Peer[list[Future]]):
    def __init__(self) -> None:
        self._cluster: LocalCluster | None = None
        self._client: Any = None

    def start(self, options: Options) -> About:
        dask.config.set(
            {
                "temporary-directory": str(options.scratch),
                # Tasks queue on the workers instead of the scheduler: half as fast again here.
                "distributed.scheduler.worker-saturation": float("inf"),
            }
        )
        self._cluster = LocalCluster(
            n_workers=options.slots,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
        )
        self._client = Client(self._cluster)
        self._client.wait_for_workers(options.slots, timeout=60)
        return About(
            versions=version_of("dask", "distributed"),
            durability="none: the scheduler keeps all in memory",
            how="Client.map of a function that calls posix_spawn, a worker process per slot, "
            "worker-saturation inf",
        )

    def submit(self, argv: Sequence[str], count: int) -> list[Future]:
        futures: list[Future] = self._client.map(run_process, [tuple(argv)] * count, pure=False)
        return futures

    def wait(self, ticket: list[Future], timeout_s: float) -> None:
        try:
            raise_for_exit_codes(
                self._client.sync(
                    self._client._gather, ticket, callback_timeout=timeout_s, asynchronous=False
                )
            )
        except TimeoutError:
            raise BenchmarkError(f"not done after {timeout_s:.0f} s") from None

    def stop(self) -> None:
        # With a long queue behind it neither ends in time; the harness ends what is left.
        if self._client is not None:
            with contextlib.suppress(TimeoutError):
                self._client.close(timeout=2)
        if self._cluster is not None:
            with contextlib.suppress(TimeoutError):
                self._cluster.close(timeout=5)


if __name__ == "__main__":
    drive(DaskPeer())
