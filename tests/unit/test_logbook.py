"""The master's log files: each byte once, in order, whatever is repeated, lost or cut off."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrain.store.base import StreamSize
from meshtrain.wire.messages import StreamBytes, StreamHole
from meshtrain_daemon.master import logbook as logbook_module
from meshtrain_daemon.master.holes import holes_path
from meshtrain_daemon.master.logbook import FILES_OPEN_MAX, Logbook


def chunk(offset: int, data: bytes, attempt: str = "j.1", stream: str = "log") -> StreamBytes:
    return StreamBytes(attempt, attempt.split(".")[0], stream, offset, data)


def store(book: Logbook, *messages: StreamBytes) -> list[StreamSize]:
    """Write and count, as the master does."""
    sizes = book.write(messages)
    book.counted(sizes)
    return sizes


def content(book: Logbook, attempt: str = "j.1", stream: str = "log") -> bytes:
    return book.path(attempt.split(".")[0], attempt, stream).read_bytes()


def test_overlaps_and_repeats_are_passed_over_and_gaps_not_taken(tmp_path: Path) -> None:
    book = Logbook(tmp_path, ())
    store(book, chunk(0, b"abc"), chunk(5, b"fgh"), chunk(0, b"abc"), chunk(2, b"cde"))
    assert content(book) == b"abcde"
    assert book.confirmation(chunk(5, b"x")).offset == 5
    store(book, chunk(5, b"fgh"))
    store(book, chunk(1, b"bc"), chunk(8, b""))
    assert content(book) == b"abcdefgh"
    assert book.read("j", "j.1", "log", 2, 3).data == b"cde"
    assert book.read("j", "j.1", "log", 8, 3).data == b""


def test_streams_and_attempts_do_not_mix(tmp_path: Path) -> None:
    book = Logbook(tmp_path, ())
    sizes = store(
        book,
        chunk(0, b"one"),
        chunk(0, b"metrics", stream="metrics"),
        chunk(0, b"second", attempt="j.2"),
    )
    assert [(s.attempt_id, s.stream, s.size_bytes) for s in sizes] == [
        ("j.1", "log", 3),
        ("j.1", "metrics", 7),
        ("j.2", "log", 6),
    ]


def test_bytes_that_were_written_but_not_counted_are_cut_off_at_the_start(tmp_path: Path) -> None:
    book = Logbook(tmp_path, ())
    counted = store(book, chunk(0, b"kept"))
    book.write([chunk(4, b" lost")])
    assert content(book) == b"kept lost"
    book = Logbook(tmp_path, counted)
    assert content(book) == b"kept"
    store(book, chunk(4, b" again"))
    assert content(book) == b"kept again"


def test_what_a_failed_first_write_left_is_not_kept_behind_shorter_bytes(tmp_path: Path) -> None:
    Logbook(tmp_path, ()).write([chunk(0, b"never counted")])
    book = Logbook(tmp_path, ())
    store(book, chunk(0, b"never"))
    assert content(book) == b"never"


@pytest.mark.parametrize("left", [None, b"ab"])
def test_a_file_that_was_removed_or_cut_is_asked_for_again(
    tmp_path: Path, left: bytes | None
) -> None:
    book = Logbook(tmp_path, ())
    counted = store(book, chunk(0, b"abcdef"))
    path = book.path("j", "j.1", "log")
    path.unlink()
    assert book.read("j", "j.1", "log", 0, 10).data == b""
    if left is not None:
        path.write_bytes(left)
    book = Logbook(tmp_path, counted)
    assert book.confirmation(chunk(0, b"")).offset == len(left or b"")
    store(book, chunk(0, b"abcdef"))
    assert content(book) == b"abcdef"


def test_nothing_grows_when_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Logbook(tmp_path, ())
    store(book, chunk(0, b"abc"))
    before = set(os.listdir("/proc/self/fd"))

    def refuse(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(logbook_module.os, "fsync", refuse)
        with pytest.raises(OSError, match="No space"):
            book.write([chunk(3, b"def"), chunk(0, b"other", attempt="k.1")])
    assert set(os.listdir("/proc/self/fd")) == before, "files were left open"
    assert book.confirmation(chunk(3, b"")).offset == 3
    store(book, chunk(3, b"DEF"), chunk(0, b"other", attempt="k.1"))
    assert content(book) == b"abcDEF"


def test_more_streams_than_files_may_be_open_are_written_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = 0
    most = 0
    real_open, real_close = os.open, os.close

    def count_open(*args: object, **kwargs: object) -> int:
        nonlocal opened, most
        opened += 1
        most = max(most, opened)
        return real_open(*args, **kwargs)  # type: ignore[arg-type]

    def count_close(fd: int) -> None:
        nonlocal opened
        opened -= 1
        real_close(fd)

    monkeypatch.setattr(logbook_module.os, "open", count_open)
    monkeypatch.setattr(logbook_module.os, "close", count_close)
    book = Logbook(tmp_path, ())
    many = FILES_OPEN_MAX + 20
    messages = [chunk(part, b"x", attempt=f"j.{i}") for part in (0, 1) for i in range(many)]
    assert len(store(book, *messages)) == many
    assert opened == 0
    assert most <= FILES_OPEN_MAX + 1
    assert all(content(book, f"j.{i}") == b"xx" for i in range(many))


WHOLE = bytes(range(256)) * 2
PIECES = st.lists(
    st.tuples(
        st.integers(0, len(WHOLE)),
        st.integers(1, 100),
        st.sampled_from(["write", "write", "write", "crash", "restart"]),
    ),
    max_size=40,
)


@given(PIECES)
@settings(max_examples=60, deadline=None)
def test_any_chunks_repeats_and_crashes_give_a_prefix_and_in_the_end_exactly_the_bytes(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, int, str]]
) -> None:
    folder = tmp_path_factory.mktemp("book")
    book = Logbook(folder, ())
    counted: dict[str, StreamSize] = {}
    for offset, length, what in pieces:
        message = chunk(offset, WHOLE[offset : offset + length])
        if what == "restart":
            book = Logbook(folder, counted.values())
            continue
        sizes = book.write([message])
        if what == "crash":
            book = Logbook(folder, counted.values())
            continue
        counted |= {size.stream: size for size in sizes}
        book.counted(sizes)
        size = book.size_bytes("j.1", "log")
        if size:
            assert content(book) == WHOLE[:size]
    while (offset := book.size_bytes("j.1", "log")) < len(WHOLE):
        store(book, chunk(max(0, offset - 3), WHOLE[max(0, offset - 3) : offset + 70]))
    assert content(book) == WHOLE


def test_P6_a_log_is_not_whole_before_its_last_byte_is_counted(tmp_path: Path) -> None:
    book = Logbook(tmp_path, ())
    assert book.is_whole("j.1", "log")
    book.expect("j.1", {"log": 6, "other": 9})
    assert not book.is_whole("j.1", "log")
    assert book.is_whole("j.1", "other"), "a stream that nobody knows is not waited for"
    book.counted(book.write([StreamBytes("j.1", "j", "log", 0, b"abc")]))
    assert not book.is_whole("j.1", "log")
    book.counted(book.write([StreamBytes("j.1", "j", "log", 3, b"def")]))
    assert book.is_whole("j.1", "log")
    book.expect("j.1", {"log": 6})
    assert book.is_whole("j.1", "log"), "the end is told again and again"


# --- holes --------------------------------------------------------------------------------


def hole(offset: int, size_bytes: int, stream: str = "log") -> StreamHole:
    return StreamHole("j.1", "j", stream, offset, size_bytes)


def read_all(book: Logbook, limit: int = 1 << 20) -> bytes:
    """What `meshtrain logs` prints: from piece to piece."""
    data, offset = b"", 0
    while True:
        piece = book.read("j", "j.1", "log", offset, limit)
        data += piece.data
        if piece.next_offset == offset:
            return data
        offset = piece.next_offset


@pytest.mark.parametrize("limit", [1, 3, 1 << 20])
def test_P6_a_hole_keeps_the_offsets_of_what_follows_and_its_zeros_are_never_read(
    tmp_path: Path, limit: int
) -> None:
    book = Logbook(tmp_path, ())
    printed_zeros = b"zeros \0\0\0 of the job itself"
    store(book, chunk(0, b"head[lost]"), hole(10, 100), chunk(110, printed_zeros))
    store(book, hole(110 + len(printed_zeros), 5), hole(115 + len(printed_zeros), 7))
    end = 122 + len(printed_zeros)
    store(book, chunk(end, b"end"))
    assert book.size_bytes("j.1", "log") == end + 3
    assert content(book) == b"head[lost]" + bytes(100) + printed_zeros + bytes(12) + b"end"
    assert read_all(book, limit) == b"head[lost]" + printed_zeros + b"end"
    assert book.read("j", "j.1", "log", 50, 2) == (printed_zeros[:2], 112, 110)


def test_a_hole_takes_no_room_on_the_disk(tmp_path: Path) -> None:
    book = Logbook(tmp_path, ())
    store(book, hole(0, 1 << 30), chunk(1 << 30, b"x"))
    assert book.path("j", "j.1", "log").stat().st_blocks * 512 < 1 << 20


def test_holes_are_repeated_overlapped_and_confirmed_as_bytes_are(tmp_path: Path) -> None:
    book = Logbook(tmp_path, ())
    assert store(book, hole(3, 10)) == [], "after a gap"
    store(book, chunk(0, b"abc"), hole(3, 10))
    store(book, hole(3, 10), hole(0, 8), chunk(5, b"........new"))
    assert content(book) == b"abc" + bytes(10) + b"new"
    assert book.confirmation(hole(3, 10)).offset == 16
    store(book, hole(10, 10), chunk(20, b"end"))
    assert read_all(book) == b"abcnewend"


def test_P6_a_hole_that_was_not_counted_is_forgotten(tmp_path: Path) -> None:
    book = Logbook(tmp_path, ())
    counted = store(book, chunk(0, b"abc"), hole(3, 4))
    book.write([hole(7, 50), chunk(57, b"lost")])
    book = Logbook(tmp_path, counted)
    assert content(book) == b"abc" + bytes(4)
    printed = b"printed instead, and longer than the hole that was forgotten, by far"
    store(book, chunk(7, printed))
    assert read_all(book) == b"abc" + printed


@pytest.mark.parametrize(
    "refused", [hole(0, 9, "metrics"), hole(0, 1 << 62), hole(1 << 62, 1 << 62), hole(0, 0)]
)
def test_P11_a_hole_that_can_not_be_is_passed_over(tmp_path: Path, refused: StreamHole) -> None:
    book = Logbook(tmp_path, ())
    assert store(book, refused) == []
    assert book.size_bytes("j.1", refused.stream) == 0
    store(book, chunk(0, b"abc", stream=refused.stream))
    assert content(book, stream=refused.stream) == b"abc"


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_P11_whatever_lies_in_place_of_the_holes_a_log_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    book = Logbook(tmp_path_factory.mktemp("book"), ())
    store(book, chunk(0, b"a log"), hole(5, 3), chunk(8, b"end"))
    holes_path(book.path("j", "j.1", "log")).write_bytes(data)
    whole = content(book)
    assert len(read_all(book)) <= len(whole)
    store(book, hole(11, 5), chunk(16, b"more"))
    assert read_all(book).endswith(b"more")
