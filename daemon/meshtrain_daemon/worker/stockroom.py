"""The node's artifacts on its disk, as the agent moves them: fetched, removed, remembered."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from meshtrain.artifacts.cached import note_use
from meshtrain.artifacts.failures import DiskFullError
from meshtrain.artifacts.fetch import Fetcher
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.core.commands import ArtifactSource
from meshtrain.core.job import Failure, FailureClass
from meshtrain.core.source_book import KnownSources
from meshtrain.errors import ArtifactError
from meshtrain_daemon.worker import translate
from meshtrain_daemon.worker.aside import DiskWork

SOURCES_NAME = "sources.msgpack"
"""In the node's home: who holds what, for when the master is away."""
SOURCES_BYTES_MAX = 64 << 20

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[KnownSources, ...]).decode


class Stockroom:
    """Carries out what the agent wants of the node's artifacts; each answer is an event.

    Args:
        node_id: this node.
        home: its folder.
        disk: where work on the disk is done.
        master_host: where this node reaches the master.
        post: gives an event to the agent.
        spawn: runs something beside.
        say: shows a line to people.
    """

    def __init__(
        self,
        *,
        node_id: str,
        home: Path,
        store: ArtifactStore,
        fetcher: Fetcher,
        disk: DiskWork,
        master_host: str,
        post: Callable[[io.AgentEvent], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        say: Callable[[str], None],
    ) -> None:
        self._node_id = node_id
        self._sources_path = home / SOURCES_NAME
        self._store = store
        self._fetcher = fetcher
        self._disk = disk
        self._master_host = master_host
        self._post = post
        self._spawn = spawn
        self._say = say
        #: what is asked for, and is begun as soon as this turn of the loop is over
        self._starting: dict[str, list[ArtifactSource]] = {}
        #: what is to be kept next, and whether some is being kept now
        self._sources: tuple[KnownSources, ...] | None = None
        self._keeps = False

    def fetch(self, artifact_id: str, sources: tuple[ArtifactSource, ...]) -> None:
        """Fetch an artifact; `ArtifactFetched` or `FetchGaveUp` follows."""
        self._starting[artifact_id] = wanted = list(sources)
        self._spawn(self._fetch(artifact_id, wanted))

    def add_sources(self, artifact_id: str, sources: tuple[ArtifactSource, ...]) -> None:
        """Tell a fetch of more holders."""
        self._starting.get(artifact_id, []).extend(sources)
        for source in sources:
            self._fetcher.add_source(artifact_id, translate.source_of(source, self._master_host))

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact; `ArtifactRemoved` follows."""
        self._spawn(self._remove(artifact_id))

    def note_use(self, artifact_id: str) -> None:
        """Remember that an artifact is used now."""
        note_use(self._store, artifact_id)

    def keep_sources(self, known: tuple[KnownSources, ...]) -> None:
        """Remember who holds what; of several that come meanwhile, the last counts."""
        self._sources = known
        if not self._keeps:
            self._keeps = True
            self._spawn(self._keep_sources())

    async def _fetch(self, artifact_id: str, sources: list[ArtifactSource]) -> None:
        if self._starting.get(artifact_id) is sources:
            del self._starting[artifact_id]
        try:
            report = await self._fetcher.fetch(
                artifact_id, [translate.source_of(s, self._master_host) for s in sources]
            )
            size_bytes = await self._disk.do(lambda: self._store.size_bytes(artifact_id))
        except DiskFullError as error:
            self._gave_up(artifact_id, FailureClass.DISK, error)
        except ArtifactError as error:
            self._gave_up(artifact_id, FailureClass.NETWORK, error)
        else:
            self._post(
                io.ArtifactFetched(
                    artifact_id,
                    report.bytes_by_node,
                    report.duration_s,
                    size_bytes,
                    report.bytes_reused,
                    report.banned,
                )
            )

    def _gave_up(self, artifact_id: str, failure_class: FailureClass, error: Exception) -> None:
        failure = Failure(failure_class, str(error), self._node_id)
        self._post(io.FetchGaveUp(artifact_id, failure))

    async def _remove(self, artifact_id: str) -> None:
        try:
            await self._disk.do(lambda: self._store.remove(artifact_id))
        except ArtifactError as error:
            self._post(io.ArtifactRemoved(artifact_id, str(error)))
        else:
            self._post(io.ArtifactRemoved(artifact_id))

    async def _keep_sources(self) -> None:
        try:
            while self._sources is not None:
                known, self._sources = self._sources, None
                await self._disk.do(lambda kept=known: self._write(kept))  # type: ignore[misc]
        finally:
            self._keeps = False

    def _write(self, known: tuple[KnownSources, ...]) -> None:
        written = self._sources_path.with_suffix(".tmp")
        try:
            written.write_bytes(_encode(known))
            written.replace(self._sources_path)
        except OSError as error:
            # It only helps a daemon that starts while the master is away.
            self._say(f"{self._sources_path} can't be written: {error.strerror}")


def read_sources(home: Path, say: Callable[[str], None]) -> tuple[KnownSources, ...]:
    """What a former daemon knew of who holds what; nothing where that can't be read."""
    path = home / SOURCES_NAME
    try:
        if path.stat().st_size > SOURCES_BYTES_MAX:
            raise ValueError("it is too large")
        return _decode(path.read_bytes())
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        say(f"{path} is not read, the master will tell who holds what: {error}")
        return ()
