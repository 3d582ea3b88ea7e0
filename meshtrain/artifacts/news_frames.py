"""How one host tells another which chunks it holds, as they come: the frames of that stream.

Each frame is a length in four bytes, big-endian, and a MessagePack map.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from meshtrain.core.manifest import CHUNKS_MAX
from meshtrain.errors import ProtocolError

LENGTH_BYTES = 4
FRAME_BYTES_MAX = CHUNKS_MAX // 8 + 64
"""The bitmap of the largest artifact, and what is around it."""
GAINED_MAX = 64
"""Chunks told one by one; of more the whole bitmap is as short, and is taken in at once."""

FRAMES_PER_S_MAX = 1000
"""Of one stream, in the long run: who tells more is read no faster."""


class Holds(msgspec.Struct, frozen=True, tag="holds"):
    """All that the follower may ask for now; takes the place of what was said before."""

    bits: bytes
    """As `core.swarm.bits_to_bytes` writes them."""
    more: bool = False
    """Whether there is more here, of which it is told later, or when it follows anew."""


class Gained(msgspec.Struct, frozen=True, tag="gained"):
    """Chunks that may be asked for too."""

    chunks: Annotated[list[int], msgspec.Meta(max_length=GAINED_MAX)]


class StillHere(msgspec.Struct, frozen=True, tag="here"):
    """Nothing is new, and the connection stands."""


Frame = Holds | Gained | StillHere

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


def frame_bytes(frame: Frame) -> bytes:
    """A frame as it travels."""
    data = _encoder.encode(frame)
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def frame_length(prefix: bytes) -> int:
    """The bytes that follow a prefix.

    Raises:
        ProtocolError: when it is more than a frame may have.
    """
    length = int.from_bytes(prefix, "big")
    if length > FRAME_BYTES_MAX:
        raise ProtocolError(
            f"its news come in a frame of {length} bytes, at most {FRAME_BYTES_MAX} are read"
        )
    return length


def read_frame(data: bytes) -> Frame:
    """The frame after its prefix.

    Raises:
        ProtocolError: when it is none.
    """
    try:
        frame: Frame = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"its news are no frame: {error}") from error
    return frame
