"""Headers of safetensors files: what is read from real ones, and that no other is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensor_files import save

from meshtrain.core.tensor_cuts import Span, layer_of, tensor_spans
from meshtrain.core.tensor_layout import (
    HEADER_BYTES_MAX,
    Layout,
    Tensor,
    header_size_bytes,
    read_layout,
)

KIB = 1 << 10


def layout_of(data: bytes) -> Layout | None:
    size = header_size_bytes(data[:9], len(data))
    return None if size is None else read_layout(data[8 : 8 + size], len(data))


def with_header(header: Any, data_bytes: int = 8) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data_bytes)


def entry(begin: Any, end: Any, **other: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [begin, end], **other}


def laid_out(sizes: dict[str, int], data_begin: int = 100) -> Layout:
    place, tensors = data_begin, []
    for name, size_bytes in sizes.items():
        tensors.append(Tensor(name, "U8", (size_bytes,), place, place + size_bytes))
        place += size_bytes
    return Layout(data_begin, tuple(tensors))


def test_the_header_of_a_real_file_is_read(tmp_path: Path) -> None:
    path = save(
        {
            "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
            "a.steps": np.array([7], dtype=np.int64),
            "none": np.zeros((0, 4), dtype=np.float32),
        },
        tmp_path / "m.safetensors",
    )
    data = path.read_bytes()
    layout = layout_of(data)
    assert layout is not None
    found = {tensor.name: tensor for tensor in layout.tensors}
    assert found["b.weight"].shape == (2, 3) and found["b.weight"].dtype == "F32"
    assert found["none"].size_bytes == 0
    steps = found["a.steps"]
    assert data[steps.begin : steps.end] == (7).to_bytes(8, "little")
    assert layout.tensors[-1].end == len(data)


def test_metadata_is_no_tensor() -> None:
    layout = layout_of(with_header({"__metadata__": {"format": "pt"}, "w": entry(0, 8)}))
    assert layout is not None and [tensor.name for tensor in layout.tensors] == ["w"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        bytes(8),
        bytes(9),
        b"\xff" * 8 + b"{}",
        (2).to_bytes(8, "little"),
        (3).to_bytes(8, "little") + b"{}",
        (1).to_bytes(8, "little") + b"{}",
        (HEADER_BYTES_MAX + 1).to_bytes(8, "little") + b"{" + bytes(64),
        with_header(b"[]"),
        with_header(b"{" * 100_000),
        with_header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        with_header(b'{"a":' * 50_000),
        with_header(b'{"\xff": 1}'),
        with_header(b'{"w": null}'),
        with_header({"w": entry(0, 8)}, data_bytes=9),
        with_header({"w": entry(0, 8)}, data_bytes=7),
        with_header({"w": entry(1, 8)}),
        with_header({"w": entry(-8, 8)}),
        with_header({"w": entry(8, 0)}),
        with_header({"w": entry(0, 4), "v": entry(5, 8)}),
        with_header({"w": entry(0, 6), "v": entry(4, 8)}),
        with_header({"w": entry(0, 8), "v": entry(0, 8)}),
        with_header({"w": entry(0, 1 << 70)}),
        with_header({"w": entry(0.5, 8)}),
        with_header({"w": entry("0", "8")}),
        with_header({"w": entry(0, 8, shape=[1] * 65)}),
        with_header({"w": {"dtype": "F32", "shape": [2]}}),
        with_header({"w": [0, 8]}),
        with_header(b'{"w": {"dtype":"F32","shape":[],"data_offsets":[0,' + b"9" * 5000 + b"]}}"),
    ],
)
def test_P11_what_only_claims_to_be_safetensors_has_no_layout(data: bytes) -> None:
    assert layout_of(data) is None


def test_more_tensors_than_the_limit_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshtrain.core.tensor_layout.TENSORS_MAX", 2)
    assert layout_of(with_header({"a": entry(0, 8), "b": entry(8, 8)})) is not None
    assert layout_of(with_header({"a": entry(0, 8), "b": entry(8, 8), "c": entry(8, 8)})) is None


# --- spans -----------------------------------------------------------------------------------


def test_large_tensors_stand_alone_and_small_neighbours_together() -> None:
    layout = laid_out(
        {
            "h.0.bias": 2 * KIB,
            "h.0.norm": 3 * KIB,
            "h.0.weight": 300 * KIB,
            "h.1.weight": 3000 * KIB,
            "h.2.bias": 1,
        }
    )
    begin = layout.data_begin
    assert tensor_spans(layout) == [
        Span(0, begin, split=False),
        Span(begin, begin + 5 * KIB, split=False),
        Span(begin + 5 * KIB, begin + 305 * KIB, split=False),
        Span(begin + 305 * KIB, begin + 3305 * KIB, split=True),
        Span(begin + 3305 * KIB, begin + 3305 * KIB + 1, split=False),
    ]


def test_groups_are_back_in_step_after_a_tensor_that_grew() -> None:
    sizes = {f"h.{n}.{part}": 20 * KIB for n in range(200) for part in ("bias", "weight")}

    def groups(sizes: dict[str, int]) -> set[tuple[str, ...]]:
        layout = laid_out(sizes)
        spans = tensor_spans(layout)
        assert spans is not None
        return {
            tuple(t.name for t in layout.tensors if span.begin <= t.begin < span.end)
            for span in spans[1:]
        }

    before, after = groups(sizes), groups({**sizes, "h.3.bias": 90 * KIB})
    assert 20 < len(before) < 80
    assert len(after - before) <= 3


def test_names_that_tell_no_layer_are_grouped_by_their_hashes() -> None:
    spans = tensor_spans(laid_out({f"t{n}": 30 * KIB for n in range(400)}))
    assert spans is not None
    sizes = [span.end - span.begin for span in spans[1:]]
    assert max(sizes) <= 512 * KIB and len(set(sizes)) > 3


def test_a_hundred_thousand_tiny_tensors_are_few_chunks() -> None:
    layout = laid_out({f"h.{n}.w": 40 for n in range(100_000)})
    spans = tensor_spans(layout)
    assert spans is not None and len(spans) < 40


def test_a_file_of_too_many_spans_is_cut_as_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {f"h.{n}.{part}": size for n in range(50) for part, size in (("a", 1), ("b", 262144))}
    assert tensor_spans(laid_out(sizes)) is not None
    monkeypatch.setattr("meshtrain.core.tensor_cuts.SPANS_FEW", 50)
    assert tensor_spans(laid_out(sizes)) is None


def test_a_long_header_is_in_pieces() -> None:
    spans = tensor_spans(laid_out({"w": 300 * KIB}, data_begin=9 << 20))
    assert spans is not None
    assert [span.end >> 20 for span in spans[:5]] == [2, 4, 6, 8, 9]
    assert tensor_spans(laid_out({}, data_begin=10)) == [Span(0, 10, split=False)]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("h.3.attn.bias", "h.3"),
        ("model.layers.7.experts.12.w1", "model.layers.7.experts.12"),
        ("head.weight", "head"),
        ("t.0001", "t.0001"),
        ("h.٣.bias", "h.٣"),
        ("weight", ""),
        ("", ""),
    ],
)
def test_a_layer_is_told_by_the_last_number(name: str, layer: str) -> None:
    assert layer_of(name) == layer
