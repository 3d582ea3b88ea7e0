"""Celery with Redis, durable: each write to the append-only file is fsynced, acks come late."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import redis
from peer import About, BenchmarkError, Options, Peer, drive, raise_for_exit_codes, version_of

if TYPE_CHECKING:
    from celery.result import AsyncResult

_QUEUE = "celery"
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 5.0
_PIPELINE_JOBS = 1000


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class CeleryPeer(Peer["list[AsyncResult]"]):
    def __init__(self) -> None:
        self._processes: list[tuple[subprocess.Popen[bytes], signal.Signals]] = []

    def start(self, options: Options) -> About:
        server = shutil.which("redis-server")
        if server is None:
            raise BenchmarkError("redis-server isn't installed: apt-get install -y redis-server")
        port = _unused_port()
        os.environ["BENCH_REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
        folder = options.scratch / "redis"
        folder.mkdir()
        self._spawn(
            server,
            *("--bind", "127.0.0.1", "--port", str(port)),
            *("--dir", str(folder), "--logfile", str(folder / "log")),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
            *("--auto-aof-rewrite-percentage", "0"),
            stop_signal=signal.SIGTERM,
        )
        self._redis = redis.Redis(port=port)
        self._await_redis()

        import celery_app

        self._run: Any = celery_app.run
        self._spawn(
            *(sys.executable, "-m", "celery", "-A", "celery_app", "worker"),
            *("--pool", "prefork", "--concurrency", str(options.slots), "-O", "fair"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            *("--loglevel", "ERROR"),
            stop_signal=signal.SIGQUIT,  # on SIGTERM it would first work through its prefetch
        )
        settings = self._redis.config_get("append*")
        if settings["appendfsync"] != "always" or settings["appendonly"] != "yes":
            raise BenchmarkError(f"Redis didn't take its durability settings: {settings}")
        return About(
            versions={
                **version_of("celery", "kombu", "redis"),
                "redis-server": self._redis.info("server")["redis_version"],
            },
            durability="Redis AOF, appendfsync always, acks late: tasks and results are fsynced",
            how="a task that calls posix_spawn, prefork pool, prefetch 4 per slot",
        )

    def _spawn(self, *argv: str, stop_signal: signal.Signals) -> None:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self._processes.append((process, stop_signal))

    def _await_redis(self) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                self._redis.ping()
                return
            except redis.exceptions.ConnectionError:
                if time.monotonic() > deadline_s or self._processes[0][0].poll() is not None:
                    raise BenchmarkError("redis-server didn't start") from None
                time.sleep(0.02)

    def submit(self, argv: Sequence[str], count: int) -> list[AsyncResult]:
        apply_async = self._run.apply_async
        arguments = (list(argv),)
        return [apply_async(arguments) for _ in range(count)]

    def wait(self, ticket: list[AsyncResult], timeout_s: float) -> None:
        from celery.exceptions import TimeoutError as CeleryTimeoutError

        deadline_s = time.monotonic() + timeout_s
        try:
            raise_for_exit_codes(
                [result.get(max(0.001, deadline_s - time.monotonic())) for result in ticket]
            )
        except CeleryTimeoutError:
            raise BenchmarkError(f"not done after {timeout_s:.0f} s") from None

    def fill(self, argv: Sequence[str], count: int, deadline_s: float) -> int:
        """Pushes copies of one real message, each under its own id, onto the queue's Redis list.

        The queue ends up as if each had been sent by itself, which takes minutes.
        """
        [model] = self.submit(argv, 1)
        raw = self._redis.lpop(_QUEUE)  # Celery pushes on the left and takes from the right
        if not isinstance(raw, bytes):
            raise BenchmarkError("the message to copy wasn't in the queue")
        model_id = model.id.encode()
        if model_id not in raw:
            raise BenchmarkError("the queue's newest message wasn't the one just sent")
        delivery_tag = json.loads(raw)["properties"]["delivery_tag"].encode()
        queued = 0
        while queued < count and time.monotonic() < deadline_s:
            chunk = min(_PIPELINE_JOBS, count - queued)
            copies = [
                raw.replace(model_id, str(uuid.uuid4()).encode()).replace(
                    delivery_tag, str(uuid.uuid4()).encode()
                )
                for _ in range(chunk)
            ]
            self._redis.lpush(_QUEUE, *copies)
            queued += chunk
        depth = self._redis.llen(_QUEUE)
        if depth < queued:
            raise BenchmarkError(f"{queued} jobs were pushed, yet only {depth} wait")
        return queued

    def stop(self) -> None:
        for process, stop_signal in reversed(self._processes):
            process.send_signal(stop_signal)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


if __name__ == "__main__":
    drive(CeleryPeer())
