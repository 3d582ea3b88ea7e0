"""A connection that chunks come over, byte by byte."""

from __future__ import annotations

import asyncio

import pytest
from channel_double import GONE, REQUEST, HandChannel, answer_bytes

from meshtrain.artifacts.channel import ERROR_BYTES_MAX, HEAD_BYTES_MAX, ChannelError

BODY = bytes(range(256)) * 3


async def test_a_body_lands_in_its_buffer() -> None:
    hand = HandChannel([len(BODY)])
    hand.feed(answer_bytes(BODY, more=b"X-One: 1\r\nx-one:  2 \r\n"))
    assert hand.outcomes() == [(206, BODY)]
    assert hand.answers[0].result().headers["x-one"] == "2"
    assert hand.transport.written == [REQUEST]
    assert hand.channel.pending == 0
    assert not hand.transport.aborted


@pytest.mark.parametrize("size_bytes", [1, 2, 3, 7, 100])
async def test_answers_may_come_in_pieces_of_any_size(size_bytes: int) -> None:
    answers = answer_bytes(BODY) + GONE + answer_bytes(BODY[::-1])
    hand = HandChannel([len(BODY)] * 3)
    for start in range(0, len(answers), size_bytes):
        hand.feed(answers[start : start + size_bytes])
    assert hand.outcomes() == [(206, BODY), (404, b'{"error": "gone"}'), (206, BODY[::-1])]


async def test_answers_may_be_split_in_two_at_every_byte() -> None:
    answers = answer_bytes(b"first") + GONE + answer_bytes(b"third")
    for cut in range(len(answers) + 1):
        hand = HandChannel([5, 5, 5])
        hand.feed(answers[:cut])
        hand.feed(answers[cut:])
        assert hand.outcomes() == [(206, b"first"), (404, b'{"error": "gone"}'), (206, b"third")]


async def test_the_bulk_of_a_body_is_read_straight_into_its_buffer() -> None:
    hand = HandChannel([100_000])
    head, _, body = answer_bytes(bytes(100_000)).partition(b"\r\n\r\n")
    hand.feed(head + b"\r\n\r\n" + body[:10])
    into = hand.channel.get_buffer(-1)
    assert len(into) == 100_000 - 10
    into[:3] = b"abc"
    assert hand.buffers[0][10:13] == b"abc"


async def test_empty_bodies_are_answers_too() -> None:
    hand = HandChannel([0, 5])
    hand.feed(answer_bytes(b"") + answer_bytes(b"", b"503 Busy", b"Retry-After: 1\r\n"))
    assert hand.outcomes() == [(206, b""), (503, b"")]
    assert hand.answers[1].result().headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no answer of HTTP"),
        (b"HTTP/2 200 OK\r\n\r\n", "no answer of HTTP"),
        (b"HTTP/1.1 99 X\r\n\r\n", "no answer of HTTP"),
        (b"HTTP/1.1 206 OK\r\nnonsense\r\n\r\n", "a header that is none"),
        (b"HTTP/1.1 206 OK\r\n: x\r\n\r\n", "a header that is none"),
        (b"HTTP/1.1 206 OK\r\nContent-Length : 5\r\n\r\n", "a header that is none"),
        (b"HTTP/1.1 206 OK\r\n folded: 5\r\n\r\n", "a header that is none"),
        (b"HTTP/1.1 206 OK\r\n\r\n", "how many bytes"),
        (b"HTTP/1.1 206 OK\r\nContent-Length: -5\r\n\r\n", "how many bytes"),
        (b"HTTP/1.1 206 OK\r\nContent-Length: 5,5\r\n\r\n", "how many bytes"),
        (b"HTTP/1.1 206 OK\r\nContent-Length: \xb2\r\n\r\n", "how many bytes"),
        (b"HTTP/1.1 206 OK\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\n", "how many bytes"),
        (b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "how many bytes"),
        (answer_bytes(b"first", more=b"Content-Length: 5\r\n"), "a header twice"),
        (answer_bytes(b"first", more=b"content-LENGTH: 6\r\n"), "a header twice"),
        (answer_bytes(b"first", more=b"Content-Encoding: gzip\r\n"), "compressed"),
        (answer_bytes(b"firs"), "it sends 4 bytes, 5 were due"),
        (answer_bytes(b"first!"), "it sends 6 bytes, 5 were due"),
        (answer_bytes(b"first", b"200 OK"), "answered 200"),
        (answer_bytes(b"", b"100 Continue"), "answered 100"),
        (answer_bytes(b"", b"204 No Content"), "answered 204"),
        (answer_bytes(bytes(ERROR_BYTES_MAX + 1), b"500 X"), "refused with 500, and 4097 bytes"),
        (b"HTTP/1.1 206 OK\r\nX: " + b"x" * (HEAD_BYTES_MAX + 1), "has no end"),
        (b"x" * (HEAD_BYTES_MAX + 5000), "has no end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "answer",
)
async def test_p11_what_is_no_answer_ends_the_connection_with_its_reason(
    answer: bytes, words: str
) -> None:
    for size_bytes in (len(answer), 1):
        hand = HandChannel([5, 5])
        for start in range(0, len(answer), size_bytes):
            hand.feed(answer[start : start + size_bytes])
        assert hand.transport.aborted
        assert hand.ends == 1
        for outcome in hand.outcomes():
            assert isinstance(outcome, str)
            assert words in outcome


