"""What the feed tells, noted beside a test."""

from __future__ import annotations

import asyncio
import threading

from meshtrain.core.changes import Note, TransferRow
from meshtrain.net.zmq_feed import FeedClient


class FeedWatch:
    """Follows the feed in a thread of its own, as a dashboard does."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._client: FeedClient | None = None
        self.ready = threading.Event()
        self.transfers: list[TransferRow] = []
        self.notes: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def of(self, artifact_id: str) -> list[TransferRow]:
        """The transfers of an artifact that were told."""
        return [row for row in self.transfers if row.artifact_id == artifact_id]

    def noted(self, words: str) -> bool:
        """Whether people were told a line with these words."""
        return any(words in text for text in self.notes)

    def close(self) -> None:
        if self._client is not None:
            self._loop.call_soon_threadsafe(self._client.close)
        self._thread.join(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._follow())
        self._loop.close()

    async def _follow(self) -> None:
        self._client = client = FeedClient(self._address)
        async for batch in client.batches():
            self.transfers += [row for row in batch.changes if isinstance(row, TransferRow)]
            self.notes += [row.text for row in batch.changes if isinstance(row, Note)]
            self.ready.set()
