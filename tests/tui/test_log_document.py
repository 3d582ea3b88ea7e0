"""Lines found from any place of a stream, against a split of the whole; with tiny blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_double import LogMaster, Stored, stream_of

from meshtrain_tui.log import blocks, document, line_index, stream
from meshtrain_tui.log.blocks import Blocks
from meshtrain_tui.log.document import LogDocument
from meshtrain_tui.log.folding import SHOWN_BYTES_MAX, fold
from meshtrain_tui.log.ranks import LogRanks, Place
from meshtrain_tui.log.search import SearchPattern
from meshtrain_tui.log.stream import LogStream

FEW = settings(max_examples=50, deadline=None)
BLOCK, REGION = 8, 3


@pytest.fixture(autouse=True, scope="module")
def tiny_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (line_index, blocks, stream, document):
            patch.setattr(module, "BLOCK_BYTES", BLOCK)
        for module in (line_index, stream, document):
            patch.setattr(module, "REGION_BLOCKS", REGION)
        patch.setattr(stream, "REGION_BYTES", BLOCK * REGION)
        for module in (stream, document):
            patch.setattr(module, "PIECE_BYTES", 11)
        yield


DATA = st.lists(
    st.sampled_from([b"a", b"bb", b"\n", b"\n\n", b"\r", b"long" * 9, b"x\n"]), max_size=14
).map(b"".join)


def split(data: bytes) -> list[tuple[int, int, bytes]]:
    """Begin, end, text of each line."""
    found, begin = [], 0
    for line in data.split(b"\n"):
        end = min(begin + len(line) + 1, len(data))
        if begin < len(data):
            found.append((begin, end, line))
        begin = end
    return found


@FEW
@given(DATA)
def test_lines_are_those_of_a_split(data: bytes) -> None:
    async def check() -> None:
        doc = LogDocument(await stream_of(data))
        lines = split(data)
        for index, (begin, end, text) in enumerate(lines):
            line = await doc.line_at(begin)
            assert (line.begin, line.end, line.shown) == (begin, end, fold(text))
            for offset in range(begin, end):
                assert await doc.begin_of(offset) == begin
                assert await doc.begin_from(offset) == (begin if offset == begin else end)
            assert await doc.before(end) == begin
            assert await doc.before(begin) == (lines[index - 1][0] if index else None)
        assert await doc.before(0) is None

    asyncio.run(check())


@FEW
@given(DATA, st.booleans())
def test_line_numbers_are_those_of_a_split(data: bytes, after_growth: bool) -> None:
    async def check() -> None:
        master = LogMaster({("a", "log"): Stored(data[: len(data) // 2] if after_growth else data)})
        of = LogStream(master.ask, "j", "a")
        doc = LogDocument(of)
        await of.refresh()
        while await of.count_next():
            pass
        if after_growth:
            await doc.lines()
            master.streams["a", "log"].data = data
            await of.refresh()
            while await of.count_next():
                pass
        lines = split(data)
        assert await doc.lines() == len(lines)
        for number, (begin, _, _) in enumerate(lines):
            assert await doc.begin_of_line(number) == begin
            assert await doc.number_of(begin) == number
        assert await doc.begin_of_line(len(lines)) == (0 if not lines else None)

    asyncio.run(check())


async def test_numbers_are_not_known_before_they_are_counted() -> None:
    of = await stream_of(b"line\n" * 40)
    doc = LogDocument(of)
    assert await doc.lines() is None
    assert await doc.number_of(150) is None
    assert await doc.begin_of_line(30) is None
    assert await of.count_next()
    assert await doc.begin_of_line(3) == 15


@FEW
@given(DATA, st.sampled_from(["a", "bb", "x", "long", "^$", "g$"]), st.data())
def test_a_search_finds_the_next_line_and_the_one_before(
    data: bytes, text: str, chosen: st.DataObject
) -> None:
    lines = split(data)
    begins = [begin for begin, _, _ in lines] + [len(data)]
    place = chosen.draw(st.sampled_from(begins))
    pattern = SearchPattern(text)
    hits = [begin for begin, _, line in lines if pattern.is_in(line)]

    async def check() -> None:
        doc = LogDocument(await stream_of(data))
        after = [hit for hit in hits if hit >= place]
        before = [hit for hit in hits if hit < place]
        assert await doc.find(pattern, place) == (after[0] if after else None)
        assert await doc.find_back(pattern, place) == (before[-1] if before else None)

    asyncio.run(check())


async def test_a_giant_line_is_shown_by_its_ends_and_not_fetched() -> None:
    flood = b"".join(b"\r%06d" % step for step in range(20_000))
    wide = b"w" * 100_000
    data = b"first\n" + flood + b"\n" + wide + b"\nlast"
    master = LogMaster({("a", "log"): Stored(data)})
    of = LogStream(master.ask, "j", "a")
    await of.refresh()
    doc = LogDocument(of)
    begin = await doc.before(len(data) - 4)
    assert begin is not None
    line = await doc.line_at(begin)
    assert line.shown == b"w" * SHOWN_BYTES_MAX
    assert line.hidden_bytes == len(wide) - SHOWN_BYTES_MAX
    begin = await doc.before(begin)
    assert begin == len(b"first\n")
    assert (await doc.line_at(begin)).shown == b"019999"
    assert (await doc.line_at(begin)).hidden_bytes == 0
    assert master.sent_bytes < 7 * SHOWN_BYTES_MAX < len(flood)


async def test_what_was_lost_on_its_node_is_nothing() -> None:
    data = b"one\n" + b"\0" * 30 + b"two\nthree\n"
    of = await stream_of(data, holes={4: 34})
    assert await of.fetch(0, len(data)) == data
    assert await of.fetch(10, 37) == data[10:37]
    doc = LogDocument(of)
    assert [(await doc.line_at(begin)).shown.strip(b"\0") for begin in (0, 4, 38)] == [
        b"one",
        b"two",
        b"three",
    ]


async def test_a_file_that_is_gone_from_the_master_shows_nothing_and_ends() -> None:
    async def ask(
        what: str, names: object, *, offset: int = 0, limit: int = 1
    ) -> dict[str, object]:
        row = {"size_bytes": 50, "ended": True, "offsets": [], "walls_s": [], "counts": []}
        return row | {"data": b"", "begin": offset, "next_offset": offset}

    of = LogStream(ask, "j", "a")  # type: ignore[arg-type]
    await of.refresh()
    assert await of.fetch(0, 50) == b"\0" * 50
    assert not await of.count_next()
    assert (await LogDocument(of).line_at(0)).end == 50


async def test_a_stream_that_grows_and_one_that_became_shorter() -> None:
    master = LogMaster()
    of = LogStream(master.ask, "j", "a")
    assert not await of.refresh()
    master.print("a", b"hal", 5.0)
    assert await of.refresh()
    doc = LogDocument(of)
    assert (await doc.line_at(0)).shown == b"hal"
    master.print("a", b"f\nnext\n", 6.0)
    assert await of.refresh()
    assert not await of.refresh()
    assert [await doc.line_at(0), await doc.line_at(5)] == [
        document.Line(0, 5, b"half", 0, 0, 5.0),
        document.Line(5, 10, b"next", 0, 0, 6.0),
    ]
    master.streams["a", "log"] = Stored(b"new\n")
    assert await of.refresh()
    assert (await doc.line_at(0)).shown == b"new"
    assert of.times.span_s is None


async def test_only_so_many_blocks_are_kept() -> None:
    fetched: list[int] = []

    async def fetch(begin: int, end: int) -> bytes:
        fetched.append(begin)
        return bytes(end - begin)

    kept = Blocks(fetch, kept_max=2)
    for number in (0, 1, 0, 2, 0, 1):
        await kept.block(number, 100)
    assert fetched == [0, BLOCK, 2 * BLOCK, BLOCK]


# --- ranks ----------------------------------------------------------------------------------

RANKS = st.lists(
    st.lists(st.tuples(st.sampled_from([b"a", b"longer", b""]), st.integers(0, 4)), max_size=6),
    min_size=1,
    max_size=3,
)


async def ranks_of(
    printed: list[list[tuple[bytes, int]]],
) -> tuple[LogRanks, list[tuple[object, ...]]]:
    """Ranks that printed these lines, each so long after the one before; and all, sorted."""
    streams, lines = [], []
    for rank, entries in enumerate(printed):
        data, wall_s, times = b"", 0.0, []
        for text, wait_s in entries:
            if wait_s or not times:
                wall_s += wait_s
                times.append((len(data), wall_s))
            lines.append((wall_s, rank, len(data), text))
            data += text + b"\n"
        streams.append(await stream_of(data, times, rank=rank))
    return LogRanks(streams), sorted(lines)


@FEW
@given(RANKS, st.floats(-1, 20))
def test_ranks_merge_by_time_the_same_forward_and_back(
    printed: list[list[tuple[bytes, int]]], wall_s: float
) -> None:
    async def check() -> None:
        ranks, lines = await ranks_of(printed)
        places: list[Place] = [ranks.start]
        forward = []
        while (step := await ranks.after(places[-1])) is not None:
            line, place = step
            forward.append((line.wall_s, line.rank, line.begin, line.shown))
            places.append(place)
        assert forward == lines
        assert places[-1] == ranks.end
        for index in range(len(lines), 0, -1):
            back = await ranks.before(places[index])
            assert back is not None
            assert back[1] == places[index - 1]
            assert back[0].begin == lines[index - 1][2]
        assert await ranks.before(ranks.start) is None
        earlier = sum(1 for line in lines if line[0] < wall_s)  # type: ignore[operator]
        assert await ranks.at_time(wall_s) == places[earlier]
        for index, (_, rank, begin, _) in enumerate(lines):
            assert await ranks.at_line_of(rank, begin) == places[index]  # type: ignore[arg-type]
        pattern = SearchPattern("longer")
        for index, place in enumerate(places):
            hits = [at for at, line in enumerate(lines) if line[3] == b"longer"]
            after = [places[at] for at in hits if at >= index]
            before = [places[at] for at in hits if at < index]
            assert await ranks.find(pattern, place) == (after[0] if after else None)
            assert await ranks.find(pattern, place, back=True) == (before[-1] if before else None)

    asyncio.run(check())


async def test_ranks_are_counted_and_stood_at_by_share() -> None:
    ranks, lines = await ranks_of([[(b"a", 1)] * 9, [(b"longer", 2)] * 5])
    assert await ranks.lines() is None
    while await ranks.count_next():
        pass
    assert await ranks.lines() == len(lines) == 14
    assert await ranks.number_of(ranks.end) == 14
    assert await ranks.at_share(0.0) == ranks.start
    assert await ranks.at_share(1.0) == ranks.end
    middle = await ranks.at_share(0.5)
    assert 0 < (await ranks.number_of(middle) or 0) < 14
    assert await ranks.at_line(3) is None
    assert ranks.span_s == (1.0, 10.0)