async def test_p11_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    hand = HandChannel([5])
    hand.feed(answer_bytes(b"first") + answer_bytes(b"other"))
    assert hand.outcomes() == [(206, b"first")]
    assert hand.transport.aborted


async def test_nothing_is_taken_in_once_the_connection_was_ended() -> None:
    hand = HandChannel([5])
    hand.feed(answer_bytes(b"first")[:-2])
    hand.channel.close("enough")
    hand.channel.get_buffer(-1)[:2] = b"st"
    hand.channel.buffer_updated(2)
    hand.lose()
    assert hand.outcomes() == ["ChannelError: enough"]
    assert hand.ends == 1


async def test_after_the_last_answer_the_connection_is_given_up() -> None:
    hand = HandChannel([5, 5])
    hand.feed(answer_bytes(b"first", more=b"Connection: Close\r\n") + answer_bytes(b"other"))
    assert hand.outcomes()[0] == (206, b"first")
    assert "closed the connection after" in str(hand.outcomes()[1])
    assert hand.channel.ended


@pytest.mark.parametrize("error", [None, ConnectionResetError("reset by peer"), OSError()])
async def test_who_waits_when_the_connection_breaks_is_told(error: Exception | None) -> None:
    hand = HandChannel([5, 5])
    hand.feed(answer_bytes(b"first") + answer_bytes(b"other")[:-1])
    hand.lose(error)
    assert hand.outcomes()[0] == (206, b"first")
    assert str(hand.outcomes()[1]).startswith("ChannelError: ")
    assert len(str(hand.outcomes()[1])) > len("ChannelError: ")
    assert hand.ends == 1
    assert isinstance(hand.ask(5).exception(), ChannelError)


# --- nobody waits any more ------------------------------------------------------------


async def test_the_first_of_two_may_be_cancelled() -> None:
    hand = HandChannel([5, 5])
    hand.answers[0].cancel()
    await asyncio.sleep(0)
    hand.feed(answer_bytes(b"first") + answer_bytes(b"other"))
    assert hand.outcomes() == ["cancelled", (206, b"other")]
    assert hand.buffers[0] == bytes(5), "that memory may be somebody else's by now"


async def test_the_first_of_two_may_be_cancelled_while_its_body_comes() -> None:
    for cut in range(1, 5):
        hand = HandChannel([5, 5])
        answer = answer_bytes(b"first")
        hand.feed(answer[: -5 + cut])
        hand.answers[0].cancel()
        await asyncio.sleep(0)
        hand.feed(answer[-5 + cut :] + answer_bytes(b"other"))
        assert hand.outcomes() == ["cancelled", (206, b"other")]
        assert hand.buffers[0] == b"first"[:cut].ljust(5, b"\0")


async def test_the_second_of_two_may_be_cancelled() -> None:
    hand = HandChannel([5, 5])
    hand.answers[1].cancel()
    await asyncio.sleep(0)
    hand.feed(answer_bytes(b"first") + answer_bytes(b"other"))
    assert hand.outcomes() == [(206, b"first"), "cancelled"]
    assert hand.buffers[1] == bytes(5)
    hand.ask(5)
    hand.feed(answer_bytes(b"third"))
    assert hand.outcomes()[2] == (206, b"third")


async def test_what_was_refused_and_cancelled_passes_by() -> None:
    hand = HandChannel([5, 5])
    hand.answers[0].cancel()
    await asyncio.sleep(0)
    hand.feed(GONE + answer_bytes(b"other"))
    assert hand.outcomes() == ["cancelled", (206, b"other")]


async def test_when_all_are_cancelled_the_connection_is_ended() -> None:
    """The peer would send what nobody takes."""
    hand = HandChannel([5, 5])
    for answer in hand.answers:
        answer.cancel()
    await asyncio.sleep(0)
    assert hand.transport.aborted
    assert hand.ends == 1


async def test_what_is_cancelled_after_its_answer_disturbs_nothing() -> None:
    hand = HandChannel([5, 5])
    hand.feed(answer_bytes(b"first"))
    hand.answers[0].cancel()
    await asyncio.sleep(0)
    hand.feed(answer_bytes(b"other"))
    assert hand.outcomes() == [(206, b"first"), (206, b"other")]
