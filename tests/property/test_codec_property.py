"""Whatever a message holds comes back; whatever else comes is refused in one way."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from msgspec import inspect

from meshtrain.errors import ProtocolError
from meshtrain.wire import messages as wire
from meshtrain.wire.codec import Decoder, encode

KINDS = get_args(wire.Message)
ANY: Decoder[wire.Message] = Decoder(wire.Message, 1 << 20)
TO_MASTER: Decoder[wire.ToMaster] = Decoder(wire.ToMaster, 1 << 20)

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
INT_MAX = (1 << 63) - 1
LOOSE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-INT_MAX, INT_MAX)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def strategy_for(info: inspect.Type) -> st.SearchStrategy[Any]:
    """Values of a type, as msgspec describes it: every constraint on it is kept."""
    match info:
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            low = -INT_MAX if info.ge is None else info.ge
            return st.integers(low, INT_MAX if info.le is None else info.le)
        case inspect.FloatType():
            least = info.ge if info.gt is None else info.gt
            return st.floats(least, info.le, allow_nan=False, exclude_min=info.gt is not None)
        case inspect.StrType():
            return TEXT if info.pattern is None else st.from_regex(info.pattern)
        case inspect.BytesType():
            return st.binary(max_size=64)
        case inspect.AnyType():
            return LOOSE
        case inspect.EnumType():
            return st.sampled_from(list(info.cls))
        case inspect.UnionType():
            return st.one_of(*(strategy_for(member) for member in info.types))
        case inspect.DictType():
            keys, values = strategy_for(info.key_type), strategy_for(info.value_type)
            return st.dictionaries(keys, values, max_size=3)
        case inspect.ListType():
            return st.lists(strategy_for(info.item_type), max_size=3)
        case inspect.VarTupleType():
            return st.lists(strategy_for(info.item_type), max_size=3).map(tuple)
        case inspect.StructType():
            fields = {field.name: strategy_for(field.type) for field in info.fields}
            return st.fixed_dictionaries(fields).map(lambda values: made(info.cls, values))
    raise AssertionError(f"no strategy for {info}")


def made(cls: type, values: dict[str, Any]) -> Any:
    """A record, unless these values contradict each other."""
    try:
        return cls(**values)
    except ValueError:
        reject()


MESSAGES = {kind: strategy_for(inspect.type_info(kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_every_message_comes_back_as_it_was(kind: type, data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    decoded = ANY.decode(encode(message))
    assert type(decoded) is kind
    assert decoded == message
    assert encode(decoded) == encode(message)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused_or_a_message(data: bytes) -> None:
    expect_message_or_refusal(data)


@given(
    st.one_of(*MESSAGES.values()),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 10_000),
)
@settings(max_examples=300, deadline=None)
def test_spoilt_messages_are_refused_or_a_message(
    message: wire.Message, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(encode(message))
    for place, value in changes:
        data[place % len(data)] = value
    expect_message_or_refusal(bytes(data))
    expect_message_or_refusal(bytes(data)[: cut % len(data)])


@given(st.one_of(*MESSAGES.values()), LOOSE, st.integers(0, 50))
@settings(max_examples=300, deadline=None)
def test_fields_of_another_type_are_refused_or_a_message(
    message: wire.Message, value: object, which: int
) -> None:
    fields = msgspec.to_builtins(message, builtin_types=(bytes,))
    fields[sorted(fields)[which % len(fields)]] = value
    expect_message_or_refusal(msgspec.msgpack.encode(fields))


def expect_message_or_refusal(data: bytes) -> None:
    for decoder in (ANY, TO_MASTER):
        try:
            message = decoder.decode(data)
        except ProtocolError as error:
            assert 0 < len(str(error)) < 1000
        else:
            assert decoder.decode(encode(message)) == message or has_nan(message)


def has_nan(message: object) -> bool:
    return "nan" in repr(message)
