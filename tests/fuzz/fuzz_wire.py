"""Fuzz targets of the wire: every decoder, and what master and node make of what is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from fuzz_base import Target
from master_double import MasterDouble, small_sweep

from meshtrain.core import agent_io as io
from meshtrain.core import events as ev
from meshtrain.core.agent import Agent
from meshtrain.core.member import Members
from meshtrain.errors import MeshtrainError
from meshtrain.wire import messages as msg
from meshtrain.wire.codec import BadMessageError, Decoder, encode
from meshtrain_daemon.master.queries import answer
from meshtrain_daemon.master.translate import event_of

GOLDEN = Path(__file__).parents[1] / "unit" / "golden"
SIZE_MAX = 1 << 20
UNIONS: tuple[Any, ...] = (
    msg.Message,
    msg.ToMaster,
    msg.ToNode,
    msg.ToPerson,
    msg.BulkToMaster,
    msg.BulkToNode,
    msg.Feed,
)
DECODERS: tuple[Decoder[Any], ...] = tuple(Decoder(union, SIZE_MAX) for union in UNIONS)
_to_master: Decoder[Any] = Decoder(msg.ToMaster, SIZE_MAX)
_to_node: Decoder[Any] = Decoder(msg.ToNode, SIZE_MAX)
_members = msgspec.msgpack.Decoder(Members)


def golden_messages() -> list[bytes]:
    found = []
    for path in sorted(GOLDEN.glob("v*/*.hex")):
        lines = path.read_text().splitlines()
        found.append(bytes.fromhex("".join(line for line in lines if not line.startswith("#"))))
    return found


def decode(data: bytes) -> None:
    """The first byte chooses the decoder; what it takes must survive the way back."""
    if not data:
        return
    decoder = DECODERS[data[0] % len(DECODERS)]
    try:
        message = decoder.decode(data[1:])
    except BadMessageError as error:
        assert str(error) and error.kind
        return
    again = decoder.decode(encode(message))
    assert encode(again) == encode(message)


def decode_seeds() -> Sequence[bytes]:
    return [bytes([n]) + data for data in golden_messages() for n in range(2)]


# --- what follows from them ------------------------------------------------------------------


def frames_of(data: bytes) -> list[bytes]:
    """Messages parted by their lengths, two bytes each."""
    frames = []
    while len(data) >= 2 and len(frames) < 12:
        size = int.from_bytes(data[:2])
        frames.append(data[2 : 2 + size])
        data = data[2 + size :]
    return frames


def joined(frames: Sequence[bytes]) -> bytes:
    return b"".join(len(frame).to_bytes(2) + frame for frame in frames)


def master_hears(data: bytes) -> None:
    """A node and a person say anything: nothing of it may end the master."""
    master = MasterDouble()
    master.add_node("node-1")
    master.submit(small_sweep(shares=(0.5,), folds=1))
    attempt = master.assigned[0][1] if master.assigned else None
    for number, frame in enumerate(frames_of(data)):
        if attempt is not None:
            frame = frame.replace(b"job-1.1099511627777", attempt.attempt_id.encode())
        try:
            message = _to_master.decode(frame)
        except BadMessageError:
            continue
        if isinstance(message, msg.FromNode):
            message = _of_session(message, attempt)
            if isinstance(message, msg.Hello) and number % 2:
                spec = msgspec.structs.replace(message.spec, node_id="node-1")
                message = msgspec.structs.replace(message, spec=spec)
            master.tell(event_of("node-1", message))
        elif isinstance(message, msg.Query):
            encode(answer(master.state, message, master))
        elif isinstance(
            message, msg.Cancel | msg.Retry | msg.Reprioritise | msg.Drain | msg.Rebuild
        ):
            try:
                encode(master.request(message))
            except MeshtrainError as error:
                assert str(error)
    master.tell(ev.Tick(wall_s=1.0))


def _of_session(message: Any, attempt: Any) -> Any:
    changed: dict[str, Any] = {}
    if getattr(message, "session", None) is not None and message.session != "other":
        changed["session"] = "node-1/1"
    if attempt is not None and getattr(message, "epoch", None) == 1099511627777:
        changed["epoch"] = attempt.epoch
    return msgspec.structs.replace(message, **changed) if changed else message


def master_seeds() -> Sequence[bytes]:
    messages = golden_messages()
    return [joined([data]) for data in messages] + [
        joined(messages[n : n + 5]) for n in range(0, len(messages), 5)
    ]


def node_hears(data: bytes) -> None:
    """A master says anything: nothing of it may end the node."""
    agent = Agent(slots=2, holds=(), life="life-1")
    session = next(e.session for e in agent.start(0.0) if isinstance(e, io.SendHello))
    agent.handle(io.Welcomed(session, session, 30.0, 0.0), 0.0)
    for number, frame in enumerate(frames_of(data)):
        try:
            message = _to_node.decode(frame)
        except BadMessageError:
            continue
        now_s = float(number)
        match message:
            case msg.Numbered():
                agent.handle(io.CommandCame(session, number + 1, message.command), now_s)
            case msg.BeatAnswer():
                agent.handle(io.BeatAnswered(session, message.beat, message.now_s), now_s)
            case msg.Welcome():
                agent.handle(io.Welcomed(session, session, message.lease_s, message.now_s), now_s)
            case msg.SayHello():
                hellos = agent.handle(io.HelloAsked(), now_s)
                for hello in hellos:
                    session = hello.session if isinstance(hello, io.SendHello) else session
                agent.handle(io.Welcomed(session, session, 30.0, now_s), now_s)
            case _:
                pass
        agent.handle(io.BeatDue(), now_s)


def node_seeds() -> Sequence[bytes]:
    return master_seeds()


WORDS = tuple(
    {tag.encode() for tag in (kind.__struct_config__.tag for kind in msg.Message.__args__)}
    | {b"\xc0", b"\xc3", b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", b"\xcf" + b"\xff" * 8}
)

TARGETS = (
    Target(
        "codec",
        decode,
        decode_seeds,
        ("meshtrain.wire.codec", "meshtrain.wire.messages"),
        share=0.25,
        words=WORDS,
    ),
    Target(
        "master",
        master_hears,
        master_seeds,
        (
            "meshtrain.core.scheduler",
            "meshtrain.core.reports",
            "meshtrain.core.requests",
            "meshtrain.core.roster",
            "meshtrain_daemon.master.translate",
            "meshtrain_daemon.master.queries",
        ),
        share=0.05,
        words=WORDS,
    ),
    Target(
        "node",
        node_hears,
        node_seeds,
        ("meshtrain.core.agent", "meshtrain.core.held"),
        share=0.08,
        words=WORDS,
    ),
)
