"""The pure parts of the log viewer, each against the naive way."""

from __future__ import annotations

import re
from datetime import datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshtrain.errors import UserError
from meshtrain_tui.log.ansi import PLAIN, Look, Run, runs_of, text_of
from meshtrain_tui.log.folding import fold, shown_of, shown_of_ends
from meshtrain_tui.log.jump import Jump, parse_jump
from meshtrain_tui.log.line_index import BLOCK_BYTES, REGION_BLOCKS, LineIndex
from meshtrain_tui.log.search import SearchPattern
from meshtrain_tui.log.times import StreamTimes
from meshtrain_tui.log.wrapping import cut, wrapped

FEW = settings(max_examples=60, deadline=None)

# --- folding --------------------------------------------------------------------------------

PRINTED = st.lists(st.sampled_from([b"\r", b"a", b"50%", b" ", b"\xff"]), max_size=12).map(b"".join)


def last_state(line: bytes) -> bytes:
    """A terminal that clears its line when something is printed after a \\r."""
    shown, returned = b"", False
    for byte in line:
        if byte == 13:
            returned = True
        else:
            shown = (b"" if returned else shown) + bytes([byte])
            returned = False
    return shown


@FEW
@given(PRINTED)
def test_a_line_is_folded_to_its_last_state(line: bytes) -> None:
    assert fold(line) == last_state(line)
    assert fold(fold(line)) == fold(line)


@FEW
@given(PRINTED, st.integers(1, 8))
def test_of_a_long_line_its_two_ends_are_enough(line: bytes, shown_max: int) -> None:
    shown, was_cut = shown_of(line, shown_max)
    assert len(shown) <= shown_max
    if len(line) > shown_max:
        assert (shown, was_cut) == shown_of_ends(line[:shown_max], line[-shown_max:])
    else:
        assert (shown, was_cut) == (last_state(line), False)


def test_a_flood_of_a_progress_bar_is_one_state() -> None:
    flood = b"".join(b"\r%3d%% of the epoch" % step for step in range(101)) * 100
    assert shown_of(flood) == (b"100% of the epoch", False)
    assert shown_of(b"x" * 20_000)[1]


# --- colours --------------------------------------------------------------------------------


def naive_plain(text: str) -> str:
    """Character by character, for the sequences that programs really print."""
    out, at = "", 0
    while at < len(text):
        character = text[at]
        if character == "\x1b" and text[at + 1 : at + 2] == "[":
            at += 2
            while at < len(text) and not "@" <= text[at] <= "~":
                at += 1
        elif character == "\t":
            out += " " * (8 - len(out) % 8)
        elif character >= " " and character != "\x7f":
            out += character
        at += 1
    return out


@FEW
@given(
    st.lists(
        st.sampled_from(
            [
                "a",
                "é",
                "漢",
                "\t",
                "\x1b[31m",
                "\x1b[0m",
                "\x1b[1;38;5;200m",
                "\x1b[2K",
                "\x07",
                "\0",
            ]
        ),
        max_size=20,
    ).map("".join)
)
@example("\x1b[31")
def test_the_plain_text_of_a_line(text: str) -> None:
    assert text_of(text.encode()) == naive_plain(text)
    assert "".join(run.text for run in runs_of(text)) == naive_plain(text)


@FEW
@given(st.text())
def test_whatever_is_printed_has_a_plain_text_that_can_be_shown(text: str) -> None:
    plain = text_of(text.encode("utf-8", "surrogatepass"))
    assert not re.search("[\x00-\x1f\x7f]", plain)


