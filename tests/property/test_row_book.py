"""Lists that are kept in order answer as sorting anew would; news in brief lose nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshtrain.core.changes import BaseRow, Change, JobRow, NodeRow, Note, SweepRow, TransferRow
from meshtrain.core.job import BaseState, JobKind, JobState
from meshtrain.core.node import GpuUse, HostUse
from meshtrain.core.pages import COLUMNS, PageQuery, page_of
from meshtrain.core.row_book import RowBook
from meshtrain.core.sorted_blocks import BLOCK_ENTRIES, SortedBlocks
from meshtrain.core.view import MeshView

moments = st.none() | st.integers(0, 5).map(float)
jobs = st.builds(
    JobRow,
    job_id=st.sampled_from("abcdefghij"),
    name=st.sampled_from(["s/fold=1", "s/fold=2", "S/FOLD=10", "t"]),
    kind=st.sampled_from(JobKind),
    state=st.sampled_from(JobState),
    sweep_id=st.sampled_from([None, "s1", "s2"]),
    node_id=st.sampled_from([None, "n1", "n10"]),
    recipe_hash=st.sampled_from([None, "r1", "r2"]),
    failure=st.sampled_from(["", "out of memory: 24 GB"]),
    submitted_wall_s=st.integers(0, 2).map(float),
    started_wall_s=moments,
    ended_wall_s=moments,
    metrics=st.dictionaries(st.just("m"), st.floats(0, 1) | st.just(float("nan")), max_size=1),
)
nodes = st.builds(
    NodeRow,
    node_id=st.sampled_from(["n1", "n2", "n10"]),
    connected=st.booleans(),
    drained=st.booleans(),
    accepting=st.just(True),
    cpu_slots=st.integers(1, 3),
    cpus_used=st.just(0),
    gpus=st.just(()),
    gpus_used=st.just(()),
    memory_bytes=st.just(100),
    holds=st.integers(0, 2),
)
bases = st.builds(
    BaseRow,
    recipe_hash=st.sampled_from(["r1", "r2", "r3"]),
    label=st.sampled_from(["cnn", "mlp"]),
    state=st.sampled_from(BaseState),
    generation=st.integers(1, 2),
    artifact_id=st.sampled_from([None, "a1"]),
    trained_s=st.sampled_from([None, 2.0]),
)
sweeps = st.builds(
    SweepRow,
    sweep_id=st.sampled_from(["s1", "s2"]),
    name=st.just("s"),
    jobs=st.integers(1, 5),
    bases=st.just(1),
    reused=st.just(0),
)
notes = st.builds(Note, st.integers(0, 9).map(float), st.sampled_from(["joined", "left"]))
transfers = st.builds(
    TransferRow, st.just("a1"), st.sampled_from(["n1", "master"]), st.just({"n2": 5}), st.just(1.0)
)
changes: st.SearchStrategy[Change] = st.one_of(jobs, jobs, nodes, bases, sweeps, notes, transfers)
uses = st.builds(
    HostUse,
    st.sampled_from([None, 0.5]),
    st.integers(0, 100),
    st.sampled_from([(), (GpuUse(0, 0.9),)]),
)


@st.composite
def queries(draw: st.DrawFn) -> PageQuery:
    kind = draw(st.sampled_from([*COLUMNS, "jobs", "jobs"]))
    of_jobs: dict[str, Any] = {}
    columns = ["", *COLUMNS[kind]]
    if kind == "jobs":
        columns += ["metrics.m"]
        of_jobs["sweep"] = draw(st.sampled_from(["", "", "s1"]))
        of_jobs["states"] = draw(st.sampled_from([(), (), ("waiting", "running")]))
    return PageQuery(
        kind,
        filter=draw(st.sampled_from(["", "fold=1", "!fold=1", "running|n1", "nothing"])),
        sort=draw(st.sampled_from(columns)),
        descending=draw(st.booleans()),
        offset=draw(st.integers(0, 4)),
        limit=draw(st.integers(0, 8)),
        **of_jobs,
    )


steps = st.lists(
    st.one_of(
        st.lists(changes, min_size=1, max_size=5),
        queries(),
        st.integers(0, 3),
    ),
    max_size=30,
)


@given(steps)
def test_a_page_is_what_filtering_and_sorting_anew_gives(history: list[Any]) -> None:
    book = RowBook()
    for step in history:
        if isinstance(step, list):
            book.take(step)
        elif isinstance(step, int):
            book.news(step)
        else:
            listing = book.listing(step)
            if listing is not None:
                # It is put together in slices, between which rows change.
                listing.advance(2)
            while book.is_behind:
                book.news(2)
            assert book.page(step) == page_of(book, step)


@given(steps, st.integers(0, 30), st.lists(st.tuples(st.sampled_from(["n1", "n2"]), uses)))
def test_a_view_from_a_snapshot_and_the_news_is_that_of_who_heard_everything(
    history: list[Any], joined_at: int, told_uses: list[tuple[str, HostUse]]
) -> None:
    book, whole, brief = RowBook(), MeshView(), None
    past: list[Change] = []
    for number, step in enumerate([*history, []]):
        if number == min(joined_at, len(history)):
            book.news(0)
            brief = MeshView()
            for change in (*book.snapshot(), *past):
                brief.apply(change)
        if isinstance(step, list):
            told = book.take(step)
            past += [row for row in told if isinstance(row, Note | TransferRow)]
            for change in told:
                whole.apply(change)
            if told_uses:
                row = book.note_use(*told_uses.pop())
                if row is not None:
                    whole.apply(row)
        elif isinstance(step, int):
            for change in book.news(step):
                if brief is not None:
                    brief.apply(change)
    assert brief is not None
    while book.is_behind:
        for change in book.news(1):
            brief.apply(change)
    assert brief.jobs_total == whole.jobs_total
    running = {job_id: row for job_id, row in whole.jobs.items() if row.state.is_leased}
    assert brief.jobs == running
    assert brief.nodes == whole.nodes
    assert (brief.notes, brief.transfers, brief.moved) == (
        whole.notes,
        whole.transfers,
        whole.moved,
    )
    for node_id in ("n1", "n10"):
        held = {row.job_id for row in brief.running_on(node_id)}
        assert held == {row.job_id for row in whole.running_on(node_id)}
    assert brief.bases.keys() == whole.bases.keys()
    assert brief.saved() == whole.saved()
    assert brief.sweeps.keys() == whole.sweeps.keys()
    for sweep_id in whole.sweeps:
        assert brief.progress(sweep_id).progress() == whole.progress(sweep_id).progress()


numbers = st.integers(0, 50)


@given(
    st.lists(st.tuples(st.booleans(), numbers), max_size=80),
    st.integers(0, 3 * BLOCK_ENTRIES),
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.booleans()),
)
def test_sorted_blocks_are_a_sorted_list(
    steps: list[tuple[bool, int]], there: int, piece: tuple[int, int, bool]
) -> None:
    expected = [1000 + number for number in range(there)]
    blocks = SortedBlocks(expected)
    for adds, number in steps:
        # Numbers between those that were there, and others after them.
        entry = 1000 + number * max(1, there // 25)
        if adds and entry not in expected:
            expected.append(entry)
            expected.sort()
            blocks.add(entry)
        elif not adds and entry in expected:
            expected.remove(entry)
            blocks.remove(entry)
    assert list(blocks) == expected
    assert len(blocks) == len(expected)
    offset, limit, backwards = piece
    for start in (offset, max(0, len(expected) - offset)):
        wanted = expected[::-1] if backwards else expected
        assert blocks.piece(start, limit, backwards=backwards) == wanted[start : start + limit]


def test_blocks_are_cut_as_they_grow_and_go_as_they_empty() -> None:
    blocks: SortedBlocks[int] = SortedBlocks()
    for entry in range(5 * BLOCK_ENTRIES):
        blocks.add(entry * 7919 % (5 * BLOCK_ENTRIES))
    assert list(blocks) == list(range(5 * BLOCK_ENTRIES))
    assert max(len(block) for block in blocks._blocks) < 2 * BLOCK_ENTRIES
    for entry in range(5 * BLOCK_ENTRIES):
        blocks.remove(entry)
    assert not blocks._blocks
    assert len(blocks) == 0
