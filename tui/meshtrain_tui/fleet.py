"""Several meshes as the source of one dashboard: all are followed, one is shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from meshtrain.clock import lease_now_s
from meshtrain.core.job import JobState
from meshtrain.core.pages import Page, PageQuery
from meshtrain.core.view import MeshView
from meshtrain.errors import UserError
from meshtrain.net.zmq_feed import FeedBatch
from meshtrain.wire.messages import Answer, Done, FromPerson
from meshtrain_tui.feed import STALE_AFTER_S, Source, no_inbox
from meshtrain_tui.steering.submission import Receipt
from meshtrain_tui.widgets.status import slots_of

MESHES_MAX = 32
"""That one dashboard follows."""
CHANGES_MAX = 20_000
"""Of one mesh that wait to be drawn; nobody needs them one by one."""

Ask = Callable[[FromPerson, float | None], Awaitable[Done | Answer]]
Submit = Callable[[Path], Awaitable[Receipt]]


@dataclass(slots=True)
class Mesh:
    """One of the meshes."""

    address: str
    open_source: Callable[[], Source]
    """Opens its feed; called within the running loop."""
    ask: Ask | None = None
    ask_inbox: Callable[[], Awaitable[str]] = no_inbox
    submit: Submit | None = None
    source: Source | None = None
    pending: list[FeedBatch] = field(default_factory=list)


class Standing(msgspec.Struct, frozen=True):
    """How one mesh stands, for its line."""

    address: str
    live: bool
    trouble: str
    nodes: int = 0
    slots_used: int = 0
    slots: int = 0
    sweeps_open: int = 0
    jobs: int = 0
    """Of all sweeps, and how many of them ended, run and failed."""
    ended: int = 0
    running: int = 0
    failed: int = 0


class Fleet:
    """The meshes. As a source it is the one that is chosen.

    Raises UserError when there are none, too many, or one twice.
    """

    def __init__(self, meshes: Sequence[Mesh], *, now_s: Callable[[], float] = lease_now_s) -> None:
        addresses = [mesh.address for mesh in meshes]
        if not 1 <= len(meshes) <= MESHES_MAX:
            raise UserError(f"name 1 to {MESHES_MAX} masters, not {len(meshes)}")
        if len(set(addresses)) < len(addresses):
            twice = next(address for address in addresses if addresses.count(address) > 1)
            raise UserError(f"the master {twice} is named twice: name each once")
        self._meshes = tuple(meshes)
        self._now_s = now_s
        self._chosen = 0
        self._stir = asyncio.Event()
        self._closed = False
        self._following: list[asyncio.Task[None]] = []

    @property
    def chosen(self) -> int:
        """The place of the mesh that is shown."""
        return self._chosen

    @property
    def mesh(self) -> Mesh:
        """The mesh that is shown."""
        return self._meshes[self._chosen]

    def __len__(self) -> int:
        return len(self._meshes)

    def choose(self, place: int) -> None:
        """Show another mesh; places go round."""
        self._chosen = place % len(self._meshes)
        # All that waits is in the view, which is shown as a whole.
        self.mesh.pending[:] = [FeedBatch(0, 0, (), whole=True)]
        self._stir.set()

    def standings(self) -> list[Standing]:
        """How each mesh stands."""
        return [self._standing(mesh) for mesh in self._meshes]

    # --- a source ------------------------------------------------------------------------

    @property
    def view(self) -> MeshView:
        source = self.mesh.source
        return MeshView() if source is None else source.view

    @property
    def trouble(self) -> str:
        source = self.mesh.source
        return "connecting" if source is None else source.trouble

    @property
    def last_heard_s(self) -> float | None:
        source = self.mesh.source
        return None if source is None else source.last_heard_s

    async def batches(self) -> AsyncIterator[FeedBatch]:
        """The news of the mesh that is shown; a whole picture when another is chosen."""
        for mesh in self._meshes:
            mesh.source = mesh.open_source()
            self._following.append(asyncio.create_task(self._follow(mesh)))
        try:
            while not self._closed:
                self._stir.clear()
                pending = self.mesh.pending
                if pending:
                    batches, pending[:] = list(pending), []
                    for batch in batches:
                        yield batch
                    continue
                for task in self._following:
                    if task.done():
                        # What ends one feed unasked is a fault, and ends them all.
                        task.result()
                await self._stir.wait()
        finally:
            self.close()

    async def page(self, query: PageQuery) -> Page:
        """A page of the mesh that is shown. Raises MeshtrainError when it can't be had."""
        if self.mesh.source is None:
            raise UserError("the dashboard is not connected yet")
        return await self.mesh.source.page(query)

    async def ask(self, message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
        """Asks the master of the mesh that is shown. Raises as that does."""
        ask = self.mesh.ask
        if ask is None:
            raise UserError(f"there is no master to ask at {self.mesh.address}")
        return await ask(message, timeout_s)

    async def submit(self, file: Path) -> Receipt:
        """Give a job file to the mesh that is shown. Raises MeshtrainError with its words."""
        submit = self.mesh.submit
        if submit is None:
            raise UserError(f"there is no master to submit to at {self.mesh.address}")
        return await submit(file)

    async def ask_inbox(self) -> str:
        """The folder that the mesh that is shown watches."""
        return await self.mesh.ask_inbox()

    def close(self) -> None:
        """Close all feeds; harmless when closed."""
        if self._closed:
            return
        self._closed = True
        for mesh in self._meshes:
            if mesh.source is not None:
                mesh.source.close()
        for task in self._following:
            task.cancel()
        self._stir.set()

    async def _follow(self, mesh: Mesh) -> None:
        assert mesh.source is not None
        try:
            async for batch in mesh.source.batches():
                if mesh is not self.mesh:
                    continue
                mesh.pending.append(batch)
                if sum(len(waiting.changes) for waiting in mesh.pending) > CHANGES_MAX:
                    mesh.pending[:] = [FeedBatch(0, 0, (), whole=True)]
                self._stir.set()
        finally:
            self._stir.set()

    def _standing(self, mesh: Mesh) -> Standing:
        source = mesh.source
        if source is None:
            return Standing(mesh.address, live=False, trouble="connecting")
        view, heard_s = source.view, source.last_heard_s
        live = heard_s is not None and self._now_s() - heard_s <= STALE_AFTER_S
        nodes = [node for node in view.nodes.values() if node.connected]
        tallies = [(sweep.jobs, view.progress(sweep.sweep_id)) for sweep in view.sweeps.values()]
        return Standing(
            address=mesh.address,
            live=live,
            trouble="" if live else source.trouble,
            nodes=len(nodes),
            slots_used=sum(slots_of(node)[0] for node in nodes),
            slots=sum(slots_of(node)[1] for node in nodes),
            sweeps_open=sum(tally.ended < jobs for jobs, tally in tallies),
            jobs=sum(jobs for jobs, _ in tallies),
            ended=sum(tally.ended for _, tally in tallies),
            running=sum(tally.running for _, tally in tallies),
            failed=sum(tally.states[JobState.FAILED] for _, tally in tallies),
        )
