"""Takes the bytes of logs and metrics from nodes: written, fsynced, counted, then confirmed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from meshtrain.core.state import MeshState
from meshtrain.net.base import BulkBatch, MasterTransport
from meshtrain.store.base import ReadableStore
from meshtrain.store.failures import StoreFullError
from meshtrain.wire import messages as msg
from meshtrain_daemon.master.logbook import STREAMS, Logbook
from meshtrain_daemon.master.loops import FULL_RETRY_S, Writer
from meshtrain_daemon.master.reporter import Reporter

WAITING_MAX = 64
"""Batches of bytes that wait for the disk; then the sockets are read no more."""


class BulkIntake:
    """The way of bytes from the bulk socket to the logbook."""

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
    ) -> None:
        self._state = state
        self._sockets = sockets
        self._logbook = logbook
        self._store = store
        self._writer = writer
        self._reporter = reporter
        self._say = say
        self._waiting: asyncio.Queue[BulkBatch] = asyncio.Queue()

    def take(self, batch: BulkBatch) -> None:
        """Take a batch from the socket; never waits."""
        self._waiting.put_nowait(batch)
        if self._waiting.qsize() >= WAITING_MAX:
            self._sockets.pause_bulk()

    async def run(self) -> None:
        """Write, fsync, count, confirm, for ever: what came meanwhile goes together."""
        while True:
            batch = await self._waiting.get()
            while not self._waiting.empty():
                batch = batch + self._waiting.get_nowait()
            self._sockets.resume_bulk()
            known = []
            for peer, message in batch:
                if self._is_of_an_attempt(message):
                    known.append((peer, message))
                else:
                    # Nobody will ever ask for it: let the node be rid of it.
                    end = message.offset + len(message.data)
                    stored = msg.StreamStored(message.attempt_id, message.stream, end)
                    self._sockets.send_bulk(peer, [stored])
            streams = [message for _, message in known]
            try:
                sizes = await self._writer.count(partial(self._logbook.write, streams))
            except (OSError, StoreFullError) as error:
                # Not confirmed, they are sent again.
                self._say(f"bytes of logs can't be stored: {error}")
                await asyncio.sleep(FULL_RETRY_S)
                continue
            self._logbook.counted(sizes)
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

    def _is_of_an_attempt(self, message: msg.StreamBytes) -> bool:
        """Whether these bytes belong to an attempt that was made: its name becomes a path."""
        job = self._state.jobs.get(message.job_id)
        if job is None or message.stream not in STREAMS:
            return False
        if job.attempt is not None and job.attempt.attempt_id == message.attempt_id:
            return True
        attempts = self._store.attempts_of(job.job_id)
        return any(attempt.attempt_id == message.attempt_id for attempt in attempts)
