"""The window on a log, without a terminal."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_double import LogMaster, stream_of

from meshtrain.errors import UserError
from meshtrain_tui.log.ansi import Look
from meshtrain_tui.log.jump import Jump
from meshtrain_tui.log.ranks import LogRanks
from meshtrain_tui.log.search import SearchPattern
from meshtrain_tui.log.stream import LogStream
from meshtrain_tui.log.viewer import COPY_BYTES_MAX, LogViewer


async def viewer_of(data: bytes, height: int = 4, width: int = 10) -> LogViewer:
    viewer = LogViewer(LogRanks([await stream_of(data, [(0, 100.0)])]))
    viewer.height, viewer.width = height, width
    return viewer


async def texts(viewer: LogViewer) -> list[str]:
    return [row.text for row in await viewer.rows()]


NUMBERED = b"".join(b"line %d\n" % number for number in range(20))


async def test_it_follows_the_end_until_somebody_moves_up() -> None:
    master = LogMaster()
    master.print("a", NUMBERED)
    stream = LogStream(master.ask, "j", "a")
    await stream.refresh()
    viewer = LogViewer(LogRanks([stream]))
    viewer.height = 3
    assert await texts(viewer) == ["line 17", "line 18", "line 19"]
    master.print("a", b"line 20\n")
    await stream.refresh()
    assert await texts(viewer) == ["line 18", "line 19", "line 20"]
    await viewer.scroll(-2)
    assert await texts(viewer) == ["line 16", "line 17", "line 18"]
    master.print("a", b"line 21\n")
    await stream.refresh()
    assert await texts(viewer) == ["line 16", "line 17", "line 18"]
    await viewer.scroll(99)
    assert await texts(viewer) == ["line 19", "line 20", "line 21"]
    await viewer.scroll(-99)
    assert await texts(viewer) == ["line 0", "line 1", "line 2"]
    viewer.follow(True)
    assert (await texts(viewer))[-1] == "line 21"
    viewer.to_start()
    assert (await texts(viewer))[0] == "line 0"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"", b"ab", b"abcdefg", "漢字漢字x".encode()]), min_size=1, max_size=8
    ),
    st.integers(1, 5),
    st.integers(2, 6),
    st.lists(st.integers(-4, 4), max_size=8),
)
def test_scrolling_is_that_of_all_rows_at_once(
    lines: list[bytes], height: int, width: int, steps: list[int]
) -> None:
    from meshtrain_tui.log.wrapping import wrapped

    async def check() -> None:
        viewer = await viewer_of(b"\n".join(lines) + b"\n", height, width)
        viewer.toggle_wrap()
        viewer.to_start()
        rows = [
            text[begin:end]
            for text in (line.decode() for line in lines)
            for begin, end in wrapped(text, width)
        ]
        last = max(len(rows) - height, 0)
        top = 0
        for step in steps:
            await viewer.scroll(step)
            top = min(max(top + step, 0), last)
            assert await texts(viewer) == rows[top : top + height]
        viewer.follow(True)
        assert await texts(viewer) == rows[last:]

    asyncio.run(check())


async def test_long_lines_are_cut_or_wrapped() -> None:
    viewer = await viewer_of(b"0123456789abcdefghij\nshort\n")
    assert await texts(viewer) == ["0123456789", "short"]
    viewer.move_columns(5)
    assert await texts(viewer) == ["56789abcde", ""]
    viewer.move_columns(-50)
    viewer.toggle_wrap()
    rows = await viewer.rows()
    assert [(row.text, row.first) for row in rows] == [
        ("0123456789", True),
        ("abcdefghij", False),
        ("short", True),
    ]
    viewer.height = 1
    viewer.to_start()
    await viewer.scroll(1)
    assert await texts(viewer) == ["abcdefghij"]
    viewer.width = 30
    assert await texts(viewer) == ["0123456789abcdefghij"]


async def test_a_search_goes_on_from_the_line_that_was_found() -> None:
    viewer = await viewer_of(NUMBERED)
    viewer.to_start()
    viewer.search_for(SearchPattern("line 1.?$"))
    found = []
    for _ in range(4):
        begin = await viewer.search_from(back=False)
        place = await viewer.ranks.find(viewer.pattern, begin)  # type: ignore[arg-type]
        assert place is not None
        await viewer.stand_at_found(place)
        (row,) = [row for row in await viewer.rows() if row.is_found]
        assert row.hits == ((0, len(row.text)),)
        found.append(row.text)
    assert found == ["line 1", "line 10", "line 11", "line 12"]
    place = await viewer.ranks.find(
        viewer.pattern,  # type: ignore[arg-type]
        await viewer.search_from(back=True),
        back=True,
    )
    await viewer.stand_at_found(place or ())
    assert [row.text for row in await viewer.rows() if row.is_found] == ["line 11"]
    viewer.to_start()
    assert await viewer.search_from(back=False) == viewer.ranks.start, "from what is in sight"
    viewer.follow(True)
    assert await viewer.search_from(back=True) == viewer.ranks.end
    viewer.search_for(None)
    assert not any(row.hits or row.is_found for row in await viewer.rows())


async def test_jumps() -> None:
    data = NUMBERED
    stream = await stream_of(data, [(0, 100.0), (data.index(b"line 9"), 200.0)])
    viewer = LogViewer(LogRanks([stream]))
    viewer.height = 2
    await viewer.jump(Jump(wall_s=150.0))
    assert (await texts(viewer))[0] == "line 9"
    await viewer.jump(Jump(wall_s=0.0))
    assert (await texts(viewer))[0] == "line 0"
    await viewer.jump(Jump(wall_s=900.0))
    assert (await texts(viewer))[-1] == "line 19"
    await viewer.jump(Jump(line=4))
    assert (await texts(viewer))[0] == "line 4"
    await viewer.jump(Jump(share=0.5))
    assert (await texts(viewer))[0] in ("line 9", "line 10")
    with pytest.raises(UserError, match="no line 1,000: the log has 20"):
        await viewer.jump(Jump(line=999))
    two = LogViewer(LogRanks([stream, await stream_of(data, rank=1)]))
    with pytest.raises(UserError, match="several ranks"):
        await two.jump(Jump(line=3))


async def test_copying_takes_lines_whole_and_without_colours_up_to_a_limit() -> None:
    viewer = await viewer_of(b"\x1b[31mred\x1b[0m and more than fits\n10%\r100%\nx\n", 2, 5)
    viewer.to_start()
    begin = viewer.top
    text, count, more = await viewer.text_between(begin, await viewer.place_below())
    assert (text, count, more) == ("red and more than fits\n100%", 2, False)
    many = await viewer_of(b"x" * 99 + b"\n" + (b"y" * 99 + b"\n") * 2000)
    text, count, more = await many.text_between(many.ranks.start, many.ranks.end)
    assert (count, more) == (COPY_BYTES_MAX // 100, True)
    assert len(text) < COPY_BYTES_MAX


async def test_rows_have_their_colours_also_where_they_are_wrapped() -> None:
    viewer = await viewer_of(b"ab\x1b[31mcd\x1b[0mef\n" + b"z" * 20_000 + b"\n", 3, 3)
    viewer.toggle_wrap()
    viewer.to_start()
    rows = await viewer.rows()
    red = Look(fore="red")
    assert [[(run.text, run.look) for run in row.runs] for row in rows[:2]] == [
        [("ab", Look()), ("c", red)],
        [("d", red), ("ef", Look())],
    ]
    assert rows[2].text == "zzz"
    viewer.follow(True)
    assert "".join([row.text for row in await viewer.rows()]).endswith("more")


async def test_an_empty_log_and_a_window_of_nothing() -> None:
    viewer = await viewer_of(b"")
    assert await texts(viewer) == []
    await viewer.scroll(-1)
    await viewer.scroll(5)
    await viewer.jump(Jump(share=0.7))
    assert await texts(viewer) == []
    assert await viewer.place_below() == viewer.ranks.end
    nobody = LogViewer(LogRanks([]))
    assert await nobody.rows() == []
