"""Fuzz targets of what peers send each other: answers over a channel, and streams of news."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence

from channel_double import HandChannel, answer_bytes
from fuzz_base import Target

from meshtrain.artifacts.news_frames import (
    FRAME_BYTES_MAX,
    LENGTH_BYTES,
    Gained,
    Holds,
    StillHere,
    frame_bytes,
    frame_length,
    read_frame,
)
from meshtrain.core.swarm import AskChunk, Swarm, bits_from_bytes
from meshtrain.errors import ProtocolError

SIZES_BYTES = (0, 5, 300)
CHUNKS = 300


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def answers(data: bytes) -> None:
    """The first bytes say what is asked, how it is cut and who leaves; the rest is what comes."""
    if len(data) < 3:
        return
    _loop().run_until_complete(_answers(data[0], data[1], data[2], data[3:]))


async def _answers(asked: int, cut: int, leaves: int, stream: bytes) -> None:
    hand = HandChannel(SIZES_BYTES[(asked >> n) % 3] for n in range(asked % 5))
    piece_bytes = cut + 1
    for number, start in enumerate(range(0, len(stream), piece_bytes)):
        hand.feed(stream[start : start + piece_bytes])
        if number == leaves % 8 and hand.answers:
            hand.answers[leaves % len(hand.answers)].cancel()
            await asyncio.sleep(0)
    hand.lose()
    assert hand.ends == 1
    for outcome, buffer in zip(hand.outcomes(), hand.buffers, strict=True):
        assert outcome != "waits"
        if isinstance(outcome, str):
            assert outcome == "cancelled" or outcome.startswith("ChannelError: ")
        elif outcome[0] == 206:
            assert outcome[1] == bytes(buffer)
        else:
            assert outcome[0] >= 300
    # So that no future is told of as one whose error nobody saw, and the watch is gone.
    await asyncio.sleep(0)


def answer_seeds() -> Sequence[bytes]:
    good = answer_bytes(b"") + answer_bytes(b"first") + answer_bytes(bytes(300))
    refused = answer_bytes(b'{"error": "gone"}', b"404 Not Found")
    streams = (
        good,
        refused + answer_bytes(b"first"),
        answer_bytes(b"first", more=b"Connection: close\r\n") + good,
        answer_bytes(b"first", b"200 OK"),
        answer_bytes(b"first", more=b"Content-Encoding: gzip\r\n"),
        b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + good,
        b"HTTP/1.1 206 OK\r\nX: " + b"x" * 5000,
    )
    return [
        bytes([asked, cut, leaves]) + stream
        for stream in streams
        for asked, cut, leaves in ((1, 255, 200), (3, 0, 200), (4, 30, 2), (0, 9, 0))
    ]


def news(data: bytes) -> None:
    """A stream as a fetch takes it: frames that are refused, or that a swarm takes in."""
    swarm = Swarm(CHUNKS)
    swarm.add_peer("peer", 0.0)
    swarm.next_asks(0.0)
    left = data
    while len(left) >= LENGTH_BYTES:
        try:
            length = frame_length(left[:LENGTH_BYTES])
            assert length <= FRAME_BYTES_MAX
            left = left[LENGTH_BYTES:]
            if len(left) < length:
                return
            frame = read_frame(left[:length])
        except ProtocolError as error:
            assert str(error)
            return
        left = left[length:]
        again = read_frame(frame_bytes(frame)[LENGTH_BYTES:])
        assert again == frame
        match frame:
            case Holds():
                swarm.told_have("peer", bits_from_bytes(frame.bits), 1.0, more=frame.more)
            case Gained() if all(0 <= chunk < CHUNKS for chunk in frame.chunks):
                swarm.gained("peer", frame.chunks, 1.0)
            case Gained() | StillHere():
                pass
        for ask in swarm.next_asks(1.0):
            if isinstance(ask, AskChunk):
                assert 0 <= ask.chunk < CHUNKS
                swarm.arrived("peer", ask.chunk, 2.0)


def news_seeds() -> Sequence[bytes]:
    frames = (
        Holds(bytes(38)),
        Holds(b"\xff" * 37 + b"\x0f", more=True),
        Holds(b"\xff" * 50),
        Gained([0, 1, 299]),
        Gained([300, -1]),
        StillHere(),
    )
    one = [frame_bytes(frame) for frame in frames]
    return [*one, b"".join(one), b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\5ab"]


TARGETS = (
    Target(
        "answers",
        answers,
        answer_seeds,
        ("meshtrain.artifacts.channel",),
        share=0.1,
        size_max=6000,
        words=(
            *(b"HTTP/1.1 206 ", b"HTTP/1.1 404 ", b"Content-Length: ", b"\r\n\r\n", b"\r\n"),
            *(b"Connection: close", b"Transfer-Encoding: chunked", b"Content-Encoding: gzip"),
        ),
    ),
    Target(
        "news",
        news,
        news_seeds,
        ("meshtrain.artifacts.news_frames", "meshtrain.core.swarm"),
        share=0.05,
        words=(b"type", b"holds", b"gained", b"here", b"bits", b"chunks", b"more"),
    ),
)
