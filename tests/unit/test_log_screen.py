"""What a log looks like on a terminal, in a pipe and as JSON."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrain.cli.log_screen import (
    LINE_CHARS_MAX,
    BytesOut,
    LinesOut,
    ScreenOut,
    last_drawn,
    plain,
    rank_of,
)


class Terminal(io.BytesIO):
    """Draws what is written to it, as far as the screen uses it: \\r, \\n, erase the line."""

    def lines(self) -> list[str]:
        shown = [""]
        text = self.getvalue().decode()
        at = 0
        while at < len(text):
            if text.startswith("\x1b[K", at):
                at += 3
                continue
            letter = text[at]
            if letter == "\n":
                shown.append("")
            elif letter == "\r":
                assert text.startswith("\r\x1b[K", at), "a line that is drawn over is wiped first"
                shown[-1] = ""
            else:
                shown[-1] += letter
            at += 1
        return shown


def drawn(*pieces: bytes, width: int = 40, rank: int | None = None) -> list[str]:
    terminal = Terminal()
    screen = ScreenOut(terminal, width=width, rank=rank)
    for piece in pieces:
        screen.write(piece)
        screen.flush()
    screen.end()
    assert terminal.getvalue().endswith(b"\n") or not terminal.getvalue()
    return terminal.lines()[:-1]


def test_a_flood_of_a_progress_bar_takes_one_line() -> None:
    bar = b"".join(b"\repoch 1 %3d%%" % n for n in range(101))
    pieces = [bar[i : i + 37] for i in range(0, len(bar), 37)]
    assert drawn(b"begin\n", *pieces, b"\nend\n") == ["begin", "epoch 1 100%", "end"]


def test_what_stands_in_the_last_line_is_the_latest_state() -> None:
    terminal = Terminal()
    screen = ScreenOut(terminal, width=40)
    screen.write(b"\r 10%\r 20%\r")
    screen.flush()
    assert terminal.lines() == [" 20%"]
    screen.write(b" 30%")
    screen.flush()
    screen.flush()
    assert terminal.lines() == [" 30%"]
    assert terminal.getvalue().count(b" 30%") == 1


def test_somebody_else_may_write_between() -> None:
    terminal = Terminal()
    screen = ScreenOut(terminal, width=40)
    screen.write(b"\r 10%")
    screen.flush()
    screen.part()
    terminal.write(b"note\n")
    screen.write(b"\r 20%\n")
    screen.end()
    assert terminal.lines() == [" 10%", "note", " 20%", ""]


def test_bars_that_go_back_up_take_one_line() -> None:
    """As tqdm draws an inner bar below an outer one."""
    inner = b"".join(b"\n\rinner %d%%\x1b[A" % n for n in range(50))
    assert drawn(b"\router 1%", inner, b"\n\rinner done\ntold\n") == [
        "outer 1%",
        "inner done",
        "told",
    ]


def test_a_wide_bar_never_wraps() -> None:
    terminal = Terminal()
    screen = ScreenOut(terminal, width=20)
    screen.write(b"\r" + b"#" * 90)
    screen.flush()
    assert terminal.lines() == ["#" * 19]
    screen.write(b"\n")
    screen.end()
    assert terminal.lines() == ["#" * 90, ""]


def test_P11_a_job_can_not_drive_the_terminal() -> None:
    title = b"\x1b]0;mine\x07"
    clipboard = b"\x1b]52;c;aGVsbG8=\x1b\\"
    moves = b"\x1b[2J\x1b[H\x1b[?1049h\x07\x08\x9b"
    red = b"\x1b[31mred\x1b[0m"
    assert drawn(title + clipboard + moves + b"text " + red + b"\n") == [
        "\ufffdtext \x1b[31mred\x1b[0m\x1b[0m"
    ]


@given(st.text())
def test_without_colours_nothing_but_text_is_left(text: str) -> None:
    left = plain(text, colours=False)
    assert all(letter == "\t" or letter.isprintable() or ord(letter) >= 0xA0 for letter in left)


@given(st.lists(st.binary(max_size=30), max_size=8))
def test_lines_are_the_same_however_the_bytes_come(pieces: list[bytes]) -> None:
    def shown(given: list[bytes]) -> bytes:
        stream = io.BytesIO()
        out = LinesOut(stream)
        for piece in given:
            out.write(piece)
        out.end()
        return stream.getvalue()

    assert shown(pieces) == shown([b"".join(pieces)])


def test_a_line_without_an_end_fills_no_memory() -> None:
    stream = io.BytesIO()
    out = LinesOut(stream)
    for _ in range(20):
        out.write(b"x" * LINE_CHARS_MAX)
    assert len(stream.getvalue()) >= 18 * LINE_CHARS_MAX


def test_bytes_stay_bytes() -> None:
    stream = io.BytesIO()
    out = BytesOut(stream)
    data = bytes(range(256))
    out.write(data)
    out.flush()
    out.end()
    assert stream.getvalue() == data


def test_lines_as_json_with_the_attempt() -> None:
    stream = io.BytesIO()
    out = LinesOut(stream, as_json=True)
    out.attempt = 2
    out.write(b"first\n[rank1]: boo")
    out.end()
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert told == [
        {"attempt": 2, "rank": None, "text": "first"},
        {"attempt": 2, "rank": 1, "text": "[rank1]: boo"},
    ]


def test_one_rank_alone() -> None:
    data = b"[default0]:loss 1\n[default1]:loss 2\nplain\n[default0]:loss 3\n[default0]:open"
    assert drawn(data, rank=0) == ["[default0]:loss 1", "[default0]:loss 3", "[default0]:open"]
    stream = io.BytesIO()
    out = LinesOut(stream, rank=1)
    out.write(data)
    out.end()
    assert stream.getvalue() == b"[default1]:loss 2\n"


@pytest.mark.parametrize(
    ("line", "rank"),
    [
        ("[default3]:x", 3),
        ("[rank12]: Traceback", 12),
        ("  [local_rank 1] x", 1),
        ("[rank]: x", None),
        ("rank0: x", None),
        ("", None),
    ],
)
def test_the_marks_of_ranks(line: str, rank: int | None) -> None:
    assert rank_of(line) == rank


@pytest.mark.parametrize(
    ("line", "shown"),
    [("a\rb", "b"), ("a\r", "a"), ("\r\r", ""), ("plain", "plain"), ("50%\r\x1b[K", "50%")],
)
def test_what_a_line_shows_in_the_end(line: str, shown: str) -> None:
    assert last_drawn(line) == shown
