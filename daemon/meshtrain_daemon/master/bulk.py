"""Takes the bytes of logs and metrics from nodes: written, fsynced, counted, then confirmed."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from meshtrain import failpoints
from meshtrain.core.state import MeshState
from meshtrain.net.base import BulkBatch, MasterTransport
from meshtrain.store.base import ReadableStore
from meshtrain.store.failures import StoreFullError
from meshtrain.wire import messages as msg
from meshtrain_daemon.master.logbook import STREAMS, Logbook, end_of
from meshtrain_daemon.master.loops import FULL_RETRY_S, Writer
from meshtrain_daemon.master.reporter import Reporter

WAITING_BYTES_MAX = 32 << 20
"""Bytes that wait for the disk; then the sockets are read no more, and the nodes wait."""
WRITE_BYTES_MAX = 8 << 20
"""Bytes that are written and fsynced in one go: what else is to be committed waits for it."""
OFFSET_MAX = (1 << 63) - 1
MESSAGE_BYTES = 256
"""What a message costs beside its bytes."""


class BulkIntake:
    """The way of bytes from the bulk socket to the logbook.

    Args:
        with_keys: whether a connection's name begins with that of its node, as the
            sockets make sure of where there are keys; then no node's bytes are taken
            for an attempt of another.
    """

    def __init__(
        self,
        *,
        state: MeshState,
        sockets: MasterTransport,
        logbook: Logbook,
        store: ReadableStore,
        writer: Writer,
        reporter: Reporter,
        say: Callable[[str], None],
        with_keys: bool = False,
    ) -> None:
        self._state = state
        self._sockets = sockets
        self._logbook = logbook
        self._store = store
        self._writer = writer
        self._reporter = reporter
        self._say = say
        self._with_keys = with_keys
        self._waiting: deque[tuple[bytes, msg.BulkToMaster]] = deque()
        self._waiting_bytes = 0
        self._came = asyncio.Event()
        #: bytes that were stored, by stream, those too that had come before
        self.stream_bytes: Counter[str] = Counter()

    def take(self, batch: BulkBatch) -> None:
        """Take a batch from the socket; never waits."""
        self._waiting.extend(batch)
        self._waiting_bytes += sum(_size_bytes(message) for _, message in batch)
        if self._waiting_bytes >= WAITING_BYTES_MAX:
            self._sockets.pause_bulk()
        self._came.set()

    def _next(self) -> BulkBatch:
        """What is written together."""
        batch: BulkBatch = []
        size_bytes = 0
        while self._waiting and size_bytes < WRITE_BYTES_MAX:
            batch.append(self._waiting.popleft())
            size_bytes += _size_bytes(batch[-1][1])
        self._waiting_bytes -= size_bytes
        if self._waiting_bytes < WAITING_BYTES_MAX:
            self._sockets.resume_bulk()
        return batch

    async def run(self) -> None:
        """Write, fsync, count, confirm, for ever: what came meanwhile goes together."""
        told = False
        while True:
            if not self._waiting:
                self._came.clear()
                await self._came.wait()
            batch = self._next()
            known = []
            asked: dict[tuple[bytes, str, str, str], bool] = {}
            for peer, message in batch:
                name = (peer, message.job_id, message.attempt_id, message.stream)
                if name not in asked:
                    asked[name] = self._is_of_an_attempt(peer, message)
                if asked[name]:
                    known.append((peer, message))
                else:
                    # Nobody will ever ask for it: let the node be rid of it.
                    end = min(end_of(message), OFFSET_MAX)
                    stored = msg.StreamStored(message.attempt_id, message.stream, end)
                    self._sockets.send_bulk(peer, [stored])
            streams = [message for _, message in known]
            try:
                sizes = await self._writer.count(partial(self._logbook.write, streams))
            except (OSError, StoreFullError) as error:
                # Not confirmed, they are sent again.
                if not told:
                    self._say(f"bytes of logs can't be stored, and wait on their nodes: {error}")
                told = True
                await asyncio.sleep(FULL_RETRY_S)
                continue
            if told:
                self._say("bytes of logs are stored again")
            told = False
            failpoints.reach("log.counted")
            self._logbook.counted(sizes)
            for message in streams:
                if isinstance(message, msg.StreamBytes):
                    self.stream_bytes[message.stream] += len(message.data)
            for size in sizes:
                job = self._state.jobs[size.job_id]
                if job.state.is_terminal:
                    self._reporter.job_ended(job)
            answers: dict[tuple[bytes, str, str], msg.StreamStored] = {}
            for peer, message in known:
                key = (peer, message.attempt_id, message.stream)
                answers[key] = self._logbook.confirmation(message)
            for (peer, _, _), stored in answers.items():
                self._sockets.send_bulk(peer, [stored])
            failpoints.reach("log.confirmed")

    def _is_of_an_attempt(self, peer: bytes, message: msg.BulkToMaster) -> bool:
        """Whether these bytes belong to an attempt that was made: its name becomes a path."""
        job = self._state.jobs.get(message.job_id)
        if job is None or message.stream not in STREAMS:
            return False
        attempt = job.attempt
        if attempt is None or attempt.attempt_id != message.attempt_id:
            attempts = self._store.attempts_of(job.job_id)
            attempt = next((a for a in attempts if a.attempt_id == message.attempt_id), None)
        if attempt is None:
            return False
        return not self._with_keys or peer.startswith(f"{attempt.node_id}/".encode())


def _size_bytes(message: msg.BulkToMaster) -> int:
    data = message.data if isinstance(message, msg.StreamBytes) else b""
    return MESSAGE_BYTES + len(data)
