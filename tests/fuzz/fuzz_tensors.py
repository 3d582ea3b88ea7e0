"""Fuzz target of files that claim to be safetensors: they are cut, whatever they hold."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fuzz_base import Target
from fuzz_scratch import scratch

from meshtrain.artifacts import cutting
from meshtrain.core.tensor_cuts import tensor_spans
from meshtrain.core.tensor_layout import LENGTH_BYTES, header_size_bytes, read_layout


def tensors(data: bytes) -> None:
    """The layout covers the file or there is none; the spans, and the chunks, cover it too."""
    size_bytes = len(data)
    header_bytes = header_size_bytes(data[: LENGTH_BYTES + 1], size_bytes)
    if header_bytes is not None:
        layout = read_layout(data[LENGTH_BYTES : LENGTH_BYTES + header_bytes], size_bytes)
        if layout is not None:
            place = 0
            for span in tensor_spans(layout) or ():
                assert span.begin == place < span.end
                place = span.end
            assert place in (0, size_bytes)
    path = scratch("x.safetensors", data)
    with path.open("rb", buffering=0) as file:
        spans = cutting._spans(file, size_bytes)
        assert [span.begin for span in spans[1:]] == [span.end for span in spans[:-1]]
        assert spans[0].begin == 0 and spans[-1].end == size_bytes


def tensor_seeds() -> Sequence[bytes]:
    def model(header: object, data_bytes: int) -> bytes:
        text = json.dumps(header).encode()
        return len(text).to_bytes(LENGTH_BYTES, "little") + text + bytes(data_bytes)

    def entry(begin: int, end: int, *shape: int) -> dict[str, object]:
        return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}

    whole = {
        "__metadata__": {"format": "pt"},
        "h.0.attn.weight": entry(0, 64, 4, 4),
        "h.0.attn.bias": entry(64, 80, 4),
        "none": entry(80, 80, 0),
        "h.1.attn.bias": entry(80, 84, 1),
    }
    return [
        model(whole, 84),
        model({}, 0),
        model({"w": entry(0, 4, 1)}, 5),
        model({"w": entry(0, 4), "v": entry(2, 6)}, 6),
        b"\xff" * 8 + b"{",
        b"",
    ]


WORDS = (
    b'"data_offsets":[0,8]',
    b'"dtype":"F32"',
    b'"shape":[',
    b'"__metadata__":{',
    b"\\ud800",
    b"1e400",
    b"18446744073709551616",
    b"-1",
)

TARGETS = (
    Target(
        "tensors",
        tensors,
        tensor_seeds,
        ("meshtrain.core.tensor_layout", "meshtrain.core.tensor_cuts"),
        share=0.05,
        words=WORDS,
    ),
)
