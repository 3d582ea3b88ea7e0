"""Ray: a remote function that starts the process, on a local cluster of one node."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence

from peer import About, BenchmarkError, Options, Peer, drive, raise_for_exit_codes, version_of

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from process import run_process

_STORE_BYTES = 80 * 1024 * 1024


class RayPeer(Peer[list["ray.ObjectRef"]]):
    def start(self, options: Options) -> About:
        # Ray's socket paths must stay below 107 bytes: the harness gives a short TMPDIR.
        ray.init(
            num_cpus=options.slots,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            _temp_dir=tempfile.gettempdir(),
        )
        self._run = ray.remote(num_cpus=1, max_retries=0)(run_process)
        return About(
            versions=version_of("ray"),
            durability="none: queue and results are lost with the driver or the head",
            how="a remote function that calls posix_spawn, one CPU each",
        )

    def submit(self, argv: Sequence[str], count: int) -> list[ray.ObjectRef]:
        remote = self._run.remote
        return [remote(argv) for _ in range(count)]

    def wait(self, ticket: list[ray.ObjectRef], timeout_s: float) -> None:
        try:
            raise_for_exit_codes(ray.get(ticket, timeout=timeout_s))
        except ray.exceptions.GetTimeoutError:
            raise BenchmarkError(f"not done after {timeout_s:.0f} s") from None

    def stop(self) -> None:
        ray.shutdown()


if __name__ == "__main__":
    drive(RayPeer())
