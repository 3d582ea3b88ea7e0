"""However answers are cut into reads they say the same, and no bytes leave anybody waiting."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from channel_double import HandChannel, answer_bytes

SIZE_MAX = 40

bodies = st.binary(max_size=SIZE_MAX)
refusals = st.tuples(
    st.sampled_from([b"401 Unauthorized", b"404 Not Found", b"409 Conflict", b"503 Busy"]), bodies
)
lines = st.sampled_from(
    [b"", b"X-A: 1\r\n", b"Server: x\r\nDate: now\r\n", b"Content-Encoding: identity\r\n"]
)


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[list[int], bytes, list[tuple[int, bytes]]]:
    """The sizes that are asked for, what comes back, and what that means."""
    sizes, stream, outcomes = [], b"", []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            body = draw(bodies)
            sizes.append(len(body))
            stream += answer_bytes(body, more=draw(lines))
            outcomes.append((206, body))
        else:
            status, body = draw(refusals)
            sizes.append(draw(st.integers(0, SIZE_MAX)))
            stream += answer_bytes(body, status, draw(lines))
            outcomes.append((int(status[:3]), body))
    return sizes, stream, outcomes


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(stream), *(place % (len(stream) + 1) for place in cuts)})
    return [stream[a:b] for a, b in pairwise(places)]


def in_loop(course: Callable[[], None]) -> None:
    """Futures belong to an event loop; nothing here waits."""

    async def run() -> None:
        course()
        await asyncio.sleep(0)

    asyncio.run(run())


@settings(deadline=None)
@given(exchanges(), st.lists(st.integers(0, 2000), max_size=30))
def test_any_cut_of_the_answers_gives_the_same(
    exchange: tuple[list[int], bytes, list[tuple[int, bytes]]], cuts: list[int]
) -> None:
    sizes, stream, outcomes = exchange

    def course() -> None:
        hand = HandChannel(sizes)
        for piece in cut(stream, cuts):
            hand.feed(piece)
        assert hand.outcomes() == outcomes
        assert not hand.transport.aborted
        assert hand.channel.pending == 0
        hand.lose()
        assert hand.ends == 1

    in_loop(course)


@settings(deadline=None)
@given(
    exchanges(),
    st.lists(st.integers(0, 2000), max_size=10),
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 4)), max_size=6),
)
def test_who_leaves_changes_nothing_for_the_others(
    exchange: tuple[list[int], bytes, list[tuple[int, bytes]]],
    cuts: list[int],
    cancels: list[tuple[int, int]],
) -> None:
    """`cancels`: after which piece, and whose request."""
    sizes, stream, outcomes = exchange

    async def course() -> None:
        hand = HandChannel(sizes)
        kept: dict[int, bytes] = {}
        for number, piece in enumerate(cut(stream, cuts)):
            hand.feed(piece)
            for after, which in cancels:
                if after == number and which < len(sizes) and hand.answers[which].cancel():
                    kept[which] = bytes(hand.buffers[which])
            await asyncio.sleep(0)
        for which, outcome in enumerate(hand.outcomes()):
            if which in kept:
                assert outcome == "cancelled"
                assert hand.buffers[which] == kept[which], "written into after it was given up"
            else:
                assert outcome == outcomes[which]
        hand.lose()
        assert "waits" not in hand.outcomes()

    asyncio.run(course())


pieces = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"HTTP/1.1 206 OK\r\n", b"\r\n", b"\r\n\r\n", b"Content-Length: 5\r\n"]),
    st.sampled_from([b"HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\nabc", b"Connection: close\r\n"]),
    st.just(answer_bytes(b"first")),
)


@settings(deadline=None)
@given(st.lists(pieces, max_size=12), st.integers(0, 4), st.booleans(), st.booleans())
def test_p11_no_bytes_break_it_or_leave_anybody_waiting(
    come: list[bytes], asked: int, cancel_first: bool, eof: bool
) -> None:
    async def course() -> None:
        hand = HandChannel([5] * asked)
        for piece in come:
            hand.feed(piece)
            if cancel_first and hand.answers:
                hand.answers[0].cancel()
                await asyncio.sleep(0)
        hand.lose(None if eof else ConnectionResetError("reset"))
        assert "waits" not in hand.outcomes()
        assert hand.ends == 1
        assert hand.channel.ended
        for outcome in hand.outcomes():
            if isinstance(outcome, tuple) and outcome[0] == 206:
                assert len(outcome[1]) == 5

    asyncio.run(course())
