"""Where a safetensors file is cut, so that tensors that did not change are chunks that meet again.

Offsets are no help: a header that is one byte longer moves all that follows it.
So no chunk holds bytes of a large tensor and of anything else:

- The header is a span of its own: it changes whenever a shape does.
- A tensor of `SMALL_BYTES` or more is a span of its own. One above `WHOLE_BYTES_MAX`
  is split further by what it holds, counted from its own start (`artifacts.cutting`): rows that
  it gains or loses anywhere leave the pieces before and behind them as they were.
- Smaller neighbours share a span of up to `GROUP_BYTES_MAX`. From `SMALL_BYTES` on it ends where
  the hash of the next tensor's name says so: at every second border of two layers, rarely inside
  of one. Names stay as they are when sizes change, so that the spans are back in step soon after
  a tensor that grew, as content-defined cuts of bytes are.

Two nodes must cut alike, and for all time: these constants and rules are part
of what an artifact's id is made of.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import xxhash

from meshtrain.core.tensor_layout import Layout, Tensor

SMALL_BYTES = 128 << 10
"""Smaller ones are asked for together: a request costs as much as some 100 KiB."""
WHOLE_BYTES_MAX = 512 << 10
GROUP_BYTES_MAX = 512 << 10
HEADER_PIECE_BYTES = 2 << 20
SPANS_FEW = 4096
SPANS_PER_MIB_MAX = 4
"""A file with more than `SPANS_FEW` spans, and more of them than this in each MiB, is not worth
what its chunks would cost in its manifest: it is cut as other files are."""
_AT_LAYER = 0x01
_WITHIN_LAYER = 0x0F


class Span(msgspec.Struct, frozen=True):
    """A range of a file that no chunk reaches out of."""

    begin: int
    end: int
    split: bool
    """Whether it is cut further by what it holds; else it is one chunk."""


def tensor_spans(layout: Layout) -> list[Span] | None:
    """The spans that cover a file from its start to its end; None when there would be too many."""
    begin, end = 0, layout.data_begin
    spans = [
        Span(place, min(place + HEADER_PIECE_BYTES, end), split=False)
        for place in range(begin, end, HEADER_PIECE_BYTES)
    ]
    spans += _data_spans([tensor for tensor in layout.tensors if tensor.size_bytes])
    size_mib = spans[-1].end / (1 << 20)
    if len(spans) > max(SPANS_FEW, SPANS_PER_MIB_MAX * size_mib):
        return None
    return spans


def layer_of(name: str) -> str:
    """What a tensor belongs to: `h.3.attn.bias` to `h.3`, `head.weight` to `head`."""
    parts = name.split(".")
    for index in range(len(parts) - 1, -1, -1):
        # What else Unicode calls digits grows with its editions.
        if parts[index].isascii() and parts[index].isdigit():
            return ".".join(parts[: index + 1])
    return ".".join(parts[:-1])


def _data_spans(tensors: list[Tensor]) -> Iterator[Span]:
    begin: int | None = None
    """Where the group of small tensors starts that has not ended."""
    layer = ""
    for tensor in tensors:
        small = tensor.size_bytes < SMALL_BYTES
        if begin is not None and (not small or _ends_group(begin, layer, tensor)):
            yield Span(begin, tensor.begin, split=False)
            begin = None
        if not small:
            yield Span(tensor.begin, tensor.end, split=tensor.size_bytes > WHOLE_BYTES_MAX)
        elif begin is None:
            begin = tensor.begin
        layer = layer_of(tensor.name)
    if begin is not None:
        yield Span(begin, tensors[-1].end, split=False)


def _ends_group(begin: int, layer: str, next_one: Tensor) -> bool:
    if next_one.end - begin > GROUP_BYTES_MAX:
        return True
    if next_one.begin - begin < SMALL_BYTES:
        return False
    mask = _WITHIN_LAYER if layer_of(next_one.name) == layer else _AT_LAYER
    # In JSON half of a surrogate pair may stand alone.
    return xxhash.xxh3_64_intdigest(next_one.name.encode("utf-8", "surrogatepass")) & mask == 0