def test_colours_and_emphasis() -> None:
    assert runs_of("a\x1b[1;31mb\x1b[22mc\x1b[mд") == [
        Run("a", PLAIN),
        Run("b", Look(fore="red", bold=True)),
        Run("c", Look(fore="red")),
        Run("д", PLAIN),
    ]
    looks = {
        "\x1b[97;44m": Look(fore="bright_white", back="blue"),
        "\x1b[38;5;208m": Look(fore="color(208)"),
        "\x1b[48;2;1;2;255m": Look(back="#0102ff"),
        "\x1b[38:2::255:0:0m": Look(fore="#ff0000"),
        "\x1b[38;5;999m": PLAIN,
        "\x1b[7;4;3;9;2m": Look(reverse=True, underline=True, italic=True, strike=True, dim=True),
        "\x1b[31;39m": PLAIN,
        "\x1b[99999999m": PLAIN,
        "\x1b[38m": PLAIN,
    }
    for code, look in looks.items():
        assert runs_of(f"{code}x") == [Run("x", look)], code
    assert text_of(b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x07 \x1b(B\x1bPq#\x1b\\end") == "link end"


# --- searching ------------------------------------------------------------------------------

LINES = st.lists(
    st.lists(
        st.sampled_from(
            [b"a", b"B", b"b", b"k", b"\xe2\x84\xaa", b"\r", b"\x1b[1m", b"\t", b" ", b"."]
        ),
        max_size=6,
    ).map(b"".join),
    max_size=8,
)


@FEW
@given(
    LINES,
    st.sampled_from(["a", "B", "b", "ab", "k", "a.", "^b", "b$", " ", "(a|k)+", ""]),
    st.booleans(),
)
def test_a_search_is_that_of_each_line_as_it_is_shown(
    lines: list[bytes], text: str, ends: bool
) -> None:
    data = b"\n".join(lines) + (b"\n" if ends and lines else b"")
    pattern = SearchPattern(text)
    flags = re.IGNORECASE if text == text.lower() else 0
    split = data.split(b"\n")
    if not data or data.endswith(b"\n"):
        split.pop()
    begins = [sum(len(line) + 1 for line in split[:index]) for index in range(len(split))]
    hits = [
        begin
        for begin, line in zip(begins, split, strict=True)
        if re.search(text, text_of(fold(line)), flags)
    ]
    assert pattern.first_in(data) == (hits[0] if hits else None)
    assert pattern.last_in(data) == (hits[-1] if hits else None)


TOKENS = [
    "a",
    "b",
    "ab",
    ".",
    "+",
    "*",
    "?",
    "{0,1}",
    "{0}",
    "[ab]",
    "[^a]",
    "[]b]",
    "^",
    "$",
    "\\w",
]
TOKENS += ["\\x61", "\\.", "k", "\u212a", "(a|b)", "{", "\\n", " "]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(TOKENS), min_size=1, max_size=5).map("".join),
    st.lists(st.text("abk. B\u212a{", max_size=5), max_size=4),
)
def test_lines_that_are_passed_over_have_nothing_of_the_pattern(
    text: str, lines: list[str]
) -> None:
    try:
        pattern = SearchPattern(text)
    except UserError:
        return
    data = "\n".join(lines).encode()
    flags = re.IGNORECASE if text == text.lower() else 0
    hits = [re.search(text, line, flags) is not None for line in lines]
    split = data.split(b"\n") if not data.endswith(b"\n") and data else data.split(b"\n")[:-1]
    begins = [sum(len(line) + 1 for line in split[:index]) for index in range(len(split))]
    there = [begin for begin, hit in zip(begins, hits, strict=False) if hit]
    assert pattern.first_in(data) == (there[0] if there else None)
    assert pattern.last_in(data) == (there[-1] if there else None)


def test_a_pattern_that_is_none_says_so() -> None:
    with pytest.raises(UserError, match="no regular expression"):
        SearchPattern("a(")
    with pytest.raises(UserError, match="500 characters"):
        SearchPattern("a" * 501)
    assert SearchPattern("a*").spans("baab") == [(1, 3)]
    assert SearchPattern("Err").spans("err Err") == [(4, 7)]
    assert SearchPattern(r"err\W").spans("ERR! err") == [(0, 4)], "an escape is no capital letter"
    assert SearchPattern("err").spans("err Err") == [(0, 3), (4, 7)]


# --- lines and times ------------------------------------------------------------------------


