"""No bytes upset the reader of headers, and cuts cover a file, keep their limits and meet again."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshtrain.artifacts import cutting
from meshtrain.core import tensor_cuts
from meshtrain.core.tensor_layout import LENGTH_BYTES, header_size_bytes, read_layout

MIN, TARGET, MAX = 64, 256, 1024

NAMES = st.one_of(
    st.text(max_size=12),
    st.builds("h.{}.{}".format, st.integers(0, 9), st.sampled_from(["w", "bias", "norm.w"])),
).filter(lambda name: name != "__metadata__")
SIZES = st.one_of(st.integers(0, 60), st.integers(200, 3000))
MODELS = st.dictionaries(NAMES, SIZES, max_size=12)
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


def noise(size_bytes: int, seed: str) -> bytes:
    return hashlib.shake_128(seed.encode("utf-8", "surrogatepass")).digest(size_bytes)


def model_bytes(sizes: dict[str, int]) -> bytes:
    place, header, data = 0, {}, b""
    for name, size_bytes in sizes.items():
        offsets = [place, place + size_bytes]
        header[name] = {"dtype": "U8", "shape": [size_bytes], "data_offsets": offsets}
        data += noise(size_bytes, name)
        place += size_bytes
    text = json.dumps(header).encode()
    return len(text).to_bytes(LENGTH_BYTES, "little") + text + data


@contextmanager
def small_limits() -> Iterator[None]:
    """Limits that files of a few KiB meet."""
    with (
        mock.patch.multiple(
            cutting,
            ONE_CHUNK_BYTES=128,
            PIECE_BYTES_MIN=MIN,
            PIECE_BYTES_TARGET=TARGET,
            PIECE_BYTES_MAX=MAX,
            _WINDOW_BYTES=2 * MAX,
        ),
        mock.patch.multiple(
            tensor_cuts,
            SMALL_BYTES=MIN,
            WHOLE_BYTES_MAX=TARGET,
            GROUP_BYTES_MAX=TARGET,
            HEADER_PIECE_BYTES=MAX,
        ),
    ):
        yield


def pieces(data: bytes) -> list[bytes]:
    with small_limits(), tempfile.TemporaryFile(buffering=0) as file:
        file.write(data)
        file.seek(0)
        return [bytes(view) for view in cutting.content_pieces(file, len(data), "file")]


@given(st.binary(max_size=400))
@settings(deadline=None)
@example(b"\x02\0\0\0\0\0\0\0{}")
@example(b"\x10\0\0\0\0\0\0\0" + b'{"\xed\xa0\x80":' + b"[" * 60)
def test_P11_any_bytes_as_a_file_have_a_layout_that_covers_it_or_none(data: bytes) -> None:
    size = header_size_bytes(data[: LENGTH_BYTES + 1], len(data))
    layout = None if size is None else read_layout(data[8 : 8 + size], len(data))
    if layout is not None:
        place = layout.data_begin
        for tensor in layout.tensors:
            assert tensor.begin == place and tensor.size_bytes >= 0
            place = tensor.end
        assert place == len(data)
    assert b"".join(pieces(data)) == data


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=4), st.integers(0, 64))
@settings(deadline=None)
def test_P11_any_json_as_a_header_is_cut_somehow(header: dict[str, Any], data_bytes: int) -> None:
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(data_bytes)
    assert b"".join(pieces(data)) == data


@given(MODELS)
@settings(max_examples=60, deadline=None)
def test_the_chunks_of_a_model_keep_to_its_tensors(sizes: dict[str, int]) -> None:
    data = model_bytes(sizes)
    found = pieces(data)
    assert b"".join(found) == data == b"".join(pieces(data))
    assert all(0 < len(piece) <= MAX for piece in found)
    if len(data) > 128:
        own = {name: n for name, n in sizes.items() if n >= MIN}
        for name, size_bytes in own.items():
            # The same chunks as it has where it is alone.
            alone = noise(size_bytes, name)
            if size_bytes <= TARGET:
                assert alone in found
            else:
                assert set(pieces(alone)) <= set(found)


@given(st.integers(0, 12_000), st.text(max_size=3), st.integers(0, 3000))
@settings(max_examples=60, deadline=None)
def test_what_is_appended_leaves_all_chunks_but_the_last(
    size_bytes: int, seed: str, more_bytes: int
) -> None:
    data = noise(size_bytes + more_bytes, "a" + seed)
    before, after = pieces(data[:size_bytes]), pieces(data)
    assert all(MIN <= len(piece) <= MAX for piece in after[:-1])
    if size_bytes > 128:
        assert after[: len(before) - 1] == before[:-1]


@given(st.integers(0, 30_000), st.binary(min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_what_is_put_in_is_forgotten_some_chunks_later(at: int, new: bytes) -> None:
    data = noise(30_000, "long")
    known = set(pieces(data))
    changed = [piece for piece in pieces(data[:at] + new + data[at:]) if piece not in known]
    assert sum(map(len, changed)) <= 16 * MAX
