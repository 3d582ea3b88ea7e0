"""Where the tensors of a safetensors file lie, read from its header; nothing in it is trusted.

A safetensors file is eight bytes with the size of its header (little-endian), a
header in JSON, and the tensors' bytes, one after the other without a hole:

    {"__metadata__": {…}, "name": {"dtype": "F32", "shape": […], "data_offsets": [begin, end]}, …}

The offsets count from the end of the header, so that a header that grows moves
every tensor. A file that breaks one of these rules has no layout: it is cut as
any other file is, and that is no error.

The format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import msgspec

LENGTH_BYTES = 8
HEADER_BYTES_MAX = 16 << 20
"""Of JSON; a header of 10,000 tensors takes about 1 MiB. Reading one at the limit takes about
100 MB of memory for a moment."""
TENSORS_MAX = 1 << 17
_SHAPE_MAX = 64
_METADATA = "__metadata__"


class Tensor(msgspec.Struct, frozen=True):
    """One tensor of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Bytes from the start of the file."""
    end: int

    @property
    def size_bytes(self) -> int:
        """The bytes that it takes."""
        return self.end - self.begin


class Layout(msgspec.Struct, frozen=True):
    """A file's tensors in the order of their bytes."""

    data_begin: int
    """Where the header ends; the tensors cover the file from here to its end."""
    tensors: tuple[Tensor, ...]


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_header_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_entry_decoder = msgspec.json.Decoder(_Entry)


def header_size_bytes(start: bytes, size_bytes: int) -> int | None:
    """The bytes of the header behind the length; None when the file can't be safetensors.

    Args:
        start: the first bytes of the file; nine are enough.
        size_bytes: the size of the whole file.
    """
    if len(start) <= LENGTH_BYTES or start[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        return None
    announced = int.from_bytes(start[:LENGTH_BYTES], "little")
    if not 2 <= announced <= min(HEADER_BYTES_MAX, size_bytes - LENGTH_BYTES):
        return None
    return announced


def read_layout(header: bytes, size_bytes: int) -> Layout | None:
    """Where the tensors lie; None when the header breaks a rule of the format.

    Args:
        header: the JSON, as many bytes as `header_size_bytes` said.
        size_bytes: the size of the whole file.
    """
    data_begin = LENGTH_BYTES + len(header)
    try:
        entries = _header_decoder.decode(header)
        entries.pop(_METADATA, None)
        if len(entries) > TENSORS_MAX:
            return None
        tensors = [_tensor(name, raw, data_begin) for name, raw in entries.items()]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # ValueError: what isn't UTF-8, and numbers of very many digits.
        return None
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end, tensor.name))
    place = data_begin
    for tensor in tensors:
        if tensor.begin != place or tensor.end < place or len(tensor.shape) > _SHAPE_MAX:
            return None
        place = tensor.end
    return Layout(data_begin, tuple(tensors)) if place == size_bytes else None


def _tensor(name: str, raw: msgspec.Raw, data_begin: int) -> Tensor:
    entry = _entry_decoder.decode(raw)
    begin, end = entry.data_offsets
    return Tensor(name, entry.dtype, tuple(entry.shape), data_begin + begin, data_begin + end)
