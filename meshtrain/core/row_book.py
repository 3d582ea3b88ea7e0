"""All rows of a mesh, for whoever looks: the master's pages, sums and news are made from it.

There are two kinds of news. Those for who wants every job are the changes as
they come. The brief ones leave out jobs that don't run: they are gathered, so
that what changes often is told some times a second, and sums over the jobs are
told in their place with the sweeps and bases.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec

from meshtrain.core.changes import (
    BaseRow,
    Change,
    JobRow,
    Lists,
    Moved,
    NodeRow,
    Note,
    SweepRow,
    TransferRow,
)
from meshtrain.core.job import JobKind
from meshtrain.core.listing import KeyedRows, Listing, Listings
from meshtrain.core.node import HostUse
from meshtrain.core.pages import PAGE_ROWS_MAX, Page, PageQuery, page_of
from meshtrain.core.tally import SweepTally, Tally

NOTES_KEPT = 5000
TRANSFERS_KEPT = 5000
LISTED = ("jobs", "nodes", "bases")
"""The kinds whose lists are kept in order; of the others there are never many."""


class RowBook:
    """The rows as they are now, and which of them have not been told in brief."""

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        self.sweeps: dict[str, SweepRow] = {}
        self.notes: deque[Note] = deque(maxlen=NOTES_KEPT)
        self.transfers: deque[TransferRow] = deque(maxlen=TRANSFERS_KEPT)
        self.tally = Tally()
        self._listed = {kind: KeyedRows() for kind in LISTED}
        self._listings = {kind: Listings(rows) for kind, rows in self._listed.items()}
        self._use: dict[str, HostUse] = {}
        #: jobs whose news are not told in brief → the row that the sums still count
        self._jobs_behind: dict[str, JobRow | None] = {}
        self._sweeps_behind: dict[str, None] = {}
        self._bases_behind: dict[str, None] = {}
        self._nodes_behind: dict[str, None] = {}
        self._history_behind: list[Change] = []
        self._lists_behind = False
        #: the jobs that hold a lease, as they were told in brief
        self._leased: dict[str, JobRow] = {}
        self.take(tuple(changes))
        while self.is_behind:
            self.news(PAGE_ROWS_MAX)

    @property
    def jobs(self) -> Mapping[str, JobRow]:
        return self._listed["jobs"].by_id

    @property
    def nodes(self) -> Mapping[str, NodeRow]:
        return self._listed["nodes"].by_id

    @property
    def bases(self) -> Mapping[str, BaseRow]:
        return self._listed["bases"].by_id

    def take(self, changes: Sequence[Change]) -> tuple[Change, ...]:
        """Take in changes. Gives them as they are to be told to who wants every job."""
        told: list[Change] = []
        jobs = self._listed["jobs"]
        for change in changes:
            if isinstance(change, JobRow):
                self._jobs_behind.setdefault(change.job_id, jobs.by_id.get(change.job_id))
                jobs.put(change.job_id, change)
            elif isinstance(change, NodeRow):
                change = self._with_use(change)
                self._put_node(change)
            else:
                self._take_other(change)
            told.append(change)
        return tuple(told)

    def note_use(self, node_id: str, use: HostUse) -> NodeRow | None:
        """Take in how busy a host is. Gives its row; None when there is no such node."""
        row = self.nodes.get(node_id)
        if row is None or not row.connected:
            return None
        self._use[node_id] = use
        row = msgspec.structs.replace(row, use=use)
        self._put_node(row)
        return row

    # --- the news in brief --------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """Whether something has changed that was not told in brief."""
        return bool(
            self._jobs_behind
            or self._sweeps_behind
            or self._bases_behind
            or self._nodes_behind
            or self._history_behind
            or self._lists_behind
        )

    def news(self, jobs_max: int) -> list[Change]:
        """What has changed since it was asked last; of the jobs, so many are looked at.

        Call it until `is_behind` is false. With 0 it tells all but the jobs.
        """
        told: list[Change] = []
        some = dict(islice(self._jobs_behind.items(), jobs_max))
        for job_id, old in some.items():
            del self._jobs_behind[job_id]
            told += self._job_news(old, self.jobs[job_id])
        if some:
            self._listings["jobs"].note(some)
            self._lists_behind = True
        if not self._jobs_behind or not jobs_max:
            told += self._other_news()
        return told

    def snapshot(self) -> Iterator[Change]:
        """All that was told in brief up to now; `news` goes on from it.

        Transfers and notes are left out.
        """
        yield Lists(len(self.jobs))
        for sweep in self.sweeps.values():
            yield self._with_progress(sweep)
        for base in self.bases.values():
            yield self._with_started(base)
        yield from self.nodes.values()
        yield from self._leased.values()

    # --- pages --------------------------------------------------------------------

    def listing(self, query: PageQuery) -> Listing | None:
        """The list that answers a query, which may not be up to date; None where none is kept.

        Raises UserError for what no page can answer.
        """
        listings = self._listings.get(query.kind)
        return None if listings is None else listings.of(query)

    def page(self, query: PageQuery) -> Page:
        """The page that `query` asks for; the listing is brought up to date first.

        Raises UserError for what no page can answer.
        """
        listing = self.listing(query)
        if listing is None:
            return page_of(self, query)
        while not listing.advance(PAGE_ROWS_MAX):
            pass
        rows = self._listed[query.kind].by_id
        limit = min(query.limit, PAGE_ROWS_MAX)
        ids = listing.ids(query.offset, limit, descending=query.descending)
        page = tuple(rows[row_id] for row_id in ids)
        return Page(page, total=len(rows), matched=len(listing))

    # --- taking in ----------------------------------------------------------------

    def _take_other(self, change: Change) -> None:
        match change:
            case SweepRow():
                self.sweeps[change.sweep_id] = change
                self._sweeps_behind[change.sweep_id] = None
            case BaseRow():
                self._listed["bases"].put(change.recipe_hash, change)
                self._listings["bases"].note({change.recipe_hash: None})
                self._bases_behind[change.recipe_hash] = None
            case Note():
                self.notes.append(change)
                self._history_behind.append(change)
            case TransferRow():
                self.transfers.append(change)
                self._history_behind.append(change)
            case Moved():
                self._history_behind.append(change)
            case _:
                pass

    def _put_node(self, row: NodeRow) -> None:
        self._listed["nodes"].put(row.node_id, row)
        self._listings["nodes"].note({row.node_id: None})
        self._nodes_behind[row.node_id] = None

    def _with_use(self, row: NodeRow) -> NodeRow:
        if not row.connected:
            self._use.pop(row.node_id, None)
            return row
        use = self._use.get(row.node_id)
        return row if use is None else msgspec.structs.replace(row, use=use)

    # --- telling ------------------------------------------------------------------

    def _job_news(self, old: JobRow | None, new: JobRow) -> Iterator[Change]:
        self.tally.replace(old, new)
        for row in (old, new):
            if row is not None and row.sweep_id is not None:
                self._sweeps_behind[row.sweep_id] = None
        if (before := _started_from(old)) != (after := _started_from(new)):
            self._bases_behind.update((h, None) for h in (before, after) if h is not None)
        if new.state.is_leased:
            self._leased[new.job_id] = new
            yield new
        elif self._leased.pop(new.job_id, None) is not None:
            yield new

    def _other_news(self) -> Iterator[Change]:
        if self._lists_behind:
            self._lists_behind = False
            yield Lists(len(self.jobs))
        for sweep_id in self._sweeps_behind:
            if (sweep := self.sweeps.get(sweep_id)) is not None:
                yield self._with_progress(sweep)
        for recipe_hash in self._bases_behind:
            if (base := self.bases.get(recipe_hash)) is not None:
                yield self._with_started(base)
        for node_id in self._nodes_behind:
            yield self.nodes[node_id]
        yield from self._history_behind
        self._sweeps_behind.clear()
        self._bases_behind.clear()
        self._nodes_behind.clear()
        self._history_behind.clear()

    def _with_progress(self, sweep: SweepRow) -> SweepRow:
        tally = self.tally.sweeps.get(sweep.sweep_id) or SweepTally()
        return msgspec.structs.replace(sweep, progress=tally.progress())

    def _with_started(self, base: BaseRow) -> BaseRow:
        return msgspec.structs.replace(base, started=self.tally.started[base.recipe_hash])


def _started_from(row: JobRow | None) -> str | None:
    """The base that an experiment has started from."""
    if row is None or row.kind is JobKind.BASE or row.started_wall_s is None:
        return None
    return row.recipe_hash
