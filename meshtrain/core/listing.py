"""Lists of rows that stay filtered and in order while the rows change.

A listing is one filter in one order. It is put together once, a slice at a
time, and kept from then on: of rows that changed only the ids are noted, and
each is put in its place when the list is looked at again. So a page costs what
has changed since the last one, and not what there is.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec

from meshtrain.core.pages import PAGE_ROWS_MAX, PageQuery, check, column, natural_key, selection
from meshtrain.core.sorted_blocks import SortedBlocks

LISTINGS_MAX = 8
"""Filters and orders that are kept at a time: as many as some people look at together."""
RUN_ENTRIES = 4000
"""Sorted lists of up to so many are merged by sorting them, which is quick but can't be paused."""
REBUILD_SHARE = 0.2
"""When more of the rows have changed, the list is put together anew: that is cheaper."""

_Entry = tuple[Any, ...]
"""(the column's value, natural order, id); without the value where there is none."""


class KeyedRows:
    """The rows of one kind by their ids, and where each came."""

    def __init__(self) -> None:
        self.by_id: dict[str, Any] = {}
        self.positions: dict[str, int] = {}

    def put(self, row_id: str, row: Any) -> None:
        """Take in a row, or a newer one in its place."""
        self.by_id[row_id] = row
        self.positions.setdefault(row_id, len(self.positions))


class Listing:
    """The rows of one kind that a filter lets through, in one order.

    Args:
        rows: all of the kind; they are looked at whenever the list is.
        query: its sweep, states, filter and column count; the piece and the direction
            are asked for with `ids`.

    Raises UserError as `pages.check` and `pages.selection` do.
    """

    def __init__(self, rows: KeyedRows, query: PageQuery) -> None:
        check(query)
        self._rows = rows
        self._kind = query.kind
        self._lets_through = selection(query)
        self._key_of = column(query.kind, query.sort) if query.sort else None
        self._changed: dict[str, None] = {}
        #: rows that are still to be read; sorted lists of those that were, and where they go to
        self._unread: Iterator[str] | None = None
        self._runs: list[list[_Entry]] = []
        self._bare_runs: list[list[_Entry]] = []
        self._merging: list[tuple[Iterator[_Entry], SortedBlocks[_Entry]]] = []
        #: id → its entry, of rows that have a value to be sorted by, and of those that have none
        self._keyed: dict[str, _Entry] = {}
        self._bare: dict[str, _Entry] = {}
        self._with_value: SortedBlocks[_Entry] = SortedBlocks()
        self._without: SortedBlocks[_Entry] = SortedBlocks()
        self._begin()

    def __len__(self) -> int:
        return len(self._keyed) + len(self._bare)

    def note(self, row_ids: Iterable[str]) -> None:
        """These rows came, or changed."""
        self._changed.update(dict.fromkeys(row_ids))

    def look(self) -> None:
        """Somebody asks: from now on `advance` is called until all is done."""
        if len(self._changed) > REBUILD_SHARE * len(self._rows.by_id) + PAGE_ROWS_MAX:
            # Not later: while very much changes it would begin again and again.
            self._begin()

    def advance(self, rows_max: int) -> bool:
        """Do a slice of the work that is due; True when the list is up to date."""
        if self._unread is not None:
            self._read(rows_max)
        elif self._merging:
            entries, blocks = self._merging[-1]
            merged = list(islice(entries, rows_max))
            blocks.extend(merged)
            if not merged:
                self._merging.pop()
        else:
            for _ in range(min(rows_max, len(self._changed))):
                self._place(self._changed.popitem()[0])
        return self._unread is None and not self._merging and not self._changed

    def ids(self, offset: int, limit: int, *, descending: bool) -> list[str]:
        """The ids of a piece of the list; `advance` until it is up to date before."""
        if self._key_of is None:
            entries = self._without.piece(offset, limit, backwards=descending)
        else:
            entries = self._with_value.piece(offset, limit, backwards=descending)
            # Rows without a value come last both ways.
            past = max(0, offset - len(self._with_value))
            entries += self._without.piece(past, limit - len(entries))
        return [entry[-1] for entry in entries]

    # --- from the start -----------------------------------------------------------

    def _begin(self) -> None:
        self._unread = iter(list(self._rows.by_id))
        for former in (self._changed, self._keyed, self._bare):
            former.clear()
        self._runs, self._bare_runs, self._merging = [], [], []
        self._with_value, self._without = SortedBlocks(), SortedBlocks()

    def _read(self, rows_max: int) -> None:
        assert self._unread is not None
        row_ids = list(islice(self._unread, rows_max))
        if not row_ids:
            self._unread = None
            self._merging = [
                (heapq.merge(*self._runs), self._with_value),
                (heapq.merge(*self._bare_runs), self._without),
            ]
            return
        run: list[_Entry] = []
        bare_run: list[_Entry] = []
        for row_id in row_ids:
            entry, has_value = self._entry(row_id)
            if entry is None:
                continue
            (run if has_value else bare_run).append(entry)
            (self._keyed if has_value else self._bare)[row_id] = entry
        for new, runs in ((run, self._runs), (bare_run, self._bare_runs)):
            if runs and len(runs[-1]) + len(new) <= RUN_ENTRIES:
                runs[-1] += new
                runs[-1].sort()
            elif new:
                new.sort()
                runs.append(new)

    def _entry(self, row_id: str) -> tuple[_Entry | None, bool]:
        """Its place, and whether it has a value to be sorted by; None: it is not let through."""
        row = self._rows.by_id[row_id]
        if not self._lets_through(row):
            return None, False
        natural = natural_key(self._kind, row, self._rows.positions[row_id])
        key = None if self._key_of is None else self._key_of(row)
        if key is None:
            return (*natural, row_id), False
        return (key, *natural, row_id), True

    # --- from then on -------------------------------------------------------------

    def _place(self, row_id: str) -> None:
        """Move a row to where it belongs now."""
        entry, has_value = self._entry(row_id)
        keyed, bare = self._keyed.pop(row_id, None), self._bare.pop(row_id, None)
        if entry is not None:
            (self._keyed if has_value else self._bare)[row_id] = entry
        if entry is not None and entry in (keyed, bare):
            return
        if keyed is not None:
            self._with_value.remove(keyed)
        if bare is not None:
            self._without.remove(bare)
        if entry is not None:
            (self._with_value if has_value else self._without).add(entry)


class Listings:
    """The listings of one kind that were asked for last."""

    def __init__(self, rows: KeyedRows) -> None:
        self._rows = rows
        self._kept: OrderedDict[PageQuery, Listing] = OrderedDict()

    def note(self, row_ids: Mapping[str, Any]) -> None:
        """These rows came, or changed."""
        for listing in self._kept.values():
            listing.note(row_ids)

    def of(self, query: PageQuery) -> Listing:
        """The listing that answers a query; put together from now on if it is new.

        Raises UserError as Listing does.
        """
        check(query)
        which = msgspec.structs.replace(
            query, offset=0, limit=0, descending=False, states=tuple(sorted(set(query.states)))
        )
        listing = self._kept.get(which)
        if listing is None:
            listing = self._kept[which] = Listing(self._rows, which)
            while len(self._kept) > LISTINGS_MAX:
                self._kept.popitem(last=False)
        self._kept.move_to_end(which)
        listing.look()
        return listing
