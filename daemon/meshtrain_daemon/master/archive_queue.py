"""What goes to the archive, and what has gone: the queue in memory and in the store."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import islice

from msgspec.structs import replace

from meshtrain.core.job import Base, Job, Sweep
from meshtrain.results.folder import folder_name
from meshtrain.spec.archive_url import ArchiveWhat
from meshtrain.store.base import ArchiveEntry, ArchiveState
from meshtrain_daemon.master.result_folders import cell_name

RESULTS = "results"
BASES = "bases"
SAVED_AT_ONCE_MAX = 1000
"""In one commit, so that decisions wait for no more than that."""
REST_S_MIN = 5.0
REST_S_MAX = 600.0


def base_place(recipe_hash: str, generation: int) -> str:
    """Where a base lies in the archive."""
    return f"{BASES}/{recipe_hash}/{generation}"


def result_place(sweep_folder: str, sweep: Sweep, job: Job, attempt_id: str) -> str:
    """Where a result lies in the archive.

    Args:
        sweep_folder: the name of the sweep's folder of results.
    """
    return f"{RESULTS}/{sweep_folder}/{cell_name(job, sweep)}/{folder_name(attempt_id)}"


def rest_s(failures: int) -> float:
    """How long to rest after so many failures in a row."""
    return float(min(REST_S_MAX, REST_S_MIN * 2.0 ** min(failures - 1, 30)))


class ArchiveQueue:
    """The order in which things go, and where each of them stands.

    Args:
        what: of the queue only this is given out; the rest stays in it.
        entries: as the store has them.
        rest: seconds before something is tried again that failed so often.
    """

    def __init__(
        self,
        what: ArchiveWhat,
        entries: Iterable[ArchiveEntry],
        rest: Callable[[int], float] = rest_s,
    ) -> None:
        self._what = what
        self._rest = rest
        #: place → where it stands; places are never forgotten, so that nothing goes twice
        self._states: dict[str, ArchiveState] = {}
        self._waiting: deque[ArchiveEntry] = deque()
        #: place → when it is tried again, of what failed
        self._later: dict[str, tuple[float, ArchiveEntry]] = {}
        self._failures: Counter[str] = Counter()
        #: what the store doesn't have yet
        self._unsaved: dict[str, ArchiveEntry] = {}
        self.sending: dict[str, ArchiveEntry] = {}
        self.done_count = 0
        self.done_bytes = 0
        self.lost_count = 0
        self.queued_bytes = 0
        #: artifact → its place, of bases that are there
        self.bases_done: dict[str, str] = {}
        #: folder of a sweep → its results that are there
        self.results_done: Counter[str] = Counter()
        for entry in entries:
            self._take_in(entry)

    def _take_in(self, entry: ArchiveEntry) -> None:
        self._states[entry.place] = entry.state
        if entry.state is ArchiveState.DONE:
            self._count_done(entry)
        elif entry.state is ArchiveState.LOST:
            self.lost_count += 1
        elif self._is_wanted(entry):
            self._waiting.append(entry)
            self.queued_bytes += entry.size_bytes

    def _count_done(self, entry: ArchiveEntry) -> None:
        self.done_count += 1
        self.done_bytes += entry.size_bytes
        kind, name = entry.place.split("/", 2)[:2]
        if kind == BASES:
            self.bases_done[entry.artifact_id] = entry.place
        else:
            self.results_done[name] += 1

    def _is_wanted(self, entry: ArchiveEntry) -> bool:
        is_base = entry.place.startswith(f"{BASES}/")
        return self._what.bases if is_base else self._what.results

    @property
    def queued_count(self) -> int:
        """How many things have not gone yet."""
        return len(self._waiting) + len(self._later) + len(self.sending)

    def wants_base(self, base: Base) -> bool:
        """Whether a base that the master holds is to be queued."""
        return self._what.bases and self.is_new(base_place(base.recipe_hash, base.generation))

    def wants_results(self) -> bool:
        """Whether results are to be queued."""
        return self._what.results

    def put(self, entry: ArchiveEntry) -> bool:
        """Queue something; False where it is queued, or has gone."""
        if not self._is_wanted(entry) or not self.is_new(entry.place):
            return False
        if self._states.get(entry.place) is ArchiveState.LOST:
            self.lost_count -= 1
        self._take_in(entry)
        self._unsaved[entry.place] = entry
        return True

    def is_new(self, place: str) -> bool:
        """Whether nothing is queued or archived there.

        What was lost may come again: a base that was brought back, or a mended disk.
        """
        return self._states.get(place, ArchiveState.LOST) is ArchiveState.LOST

    # --- giving out -------------------------------------------------------------------

    def next(self, now_s: float) -> ArchiveEntry | None:
        """What is to go now; it counts as under way until `done`, `lost` or `failed`."""
        for place, (due_s, entry) in list(self._later.items()):
            if due_s <= now_s:
                del self._later[place]
                self._waiting.append(entry)
        if not self._waiting:
            return None
        entry = self._waiting.popleft()
        self.sending[entry.place] = entry
        return entry

    def due_s(self) -> float | None:
        """When the first of those that failed may be tried again."""
        return min((due_s for due_s, _ in self._later.values()), default=None)

    def done(self, entry: ArchiveEntry) -> None:
        """It is in the archive, whole."""
        self._leave(entry, ArchiveState.DONE)
        self._count_done(entry)

    def wake(self) -> None:
        """The archive is well again: what failed while it was away need not rest on."""
        while self._later:
            _, (_, later) = self._later.popitem()
            self._waiting.appendleft(later)

    def lost(self, entry: ArchiveEntry) -> None:
        """It can't go: its own copy is gone or damaged."""
        self._leave(entry, ArchiveState.LOST)
        self.lost_count += 1

    def _leave(self, entry: ArchiveEntry, state: ArchiveState) -> None:
        self.sending.pop(entry.place, None)
        self._failures.pop(entry.place, None)
        self._states[entry.place] = state
        self._unsaved[entry.place] = replace(entry, state=state)
        self.queued_bytes -= entry.size_bytes

    def failed(self, entry: ArchiveEntry, now_s: float) -> None:
        """It didn't go: it is tried again after a rest that grows."""
        self.sending.pop(entry.place, None)
        self._failures[entry.place] += 1
        self._later[entry.place] = (now_s + self._rest(self._failures[entry.place]), entry)

    # --- the store --------------------------------------------------------------------

    def take_unsaved(self) -> list[ArchiveEntry]:
        """Some of what the store doesn't have yet, the oldest first."""
        places = list(islice(self._unsaved, SAVED_AT_ONCE_MAX))
        return [self._unsaved.pop(place) for place in places]

    def put_back(self, unsaved: Iterable[ArchiveEntry]) -> None:
        """The store had no room for them; what has come since counts more."""
        self._unsaved = {**{entry.place: entry for entry in unsaved}, **self._unsaved}
