"""The film of the README: frames to one animated SVG, and the recording that it is made from."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))

from animated_svg import CELL_WIDTH, Frame, Piece, Row, Style, animated_svg  # noqa: E402
from film_player import FilmPlayer, size_at, written  # noqa: E402
from make_recording import Landmarks, landmarks, row_of_segments, text_of  # noqa: E402
from rich.segment import Segment  # noqa: E402
from rich.style import Style as RichStyle  # noqa: E402

from meshtrain.errors import NotFoundError, UserError  # noqa: E402
from meshtrain.wire.messages import Answer, Cancel, Query  # noqa: E402
from meshtrain_tui.recording import Recording  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"
BACKGROUND = "#101010"
PLAIN = Style("#eeeeee", BACKGROUND)
LOUD = Style("#ff0000", "#202020", bold=True)
FILM_BYTES_MAX = 600_000
RECORDING_BYTES_MAX = 400_000


def row(*parts: tuple[str, Style]) -> Row:
    pieces: list[Piece] = []
    column = 0
    for text, style in parts:
        pieces.append(Piece(column, text, len(text), style))
        column += len(text)
    return tuple(pieces)


def film(frames: list[Frame], length_s: float = 10.0) -> str:
    return animated_svg(
        frames, length_s=length_s, columns=20, title="a < film", background=BACKGROUND
    )


class Shown:
    """An SVG as a browser would play it, as far as these films go."""

    def __init__(self, svg: str) -> None:
        self.root = ET.fromstring(svg)
        css = self.root.findtext(f"{SVG}style") or ""
        self.length_s = {
            name: float(length)
            for name, length in re.findall(r"animation:(\w+) ([\d.]+)s step-end infinite", css)
        }
        self.steps = {
            name: [
                (float(share), word == "visible")
                for share, word in re.findall(r"([\d.]+)%\{visibility:(\w+)\}", steps)
            ]
            for name, steps in re.findall(r"@keyframes (\w+)\{((?:[^{}]*\{[^{}]*\})*)\}", css)
        }

    def is_seen(self, group: ET.Element, at_s: float) -> bool:
        name = group.get("class")
        if name is None:
            return True
        share = 100 * at_s / self.length_s[name]
        return [seen for from_share, seen in self.steps[name] if from_share <= share][-1]

    def texts(self, at_s: float) -> dict[float, dict[float, str]]:
        """The texts that are seen at a time: by their heights, then from left to right."""
        found: dict[float, dict[float, str]] = {}
        for group in self.root.iter(f"{SVG}g"):
            if not self.is_seen(group, at_s):
                continue
            for text in group.findall(f"{SVG}text"):
                line = found.setdefault(float(text.attrib["y"]), {})
                line[float(text.attrib["x"])] = text.text or ""
        return found

    def lines(self, at_s: float) -> list[str]:
        """Those texts as lines, without the gaps between them."""
        texts = self.texts(at_s)
        return ["".join(part for _, part in sorted(texts[y].items())) for y in sorted(texts)]


STYLES = st.sampled_from([PLAIN, LOUD, Style("#00ff00", BACKGROUND, underline=True)])
ROWS = st.lists(
    st.tuples(st.text("ab <&>\"'─█⣿·", min_size=1, max_size=6), STYLES), max_size=4
).map(lambda parts: row(*parts))
FILMS = st.lists(st.tuples(ROWS, ROWS, ROWS), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(FILMS, st.lists(st.text("q?:", max_size=3), min_size=7, max_size=7))
def test_every_frame_is_seen_at_its_time_and_no_other_is(
    pictures: list[tuple[Row, Row, Row]], keys: list[str]
) -> None:
    frames = [
        Frame(float(number), rows, key, "a caption")
        for number, (rows, key) in enumerate(zip(pictures, keys, strict=False))
    ]
    shown = Shown(film(frames))
    for frame in frames:
        captions = [text for text in (frame.key, "a caption") if text]
        told = [text_of(rows).replace(" ", "") for rows in frame.rows]
        want = [line for line in told if line] + ["".join(captions).replace(" ", "")]
        for at_s in (frame.at_s + 0.01, frame.at_s + 0.99):
            assert [line.replace(" ", "") for line in shown.lines(at_s)] == want


def test_texts_bear_their_place_and_their_width() -> None:
    svg = film([Frame(0.0, (row(("ab  cd     ef ", PLAIN), ("g", LOUD)),))])
    (line,) = [texts for y, texts in Shown(svg).texts(0.0).items() if y < 100 and texts]
    places = {text: round(x / CELL_WIDTH) for x, text in line.items()}
    assert places == {"ab  cd": 0, "ef": 11, "g": 14}
    lengths = {text.text: text.get("textLength") for text in ET.fromstring(svg).iter(f"{SVG}text")}
    assert lengths["ab  cd"] == "50.4"
    assert lengths["g"] == "8.4"


def test_a_row_that_stays_is_written_once() -> None:
    same = row(("stays", PLAIN))
    frames = [
        Frame(float(number), (same, row((f"turn {number % 2}", PLAIN)))) for number in range(8)
    ]
    svg = film(frames)
    assert svg.count(">stays<") == svg.count(">turn 0<") == svg.count(">turn 1<") == 1
    assert film(frames) == svg


def test_it_plays_in_a_picture_and_begins_with_its_first_frame() -> None:
    svg = film([Frame(0.0, (row(("first", PLAIN)),)), Frame(5.0, (row(("last", LOUD)),))])
    assert "<script" not in svg and "url(" not in svg and "@import" not in svg
    assert "href" not in svg
    shown = Shown(svg)
    assert shown.lines(4.9) == ["first"]
    assert shown.lines(5.1) == ["last"]
    # Where nothing is animated, the first frame is seen, and it alone.
    assert re.search(r"\.k0\{visibility:visible;", svg)
    assert re.search(r"\.k1\{visibility:hidden;", svg)
    assert "prefers-reduced-motion" in svg


@pytest.mark.parametrize(
    ("times", "length_s", "words"),
    [
        ([], 1.0, "begins with a frame at 0"),
        ([1.0], 2.0, "begins with a frame at 0"),
        ([0.0, 1.0, 1.0], 2.0, "one after another"),
        ([0.0, 3.0], 3.0, "the last frame begins at 3.0 s"),
    ],
)
def test_times_that_make_no_film_are_refused(
    times: list[float], length_s: float, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        film([Frame(at_s, (row(("x", PLAIN)),)) for at_s in times], length_s)


def test_rows_are_taken_from_a_terminal_with_their_columns() -> None:
    plain = ("#ffffff", "#000000")
    red = RichStyle.parse("#ff0000 on #0000ff")
    segments = [
        Segment("ab", RichStyle.parse("bold")),
        Segment("c", RichStyle.parse("bold")),
        Segment("漢", red),
        Segment("d", red + RichStyle(reverse=True)),
        Segment("e", red + RichStyle(dim=True)),
        Segment("f"),
    ]
    assert row_of_segments(segments, plain) == (
        Piece(0, "abc", 3, Style("#ffffff", "#000000", bold=True)),
        Piece(3, "漢", 2, Style("#ff0000", "#0000ff")),
        Piece(5, "d", 1, Style("#0000ff", "#ff0000")),
        Piece(6, "e", 1, Style("#7f007f", "#0000ff")),
        Piece(7, "f", 1, Style("#ffffff", "#000000")),
    )


# --- the recording ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def source() -> Recording:
    return Recording(ROOT / "docs" / "recording" / "run.jsonl")


@pytest.fixture(scope="module")
def marks(source: Recording) -> Landmarks:
    return landmarks(source)


def test_the_recording_is_small_and_of_no_host(source: Recording) -> None:
    data = source.path.read_bytes()
    assert len(data) < RECORDING_BYTES_MAX
    assert not re.search(rb'"/(?!home/you/)[a-z]', data)
    assert source.torn_bytes == 0


async def test_a_job_is_shown_as_it_was_at_each_time(source: Recording, marks: Landmarks) -> None:
    async def asked(
        what: str, *names: str, offset: int = 0, limit: int = 1 << 20
    ) -> dict[str, Any]:
        answer = await player.ask(Query("q", what, names, offset, limit))
        assert isinstance(answer, Answer)
        (told,) = answer.rows
        return dict(told)

    player = FilmPlayer(source)
    half_s = (marks.base_begins_s + marks.base_trained_s) / 2
    player.jump(source.begins_wall_s + half_s)
    (base,) = [job for job in player.view.jobs.values() if job.kind == "base"]
    detail = await asked("job", base.job_id)
    assert detail["state"] == "running"
    attempt_id = detail["attempts"][0]["attempt_id"]
    sizes: dict[str, int] = {}
    for stream in ("log", "metrics"):
        told = await asked("log", base.job_id, stream, attempt_id)
        sizes[stream] = told["size_bytes"]
        assert len(told["data"]) == told["next_offset"] == told["size_bytes"] > 0
        assert not told["ended"]
        again = await asked("log", base.job_id, stream, attempt_id, offset=5, limit=7)
        assert again["data"] == told["data"][5:12]
    times = await asked("times", base.job_id, "log", attempt_id)
    assert max(times["walls_s"]) <= player.now_s()
    player.jump(source.ends_wall_s)
    for stream in ("log", "metrics"):
        told = await asked("log", base.job_id, stream, attempt_id)
        assert told["size_bytes"] > sizes[stream]
        assert told["ended"]
    with pytest.raises(NotFoundError, match="has no log of nobody"):
        await asked("log", "nobody")
    with pytest.raises(UserError, match="can't be changed"):
        await player.ask(Cancel("c", (base.job_id,)))


def test_a_stream_is_as_long_as_what_had_come() -> None:
    arrivals = [(0, 10.0), (5, 12.0)]
    assert [size_at(arrivals, 9, at_s) for at_s in (9.0, 10.0, 11.9, 12.0)] == [0, 5, 5, 9]
    lines = b'{"time": 10.0}\n{"time": 12.5}\n'
    assert written(lines) == [(0, 10.0), (15, 12.5)]


def test_the_film_is_whole_and_shows_what_it_is_for() -> None:
    svg = (ROOT / "docs" / "images" / "top_recording.svg").read_text(encoding="utf-8")
    assert len(svg.encode()) < FILM_BYTES_MAX
    shown = Shown(svg)
    (length_s,) = set(shown.length_s.values())
    assert 20 <= length_s <= 35
    seen = ["\n".join(shown.lines(tenth / 10)) for tenth in range(int(10 * length_s))]
    # The top line, the tabs, and more: no picture is empty.
    assert min(len(text.splitlines()) for text in seen) >= 6
    for words in ("Last events", "epoch 1/24", "accuracy", "★ best", "more_writers", "Came",
                  "Search for commands", "jobs of b", "drain or undrain"):  # fmt: skip
        assert any(words in text for text in seen), words