@FEW
@given(st.lists(st.integers(0, 3), max_size=3 * REGION_BLOCKS), st.randoms(use_true_random=False))
def test_line_numbers_are_sums_however_the_regions_come(counts: list[int], chance: object) -> None:
    index = LineIndex()
    regions = list(range(-(-len(counts) // REGION_BLOCKS)))
    chance.shuffle(regions)  # type: ignore[attr-defined]
    for region in regions:
        index.put(region, counts[region * REGION_BLOCKS : (region + 1) * REGION_BLOCKS])
    assert index.line_ends == sum(counts)
    for block in range(len(counts) + 1):
        assert index.line_ends_before(block) == sum(counts[:block])
        after = [at for at in range(block, len(counts)) if counts[at]]
        assert index.next_block_with_end(block, len(counts)) == (after[0] if after else None)
        before = [at for at in range(min(block + 1, len(counts))) if counts[at]]
        if block < len(counts):
            assert index.last_block_with_end(block) == (before[-1] if before else None)
    assert index.line_ends_before(len(counts) + 1) is None
    ends = [(at, nth) for at, count in enumerate(counts) for nth in range(count)]
    for number, (block, nth) in enumerate(ends):
        assert index.block_of_line_end(number) == (block, nth)
    assert index.block_of_line_end(len(ends)) is None


def test_what_is_not_counted_yet_is_not_claimed() -> None:
    index = LineIndex()
    index.put(2, [1] * REGION_BLOCKS)
    assert index.line_ends == 0
    assert index.line_ends_before(2 * REGION_BLOCKS) is None
    assert index.next_block_with_end(0, 1000) == 0
    assert not index.is_known(0)
    index.put(0, [0] * REGION_BLOCKS)
    assert index.next_block_with_end(0, 1000) == REGION_BLOCKS
    index.put(1, [2])
    assert index.line_ends == 2
    index.put(1, [2] * REGION_BLOCKS)
    assert index.line_ends == 2 * REGION_BLOCKS + REGION_BLOCKS
    assert BLOCK_BYTES * REGION_BLOCKS == 4 << 20


@FEW
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12), st.integers(0, 10))
def test_times_only_grow(pairs: list[tuple[int, int]], asked: int) -> None:
    times = StreamTimes()
    times.extend((offset, float(wall_s)) for offset, wall_s in pairs)
    kept: list[tuple[int, float]] = []
    for offset, wall_s in pairs:
        if not kept or offset > kept[-1][0]:
            kept.append((offset, max([float(wall_s), *(wall for _, wall in kept)])))
    assert len(times) == len(kept)
    assert times.at(asked) == max((w for o, w in kept if o <= asked), default=None)
    assert times.first_from(asked) == min((o for o, w in kept if w >= asked), default=None)
    assert times.first_after(asked) == min((o for o, w in kept if w > asked), default=None)
    assert times.next_offset == (kept[-1][0] + 1 if kept else 0)


# --- wrapping -------------------------------------------------------------------------------


@FEW
@given(st.text("ab漢é ", max_size=30), st.integers(1, 9), st.integers(0, 20))
def test_rows_make_up_the_line_and_fit(text: str, width: int, column: int) -> None:
    from rich.cells import cell_len

    rows = wrapped(text, width)
    assert "".join(text[begin:end] for begin, end in rows) == text
    assert all(cell_len(text[begin:end]) <= max(width, 2) for begin, end in rows)
    assert all(end > begin for begin, end in rows) or not text
    begin, end = cut(text, column, width)
    assert 0 <= begin <= end <= len(text)
    assert cell_len(text[begin:end]) <= width
    assert cell_len(text[:begin]) <= column


# --- jumping --------------------------------------------------------------------------------


def test_places_that_people_type() -> None:
    first, last = datetime(2026, 5, 1, 20, 0), datetime(2026, 5, 2, 14, 30, 10)
    span_s = (first.timestamp(), last.timestamp())
    day = {
        "14:02": datetime(2026, 5, 2, 14, 2),
        "14:02:09": datetime(2026, 5, 2, 14, 2, 9),
        "23:00": datetime(2026, 5, 1, 23, 0),
        "2026-05-01 21:00": datetime(2026, 5, 1, 21, 0),
        "2026-05-01T21:00:05": datetime(2026, 5, 1, 21, 0, 5),
        "-10m": datetime(2026, 5, 2, 14, 20, 10),
        "-1.5 h": datetime(2026, 5, 2, 13, 0, 10),
    }
    for text, there in day.items():
        assert parse_jump(text, span_s) == Jump(wall_s=there.timestamp()), text
    assert parse_jump("15:00", span_s).wall_s == datetime(2026, 5, 2, 15, 0).timestamp()
    assert parse_jump("1,200", span_s) == Jump(line=1199)
    assert parse_jump("50%", None) == Jump(share=0.5)
    assert parse_jump("0", None) == Jump(line=0)
    for text in ("", "noon", "25:00", "14:61", "50 %%", "-1w", "9" * 30):
        with pytest.raises(UserError, match="write 14:02"):
            parse_jump(text, span_s)
    with pytest.raises(UserError, match="didn't note"):
        parse_jump("14:02", None)
