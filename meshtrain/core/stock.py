"""The artifacts of a node: what lies there, what comes, what goes; all told to the master.

              want                 come
    (missing) ────► fetching ────────────► held ◄──── stored: outputs, checkpoints
                      │  ▲                  │ ▲
        no room; or   ▼  │ room; time       ▼ │ kept: needed, or the disk refused
        nobody gives paused              removing ────► gone
        while the master is away

Something that is being removed is needed again only after it is gone: then it
is fetched anew.

What a job left is an artifact of unknown content until it is stored: it may be
the very one that goes. So nothing is removed while something is being stored,
nor stored while something is removed; each waits for those of the other kind
that were asked for before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from meshtrain.core import agent_io as io
from meshtrain.core import commands as cmd
from meshtrain.core.cache import Cache, Cached, CacheLimits
from meshtrain.core.inventory import (
    CacheUse,
    Holding,
    InventoryChange,
    InventoryLog,
    RoomWanted,
)
from meshtrain.core.job import FailureClass
from meshtrain.core.source_book import KnownSources, SourceBook

PAUSE_S_MAX = 60.0
"""A fetch that finds no room for so long is given up: its job goes elsewhere."""
RETRY_S = 5.0
"""Between tries of a fetch that is paused, where nothing tells that it may go on."""
NEVER_S = float("inf")
UNFINISHED_MAX = 4
"""Fetches of the former daemon that are gone on with before the master is there."""

Storing = io.StoreOutput | io.StoreCheckpoint
"""What makes an artifact of something that a job left."""


@dataclass(slots=True)
class Wanted:
    """An artifact that is on its way here."""

    size_bytes: int = 0
    #: nothing needs it yet
    ahead: bool = False
    #: since when, and until the next try, it waits; and whether for room
    paused_s: float | None = None
    again_s: float = 0.0
    lacks_room: bool = False


@dataclass(frozen=True, slots=True)
class Removal:
    """An artifact that is to go once nothing is being stored."""

    #: the session in which the master granted it; None where it is dropped
    session: str | None
    #: whether it goes then later still, when nothing here needs it
    later: bool = False


class Stock:
    """What lies on the node.

    Args:
        limits: what the cache may take.
        found: what lies there at the start, whole.
        known: what a former daemon knew of who holds what.
        session: the name of the session that messages belong to; it changes.
        do: takes each effect.
        needed: artifacts that must stay, and what needs each.
    """

    def __init__(
        self,
        *,
        limits: CacheLimits,
        found: Iterable[Cached],
        known: Iterable[KnownSources],
        session: str,
        do: Callable[[io.AgentEffect], None],
        needed: Callable[[], Mapping[str, str]],
        now_s: float = 0.0,
    ) -> None:
        self.session = session
        self.now_s = now_s
        found = tuple(found)
        self.holds = {one.artifact_id for one in found}
        self.cache = Cache(limits, found, now_s)
        self.book = SourceBook(known)
        self.log = InventoryLog()
        self.fetching: dict[str, Wanted] = {}
        self.removing: set[str] = set()
        #: what is to go when nothing here needs it any more
        self._unwanted: set[str] = set()
        #: what is being stored; what waits for that to go; what waits for that to be stored
        self._storing: set[tuple[type[Storing], str]] = set()
        self._to_remove: dict[str, Removal] = {}
        self._to_store: list[Storing] = []
        self._do = do
        self._needed = needed

    # --- coming -------------------------------------------------------------------------

    def go_on(self) -> None:
        """Fetch what the former daemon was fetching: the master need not be there."""
        for line in self.book.unfinished()[:UNFINISHED_MAX]:
            if line.artifact_id not in self.holds and line.sources:
                need = cmd.ArtifactNeed(line.artifact_id, line.sources, line.size_bytes)
                self.want(need, ahead=True)

    def has(self, need: cmd.ArtifactNeed) -> bool:
        """Whether it is here, and stays; notes that it is used."""
        # What came once more while it is being removed goes with the rest of it.
        if need.artifact_id not in self.holds or need.artifact_id in self.removing:
            return False
        self._want_after_all(need.artifact_id)
        self.use(need.artifact_id)
        return True

    def use(self, artifact_id: str) -> None:
        """Something needs an artifact, or has just needed it."""
        if self.cache.use(artifact_id, self.now_s):
            self._do(io.NoteUse(artifact_id))

    def want(self, need: cmd.ArtifactNeed, *, ahead: bool = False) -> None:
        """Have an artifact fetched that is not here."""
        artifact_id = need.artifact_id
        self.book.learn(artifact_id, need.sources, need.size_bytes)
        wanted = self.fetching.get(artifact_id)
        if wanted is not None:
            wanted.ahead = wanted.ahead and ahead
            wanted.size_bytes = need.size_bytes or wanted.size_bytes
            if wanted.paused_s is None:
                self._do(io.AddFetchSources(artifact_id, need.sources))
            return
        self.fetching[artifact_id] = Wanted(need.size_bytes, ahead)
        if artifact_id not in self.removing:
            self._do(io.FetchArtifact(artifact_id, need.sources))

    def fetch_ahead(self, need: cmd.ArtifactNeed) -> None:
        """Fetch what will be needed, unless something would have to go for it."""
        here = need.artifact_id in self.holds or need.artifact_id in self.fetching
        if not here and self._room_bytes() >= need.size_bytes:
            self.want(need, ahead=True)

    def add_sources(self, artifact_id: str, sources: tuple[cmd.ArtifactSource, ...]) -> None:
        """More nodes hold something that may be on its way here."""
        wanted = self.fetching.get(artifact_id)
        if wanted is None:
            return
        self.book.learn(artifact_id, sources)
        if wanted.paused_s is None and artifact_id not in self.removing:
            self._do(io.AddFetchSources(artifact_id, sources))
        elif not wanted.lacks_room:
            self._try_again(artifact_id, wanted)

    def came(self, event: io.ArtifactFetched) -> bool:
        """An artifact has come whole; False where it is being removed, and goes again.

        Who wants it then has it fetched anew once it is gone.
        """
        if event.artifact_id in self.removing:
            again = self.fetching.get(event.artifact_id)
            if again is not None:
                again.again_s = self.now_s
            return False
        wanted = self.fetching.pop(event.artifact_id, None)
        size_bytes = event.size_bytes or (wanted.size_bytes if wanted is not None else 0)
        self.book.finish(event.artifact_id)
        self._hold(event.artifact_id, size_bytes)
        change = InventoryChange(event.artifact_id, Holding.HELD, size_bytes)
        self._tell((change,), event)
        return True

    def gave_up(self, event: io.FetchGaveUp, *, master_is_there: bool) -> bool:
        """A fetch has failed; False where it only waits.

        It waits for room, for a time; and, while nobody could give its jobs to
        other nodes, for its sources.
        """
        wanted = self.fetching.get(event.artifact_id)
        if wanted is None:
            return True
        lacks_room = event.failure.failure_class is FailureClass.DISK
        since_s = self.now_s if wanted.paused_s is None else wanted.paused_s
        patient = self.now_s - since_s < PAUSE_S_MAX and lacks_room
        if (patient or not master_is_there) and not (wanted.ahead and lacks_room):
            wanted.paused_s = since_s
            wanted.again_s = self.now_s + RETRY_S
            wanted.lacks_room = lacks_room
            return False
        del self.fetching[event.artifact_id]
        self.book.finish(event.artifact_id)
        return True

    def try_again(self, *, has_room: bool = False) -> None:
        """Go on with the fetches that waited long enough, or (`has_room`) for what is there now."""
        for artifact_id, wanted in self.fetching.items():
            is_due = wanted.again_s <= self.now_s or (has_room and wanted.lacks_room)
            if wanted.paused_s is not None and artifact_id not in self.removing and is_due:
                self._try_again(artifact_id, wanted)

    def _try_again(self, artifact_id: str, wanted: Wanted) -> None:
        if wanted.again_s == NEVER_S:
            return
        # One try at a time: it ends in `came` or `gave_up`.
        wanted.again_s = NEVER_S
        self._do(io.FetchArtifact(artifact_id, self.book.of(artifact_id)))

    @property
    def paused_note(self) -> str:
        """What to tell people while fetches wait for room; else empty."""
        waiting = [w for w in self.fetching.values() if w.paused_s is not None and w.lacks_room]
        if not waiting:
            return ""
        size_bytes = sum(wanted.size_bytes for wanted in waiting)
        much = f" of {size_bytes / 1e6:.0f} MB" if size_bytes else ""
        return f"paused: its disk has no room for {_count(len(waiting), 'artifact')}{much}"

    # --- stored here ----------------------------------------------------------------------

    def store(self, effect: Storing) -> None:
        """Have something that a job left stored, once nothing is being removed."""
        if self.removing or self._to_remove:
            self._to_store.append(effect)
        else:
            self._store(effect)

    def _store(self, effect: Storing) -> None:
        self._storing.add((type(effect), effect.assignment.attempt_id))
        self._do(effect)

    def store_is_over(self, kind: type[Storing], attempt_id: str) -> None:
        """Something is stored, or could not be."""
        self._storing.discard((kind, attempt_id))

    def take_turns(self) -> None:
        """Let go what waited for the last thing that was being stored; then store what waits."""
        while self._to_remove and not self._storing:
            artifact_id = next(iter(self._to_remove))
            removal = self._to_remove.pop(artifact_id)
            if removal.session is None:
                self.drop(artifact_id, later=removal.later)
            elif removal.session == self.session:
                self.evict(artifact_id)
        if not self.removing and not self._to_remove:
            for effect in self._to_store:
                self._store(effect)
            self._to_store = []

    def stored(self, artifact_id: str | None, size_bytes: int) -> None:
        """Something that was made here has become an artifact."""
        if artifact_id is None:
            return
        self._want_after_all(artifact_id)
        if artifact_id not in self.holds:
            self._hold(artifact_id, size_bytes)
            self._tell((InventoryChange(artifact_id, Holding.HELD, size_bytes),))

    def _hold(self, artifact_id: str, size_bytes: int) -> None:
        self.holds.add(artifact_id)
        self.cache.add(artifact_id, size_bytes, self.now_s)

    # --- going ----------------------------------------------------------------------------

    def evict(self, artifact_id: str) -> None:
        """The master grants that an artifact goes: remove it, unless something here needs it."""
        if artifact_id in self.removing:
            return
        if artifact_id not in self.holds:
            self._tell((InventoryChange(artifact_id, Holding.GONE),))
            return
        why = self._needed().get(artifact_id)
        if why is not None:
            self._keep(artifact_id, why)
        elif self._storing:
            # The grant is one of this session: a later master may count on what lies here.
            self._to_remove[artifact_id] = Removal(self.session)
        else:
            self._remove(artifact_id)

    def drop(self, artifact_id: str, *, later: bool = False) -> None:
        """Remove an artifact, unless something here needs it.

        Args:
            later: whether it goes then as soon as nothing here does: nothing elsewhere will.
        """
        if artifact_id not in self.holds:
            return
        if artifact_id not in self._needed():
            if self._storing:
                self._to_remove.setdefault(artifact_id, Removal(None, later))
            else:
                self._remove(artifact_id)
        elif later:
            self._unwanted.add(artifact_id)

    def drop_unwanted(self) -> None:
        """Something here came to its end: what only that needed goes."""
        if not self._unwanted:
            return
        for artifact_id in sorted(self._unwanted - self._needed().keys()):
            self._unwanted.discard(artifact_id)
            self.drop(artifact_id)

    def _want_after_all(self, artifact_id: str) -> None:
        self._unwanted.discard(artifact_id)
        removal = self._to_remove.get(artifact_id)
        if removal is not None and removal.session is None:
            del self._to_remove[artifact_id]

    def _remove(self, artifact_id: str) -> None:
        self._unwanted.discard(artifact_id)
        self.holds.discard(artifact_id)
        self.removing.add(artifact_id)
        self._do(io.RemoveArtifact(artifact_id))

    def _keep(self, artifact_id: str, why: str) -> None:
        size_bytes = self.cache.size_of(artifact_id)
        self._tell((InventoryChange(artifact_id, Holding.KEPT, size_bytes, why),))

    def removed(self, event: io.ArtifactRemoved) -> bool:
        """An artifact is gone; False where the disk refused, and it is still there."""
        artifact_id = event.artifact_id
        if artifact_id not in self.removing:
            return True
        self.removing.discard(artifact_id)
        if event.error:
            self.holds.add(artifact_id)
            self.fetching.pop(artifact_id, None)
            self.book.finish(artifact_id)
            self._keep(artifact_id, event.error)
            self.take_turns()
            return False
        # The same bytes may have been made here once more while they were being removed.
        self.holds.discard(artifact_id)
        self.cache.remove(artifact_id)
        self._tell((InventoryChange(artifact_id, Holding.GONE),))
        wanted = self.fetching.get(artifact_id)
        if wanted is not None:
            # It was needed again meanwhile.
            self._try_again(artifact_id, wanted)
        self.try_again(has_room=True)
        self.take_turns()
        return True

    # --- told -----------------------------------------------------------------------------

    def room_wanted(self) -> RoomWanted | None:
        """What would have to go, and what could; None while there is room."""
        if self._room_bytes() >= 0:
            return None
        # Nothing goes for what is fetched ahead.
        coming_bytes, waiting_bytes = self._coming(ahead=False)
        return self.cache.wanted(self._needed(), coming_bytes, waiting_bytes, self.now_s)

    def _room_bytes(self) -> int:
        return self.cache.room_bytes(*self._coming())

    def _coming(self, *, ahead: bool = True) -> tuple[int, int]:
        """The bytes that are coming, and those among them that have no room on the disk yet."""
        coming = [wanted for wanted in self.fetching.values() if ahead or not wanted.ahead]
        coming_bytes = sum(wanted.size_bytes for wanted in coming)
        return coming_bytes, sum(wanted.size_bytes for wanted in coming if wanted.lacks_room)

    def use_told(self) -> CacheUse:
        """How full the cache is."""
        return self.cache.use_told(*self._coming())

    def _tell(
        self,
        changes: tuple[InventoryChange, ...],
        came: io.ArtifactFetched | None = None,
    ) -> None:
        first = self.log.note(changes)
        self._do(
            io.SendHolds(
                self.session,
                first,
                changes,
                bytes_by_node=came.bytes_by_node if came is not None else {},
                duration_s=came.duration_s if came is not None else 0.0,
                cache=self.use_told(),
                room=self.room_wanted(),
                bytes_reused=came.bytes_reused if came is not None else 0,
                banned=came.banned if came is not None else (),
            )
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
