"""Parsl: a Python app that starts the process, on the high-throughput executor."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider
from peer import About, BenchmarkError, Options, Peer, drive, raise_for_exit_codes, version_of
from process import run_process


class ParslPeer(Peer[list["Future[int]"]]):
    def start(self, options: Options) -> About:
        executor = HighThroughputExecutor(
            label="bench",
            address="127.0.0.1",
            max_workers_per_node=options.slots,
            prefetch_capacity=2 * options.slots,
            encrypted=False,
            provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
        )
        parsl.load(
            Config(
                executors=[executor],
                run_dir=str(options.scratch / "runinfo"),
                strategy="none",
                initialize_logging=False,
                retries=0,
            )
        )
        self._run: Any = parsl.python_app(run_process, cache=False)
        return About(
            versions=version_of("parsl"),
            durability="none: the queue lives in the submitting process",
            how="a Python app that calls posix_spawn, high-throughput executor, "
            "prefetch 2 per slot, unencrypted",
        )

    def submit(self, argv: Sequence[str], count: int) -> list[Future[int]]:
        run = self._run
        return [run(argv) for _ in range(count)]

    def wait(self, ticket: list[Future[int]], timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        try:
            raise_for_exit_codes(
                [future.result(max(0.0, deadline_s - time.monotonic())) for future in ticket]
            )
        except TimeoutError:
            raise BenchmarkError(f"not done after {timeout_s:.0f} s") from None

    def stop(self) -> None:
        loader = parsl.DataFlowKernelLoader
        try:
            kernel = loader.dfk()
        except parsl.errors.NoDataFlowKernelError:
            return
        kernel.cleanup()
        loader.clear()


if __name__ == "__main__":
    drive(ParslPeer())
