"""Messages to bytes and back, strictly.

The bytes are MessagePack; `msgspec.msgpack` reads and writes them. A message of
200 bytes is decoded straight into its class in 0.6 µs, where `msgpack.unpackb`
takes 1.6 µs and `msgspec.convert` another 0.6 µs, or 22 µs when it has to find
the class in the union of all (`benchmarks/wire.py` measures it). It is as safe:
it allocates nothing for the lengths that a header promises, and stops at a
limited depth. The `msgpack` package is the oracle in the tests: it must read
our bytes as the same data, and write that data as the same bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from meshtrain.errors import ProtocolError
from meshtrain.wire.messages import PROTOCOL_VERSION, Message

DEPTH_MAX = 64
"""How deep data of no fixed type (rows of answers, configurations) may nest."""

_ERROR_CHARS_MAX = 300
_TAG_CHARS_MAX = 40
_SCALARS = (str, int, float, bytes, type(None))

MessageT = TypeVar("MessageT")


class BadMessageKind(StrEnum):
    """What is wrong with a message; the transport counts by it."""

    OVERSIZE = "oversize"
    MALFORMED = "malformed"
    TOO_DEEP = "too deep"
    UNKNOWN_TYPE = "unknown type"
    WRONG_FIELD = "wrong field"
    TOO_MANY = "too many at once"


class BadMessageError(ProtocolError):
    """Raised when bytes are not a message that this side takes, or can't become one."""

    def __init__(self, kind: BadMessageKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class _Tag(msgspec.Struct):
    type: str


_encoder = msgspec.msgpack.Encoder()
_tag_decoder = msgspec.msgpack.Decoder(_Tag)


def encode(message: Message, size_bytes_max: int | None = None) -> bytes:
    """The bytes of a message.

    Raises BadMessageError when a field holds what MessagePack can't (an integer
    past 64 bits, text that is not Unicode, an object), or when the bytes are
    more than `size_bytes_max`.
    """
    try:
        data = _encoder.encode(message)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadMessageError(
            BadMessageKind.WRONG_FIELD,
            f"message '{_tag_of(message)}' can't be sent: {_cut(str(error))}",
        ) from error
    except RecursionError as error:
        raise BadMessageError(
            BadMessageKind.TOO_DEEP,
            f"message '{_tag_of(message)}' can't be sent: its data nests deeper than {DEPTH_MAX}",
        ) from error
    if size_bytes_max is not None and len(data) > size_bytes_max:
        raise BadMessageError(
            BadMessageKind.OVERSIZE,
            f"message '{_tag_of(message)}' can't be sent: it has {len(data)} bytes, "
            f"the limit is {size_bytes_max}; send less at once",
        )
    return data


class Decoder(Generic[MessageT]):
    """Decodes the messages of one direction, and refuses everything else.

    `union_type` is a union of message classes; `size_bytes_max` is the most
    bytes that a message may have.
    """

    def __init__(self, union_type: Any, size_bytes_max: int) -> None:
        self._decode = msgspec.msgpack.Decoder(union_type).decode
        self._size_bytes_max = size_bytes_max
        self._loose = _classes_with_loose_data(union_type)

    def decode(self, data: bytes) -> MessageT:
        """The message in `data`.

        Raises BadMessageError, which names the message's type and the field, when
        it is no message of this direction: oversize, malformed, followed by more
        bytes, of an unknown type, or with a field that is missing or wrong.
        Fields that this version doesn't know are passed over.
        """
        if len(data) > self._size_bytes_max:
            raise BadMessageError(
                BadMessageKind.OVERSIZE,
                f"a message of {len(data)} bytes was refused: the limit is {self._size_bytes_max}; "
                "send less at once",
            )
        try:
            message: MessageT = self._decode(data)
        except RecursionError as error:
            raise _refusal(BadMessageKind.TOO_DEEP, data, "its data nests too deep") from error
        except msgspec.ValidationError as error:
            kind, text = _explain(str(error))
            raise _refusal(kind, data, text) from error
        except (msgspec.DecodeError, ValueError, OverflowError) as error:
            raise _refusal(BadMessageKind.MALFORMED, data, _cut(str(error))) from error
        if type(message) in self._loose:
            _require_plain(message, data)
        return message


def _refusal(kind: BadMessageKind, data: bytes, text: str) -> BadMessageError:
    try:
        tag = f"message '{_cut(_tag_decoder.decode(data).type, _TAG_CHARS_MAX)}'"
    except (msgspec.DecodeError, RecursionError, ValueError, OverflowError):
        tag = f"a message of {len(data)} bytes"
    return BadMessageError(
        kind,
        f"{tag} was refused: {text}; this side speaks protocol {PROTOCOL_VERSION}: "
        "see that both sides run the same version",
    )


def _explain(text: str) -> tuple[BadMessageKind, str]:
    """What msgspec says of a mismatch, put field first: `spec.gpus[0].index: expected …`."""
    what, _, path = text.partition(" - at `$")
    field = path.removesuffix("`").removeprefix(".")
    if field == "type" or what == "Object missing required field `type`":
        return BadMessageKind.UNKNOWN_TYPE, "this side takes no message of that type"
    what = _cut(what.replace("`", ""))
    return BadMessageKind.WRONG_FIELD, f"field {_cut(field)}: {what}" if field else what


def _cut(text: str, chars_max: int = _ERROR_CHARS_MAX) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def _tag_of(message: object) -> str:
    config = getattr(message, "__struct_config__", None)
    return str(config.tag) if config is not None else type(message).__name__


def _classes_with_loose_data(union_type: Any) -> frozenset[type]:
    """The message classes that hold data of no fixed type somewhere within."""
    info = inspect.type_info(union_type)
    members = info.types if isinstance(info, inspect.UnionType) else (info,)
    return frozenset(
        member.cls
        for member in members
        if isinstance(member, inspect.StructType) and _holds_any(member, set())
    )


def _holds_any(info: inspect.Type, seen: set[type]) -> bool:
    match info:
        case inspect.AnyType():
            return True
        case inspect.StructType():
            if info.cls in seen:
                return False
            seen.add(info.cls)
            return any(_holds_any(field.type, seen) for field in info.fields)
        case inspect.UnionType():
            return any(_holds_any(member, seen) for member in info.types)
        case inspect.DictType():
            return _holds_any(info.key_type, seen) or _holds_any(info.value_type, seen)
        case inspect.CollectionType():
            return _holds_any(info.item_type, seen)
        case inspect.TupleType():
            return any(_holds_any(item, seen) for item in info.item_types)
        case _:
            return False


def _require_plain(message: object, data: bytes) -> None:
    """Data of no fixed type must still be plain, of limited depth, with text as keys.

    MessagePack also knows times, extensions and keys of any type, which nothing
    behind this point expects.
    """
    stack: list[tuple[object, int]] = [(message, 0)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, _SCALARS):
            continue
        if depth > DEPTH_MAX:
            raise _refusal(BadMessageKind.TOO_DEEP, data, f"it nests deeper than {DEPTH_MAX}")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise _refusal(
                        BadMessageKind.WRONG_FIELD, data, f"a map has a {type(key).__name__} as key"
                    )
            stack.extend((item, depth + 1) for item in value.values())
        elif isinstance(value, list | tuple):
            stack.extend((item, depth + 1) for item in value)
        elif isinstance(value, msgspec.Struct):
            stack.extend((getattr(value, name), depth) for name in value.__struct_fields__)
        else:
            raise _refusal(
                BadMessageKind.WRONG_FIELD,
                data,
                f"it holds a {type(value).__name__}: no plain data",
            )
