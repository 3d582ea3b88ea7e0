"""The bytes of each message, byte for byte, and what is refused."""

from __future__ import annotations

import math
import os
import textwrap
from pathlib import Path
from typing import Any, get_args

import msgpack
import msgspec
import pytest

from meshtrain.core.changes import (
    BaseRow,
    Change,
    JobRow,
    Lists,
    Moved,
    NodeRow,
    Note,
    SweepProgress,
    SweepRow,
    TransferRow,
)
from meshtrain.core.commands import (
    AddSources,
    ArtifactNeed,
    ArtifactSource,
    AssignAttempt,
    CheckpointSafe,
    Command,
    DropArtifact,
    EndAttempt,
    EvictArtifact,
    ForgetAttempt,
    PreemptAttempt,
    PrefetchArtifact,
)
from meshtrain.core.events import LiveAttempt
from meshtrain.core.inventory import CacheUse, Holding, InventoryChange, RoomWanted
from meshtrain.core.job import BaseState, Failure, FailureClass, JobKind, JobState
from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.core.needs_change import NeedsChange
from meshtrain.core.node import Gpu, GpuUse, HostUse, NodeSpec
from meshtrain.core.pages import Page, PageQuery
from meshtrain.errors import ProtocolError
from meshtrain.spec.jobs import CodeDigests, CommandWork, InputData, TrainingWork
from meshtrain.wire import messages as wire
from meshtrain.wire.codec import DEPTH_MAX, BadMessageError, BadMessageKind, Decoder, encode

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_NOW = GOLDEN / f"v{wire.PROTOCOL_VERSION}"
WRITE_VARIABLE = "MESHTRAIN_WRITE_GOLDEN"
REGENERATE = (
    "The bytes of a message changed, so nodes of the last version no longer understand it. "
    "If that is meant: raise PROTOCOL_VERSION in meshtrain/wire/messages.py, then run "
    f"`{WRITE_VARIABLE}=1 pytest tests/unit/test_codec.py`, which writes the files that are "
    "missing for the new version and never changes one that is there."
)

SOURCES = (ArtifactSource("gpu1", "http://127.0.0.1:8001"),)
NEED = ArtifactNeed("aa" * 16, SOURCES)
LIVE = (LiveAttempt("job-1.1099511627777", 1099511627777, True),)
CHANGES: tuple[Change, ...] = (
    JobRow("job-1", "s/fold=0", JobKind.EXPERIMENT, JobState.RUNNING, metrics={"accuracy": 0.5}),
    SweepRow("sweep-1", "s", 15, 1, 0, submitted_wall_s=1.5),
    BaseRow("ab" * 16, "cnn · p01", BaseState.COMMITTED, holders=("gpu1",), trained_s=8.25),
    NodeRow("gpu1", True, False, True, 4, 1, ("A100",), (0,), 1 << 36, 3),
    TransferRow("cd" * 16, "gpu2", {"gpu1": 1 << 20}, 0.5),
    Note(1.0, "base 7f3a…c21 is on 3 nodes"),
    Moved(1.0, 3, 2, 1),
    Lists(100_000),
)
USE = HostUse(0.25, 3 << 30, (GpuUse(0, 0.97, 21 << 30, 80 << 30, 71),))
BRIEF_CHANGES: tuple[Change, ...] = (
    SweepRow("sweep-1", "s", 15, 1, 0, progress=SweepProgress({"running": 2}, ran=1, ran_s=2.5)),
    BaseRow("ab" * 16, "cnn · p01", BaseState.NEEDED, started=3),
    NodeRow("gpu1", True, False, True, 4, 1, ("A100",), (0,), 1 << 36, 3, use=USE),
)
TRAINING = TrainingWork(
    {"recipe": {"lr": 0.001, "participants": ["p01"]}, "fold": 0, "device": None}
)
ASSIGN = AssignAttempt(
    "job-1.5", "job-1", "s/fold=0", 5, TRAINING, (0,), None, "ab" * 16, NEED, code=None
)
DATA = InputData("pascal5i@2", "ef" * 16, size_bytes=1 << 30, files_count=3)
SHARE = InputData("/mnt/coco", "01" * 16, on_share=True, size_bytes=1 << 34, files_count=9)
ASSIGN_COMMAND = msgspec.structs.replace(
    ASSIGN,
    work=CommandWork(
        "python a.py {inputs.data} {prepared} --out {output}",
        "cd" * 16,
        {"A": "1"},
        inputs={"data": DATA, "coco": SHARE},
        prepare="unpack {inputs.coco} {prepared}",
    ),
    timeout_s=60.0,
    inputs=(ArtifactNeed("ef" * 16, SOURCES),),
)

SAMPLES: dict[str, wire.Message] = {
    "hello": wire.Hello(
        protocol=1,
        spec=NodeSpec(
            "gpu1", "http://127.0.0.1:8001", 4, 1 << 36, (Gpu(0, "A100", 80 << 30),), {"rack": "2"}
        ),
        session="5f0c93a1/1",
        attempts=LIVE,
        holds=("aa" * 16,),
        grant=4,
        sizes_bytes=(1 << 30,),
        inventory=3,
        cache=CacheUse(1 << 30, 1 << 40, 1 << 35, 1 << 34),
    ),
    "beat": wire.Beat("5f0c93a1/1", 7, 12.5, 3, 4, LIVE, fetching=("aa" * 16,)),
    "beat.room": wire.Beat(
        "5f0c93a1/1",
        8,
        13.5,
        3,
        4,
        (),
        first=4,
        changes=(InventoryChange("aa" * 16, Holding.KEPT, 1 << 30, "few_shot/shots=5 needs it"),),
        cache=CacheUse(1 << 30, 1 << 29, 1 << 35, 0),
        room=RoomWanted(1 << 29, ("aa" * 16,)),
    ),
    "beat.use": wire.Beat("5f0c93a1/1", 9, 14.5, 3, 4, (), use=USE),
    "started": wire.Started("5f0c93a1/1", "job-1.5", 5),
    "ended": wire.Ended(
        "5f0c93a1/1", "job-1.5", 5, artifact_id="aa" * 16, metrics={"accuracy": 0.91}, run_s=2.5
    ),
    "ended.failed": wire.Ended(
        "5f0c93a1/1",
        "job-1.5",
        5,
        failure=Failure(FailureClass.OUT_OF_MEMORY, "CUDA out of memory", "gpu1", 1),
    ),
    "holds": wire.Holds(
        "5f0c93a1/1",
        4,
        (InventoryChange("aa" * 16, Holding.HELD, 1 << 20),),
        {"gpu2": 1 << 20},
        0.25,
        CacheUse(1 << 30),
        bytes_reused=1 << 19,
        banned=("gpu3",),
    ),
    "goodbye": wire.Goodbye("5f0c93a1/1"),
    "welcome": wire.Welcome("5f0c93a1/1", "5f0c93a1/1@1793", 1, 30.0, 3.0, 1234.5, 7471),
    "beat_answer": wire.BeatAnswer("5f0c93a1/1", 7, 1234.5, 4),
    "say_hello": wire.SayHello(),
    "command.assign": wire.Numbered("5f0c93a1/1", 1, ASSIGN),
    "command.assign.command": wire.Numbered("5f0c93a1/1", 1, ASSIGN_COMMAND),
    "command.end": wire.Numbered("5f0c93a1/1", 2, EndAttempt("job-1.5")),
    "command.forget": wire.Numbered("5f0c93a1/1", 3, ForgetAttempt("job-1.5")),
    "command.preempt": wire.Numbered("5f0c93a1/1", 5, PreemptAttempt("job-1.5", 30.0)),
    "command.drop": wire.Numbered("5f0c93a1/1", 6, DropArtifact("aa" * 16)),
    "command.safe": wire.Numbered("5f0c93a1/1", 9, CheckpointSafe("aa" * 16)),
    "command.evict": wire.Numbered("5f0c93a1/1", 7, EvictArtifact("aa" * 16)),
    "command.prefetch": wire.Numbered(
        "5f0c93a1/1", 8, PrefetchArtifact(ArtifactNeed("aa" * 16, SOURCES, 1 << 30))
    ),
    "members": wire.MembersChanged(
        Members(3, (Member("gpu1", MemberKind.NODE, "a" * 40, "b" * 64, "c" * 64, revoked=True),))
    ),
    "command.sources": wire.Numbered("5f0c93a1/1", 4, AddSources("aa" * 16, SOURCES)),
    "refused": wire.Refused("speaks protocol 2: upgrade the master"),
    "stream": wire.StreamBytes("job-1.5", "job-1", "log", 4096, b"step 1\n\xff\x00"),
    "hole": wire.StreamHole("job-1.5", "job-1", "log", 4105, 1 << 30),
    "stored": wire.StreamStored("job-1.5", "log", 4105),
    "submit": wire.Submit(
        "request-1",
        "s.yaml",
        b"name: s\n",
        {".": CodeDigests("aa" * 16, {"a.py": "bb" * 16})},
        inputs={"pascal5i": DATA},
    ),
    "publish_input": wire.PublishInput("request-12", "pascal5i", "ef" * 16),
    "cancel": wire.Cancel("request-2", ("s",)),
    "retry": wire.Retry("request-3", ("s/fold=0",)),
    "retry.change": wire.Retry(
        "request-3",
        ("s",),
        NeedsChange(gpus=1, gpu_memory_bytes=9_000_000_000, labels_dropped=("zone",)),
    ),
    "set_budget": wire.SetBudget("request-13", "s", 20.0, None, False),
    "reprioritise": wire.Reprioritise("request-4", ("s",), -5),
    "drain": wire.Drain("request-5", "gpu1", True),
    "drain.within": wire.Drain("request-5", "gpu1", True, 600.0),
    "release": wire.Release("request-9", "gpu1"),
    "issue_token": wire.IssueToken("request-10", MemberKind.NODE, 3600.0),
    "revoke": wire.Revoke("request-11", MemberKind.NODE, "gpu1"),
    "issue_reader": wire.IssueReader("request-19", "grafana", 86400.0),
    "revoke_reader": wire.RevokeReader("request-20", "grafana"),
    "pin": wire.Pin("request-7", "ab" * 16, "gpu1"),
    "evict_base": wire.Evict("request-8", "ab" * 16, "gpu1"),
    "warm": wire.Warm("request-9", "ab" * 16, 3),
    "rebuild": wire.Rebuild("request-6", "ab" * 16),
    "restore_base": wire.RestoreBase("request-9", "ab" * 16),
    "query": wire.Query("request-7", "jobs", ("s*",), 0, 100),
    "done": wire.Done("request-2", done=("job-1",), notes=("1 job was cancelled",)),
    "answer": wire.Answer("request-7", rows=[{"job": "job-1", "n": 1, "x": None}], total=1),
    "snapshot": wire.Snapshot("request-8", 1, 42, CHANGES),
    "feed": wire.Feed(1, 43, CHANGES),
    "brief": wire.Brief(1, 7, BRIEF_CHANGES),
    "ask_page": wire.AskPage(
        "request-13", PageQuery("jobs", "!fold=1", "metrics.accuracy", True, 100, 50, "sweep-1")
    ),
    "page": wire.PageGiven("request-13", page=Page((CHANGES[0], CHANGES[3]), 100, 2)),
}

ANY: Decoder[wire.Message] = Decoder(wire.Message, 1 << 20)


def plain(message: object) -> Any:
    return msgspec.to_builtins(message, builtin_types=(bytes,))


def packed(**fields: object) -> bytes:
    return bytes(msgpack.packb(fields))


def refusal(data: bytes, decoder: Decoder[Any] = ANY) -> BadMessageError:
    with pytest.raises(BadMessageError) as caught:
        decoder.decode(data)
    assert isinstance(caught.value, ProtocolError)
    return caught.value


def golden_bytes(path: Path) -> bytes:
    lines = path.read_text(encoding="utf-8").splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def golden_text(message: wire.Message) -> str:
    comment = textwrap.wrap(repr(message), 96, break_on_hyphens=False)
    data = textwrap.wrap(encode(message).hex(), 96)
    return "\n".join([*(f"# {line}" for line in comment), *data, ""])


def test_every_message_command_and_row_has_a_sample() -> None:
    tags = {name.partition(".")[0] for name in SAMPLES}
    assert tags == {kind.__struct_config__.tag for kind in get_args(wire.Message)}
    commands = {type(m.command) for m in SAMPLES.values() if isinstance(m, wire.Numbered)}
    assert commands == set(get_args(Command))
    assert {type(change) for change in CHANGES} == set(get_args(Change))


@pytest.mark.parametrize("name", SAMPLES)
def test_golden_bytes(name: str) -> None:
    path = GOLDEN_NOW / f"{name}.hex"
    message = SAMPLES[name]
    if os.environ.get(WRITE_VARIABLE) and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(golden_text(message), encoding="utf-8")
    assert path.exists(), f"{path.name} is missing. {REGENERATE}"
    data = golden_bytes(path)
    assert encode(message).hex() == data.hex(), REGENERATE
    assert ANY.decode(data) == message, REGENERATE


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN_NOW.iterdir()} == set(SAMPLES)


def test_hello_and_refused_of_every_version_are_understood() -> None:
    """A peer of another version must still be able to say so."""
    versions = [path for path in GOLDEN.iterdir() if path.name.startswith("v")]
    assert GOLDEN_NOW in versions
    for version in versions:
        hello = ANY.decode(golden_bytes(version / "hello.hex"))
        assert isinstance(hello, wire.Hello)
        assert f"v{hello.protocol}" == version.name
        assert isinstance(ANY.decode(golden_bytes(version / "refused.hex")), wire.Refused)


@pytest.mark.parametrize("name", SAMPLES)
def test_another_implementation_agrees(name: str) -> None:
    data = encode(SAMPLES[name])
    assert msgpack.unpackb(data) == plain_lists(plain(SAMPLES[name]))
    assert msgpack.packb(msgpack.unpackb(data)) == data


def plain_lists(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [plain_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: plain_lists(item) for key, item in value.items()}
    return value


# --- refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (b"", BadMessageKind.MALFORMED, "0 bytes"),
        (b"\xc1", BadMessageKind.MALFORMED, "1 bytes"),
        (b"\x05", BadMessageKind.WRONG_FIELD, "int"),
        (b"\xc0", BadMessageKind.WRONG_FIELD, "None"),
        (packed(session="s"), BadMessageKind.UNKNOWN_TYPE, "takes no message of that type"),
        (packed(type=5), BadMessageKind.UNKNOWN_TYPE, "takes no message of that type"),
        (packed(type="nope"), BadMessageKind.UNKNOWN_TYPE, "'nope'"),
        (packed(type="goodbye"), BadMessageKind.WRONG_FIELD, "'goodbye'"),
        (packed(type="goodbye"), BadMessageKind.WRONG_FIELD, "session"),
        (packed(type="goodbye", session=1), BadMessageKind.WRONG_FIELD, "field session"),
        (packed(type="goodbye", session="s") + b"\0", BadMessageKind.MALFORMED, "trailing"),
        (packed(type="goodbye", session="s")[:-1], BadMessageKind.MALFORMED, "truncated"),
        (b"\x82\xa4type\xa7goodbye\xa7session\xa1\xff", BadMessageKind.MALFORMED, "'goodbye'"),
        (b"\x82\xa4type\xa1\xff\xa7session\xa1s", BadMessageKind.MALFORMED, "bytes was refused"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, kind: BadMessageKind, said: str) -> None:
    error = refusal(data)
    assert error.kind is kind
    assert said in str(error)
    assert "same version" in str(error)


def test_the_path_of_a_nested_field_is_named() -> None:
    hello = msgpack.unpackb(encode(SAMPLES["hello"]))
    hello["spec"]["gpus"][0]["memory_bytes"] = "much"
    error = refusal(bytes(msgpack.packb(hello)))
    assert "message 'hello' was refused: field spec.gpus[0].memory_bytes" in str(error)
    assert error.kind is BadMessageKind.WRONG_FIELD


def test_numbers_and_flags_are_not_guessed_from_text() -> None:
    started = {"type": "started", "session": "s", "attempt_id": "a", "epoch": "5"}
    assert "field epoch" in str(refusal(packed(**started)))
    assert "field epoch" in str(refusal(packed(**{**started, "epoch": True})))
    assert "field epoch" in str(refusal(packed(**{**started, "epoch": 5.5})))


def test_messages_of_the_other_direction_are_refused() -> None:
    from_nodes: Decoder[wire.FromNode] = Decoder(wire.FromNode, 1 << 20)
    error = refusal(encode(SAMPLES["welcome"]), from_nodes)
    assert error.kind is BadMessageKind.UNKNOWN_TYPE
    assert "'welcome'" in str(error)


def test_a_field_of_a_later_version_is_passed_over() -> None:
    data = packed(type="goodbye", session="s", mood=[1, {"a": b"b"}])
    assert ANY.decode(data) == wire.Goodbye("s")


def test_oversize_is_refused_both_ways() -> None:
    small: Decoder[wire.Message] = Decoder(wire.Message, 20)
    data = encode(SAMPLES["hello"])
    error = refusal(data, small)
    assert error.kind is BadMessageKind.OVERSIZE
    assert str(len(data)) in str(error) and "20" in str(error)
    with pytest.raises(BadMessageError, match="'hello' can't be sent") as caught:
        encode(SAMPLES["hello"], 20)
    assert caught.value.kind is BadMessageKind.OVERSIZE


def test_errors_stay_short_whatever_came() -> None:
    assert len(str(refusal(packed(type="x" * 100_000)))) < 600
    assert len(str(refusal(packed(type="goodbye", **{"s" * 100_000: 1})))) < 600


ANSWER = b"\x83\xa4type\xa6answer\xaarequest_id\xa1r\xa4rows"
GOODBYE = b"\x83\xa4type\xa7goodbye\xa7session\xa1s\xa4more"


@pytest.mark.parametrize("head", [ANSWER, GOODBYE], ids=["read", "passed over"])
@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\x91\xdf\xff\xff\xff\xff",
        b"\x91\xdb\xff\xff\xff\xff",
        b"\x91\xc6\xff\xff\xff\xff",
        b"\xdc\xff\xff" * 2000,
        b"\xdd\x00\xff\xff\xff" * 900,
        b"\x91" * 200_000 + b"\xc0",
        b"\x91" + b"\x81\xa1a" * 200_000 + b"\xc0",
    ],
    ids=["list", "map", "text", "bytes", "lists", "long lists", "deep lists", "deep maps"],
)
def test_bombs_are_refused(head: bytes, bomb: bytes) -> None:
    assert refusal(head + bomb).kind in (BadMessageKind.MALFORMED, BadMessageKind.TOO_DEEP)


def nested(depth: int) -> list[Any]:
    rows: list[Any] = []
    for _ in range(depth):
        rows = [rows]
    return rows


def test_loose_data_nests_no_deeper_than_the_limit() -> None:
    deep_enough = wire.Answer("r", rows=nested(DEPTH_MAX - 1))
    assert ANY.decode(encode(deep_enough)) == deep_enough
    error = refusal(encode(wire.Answer("r", rows=nested(DEPTH_MAX + 1))))
    assert error.kind is BadMessageKind.TOO_DEEP
    in_command = msgspec.structs.replace(ASSIGN, work=TrainingWork({"a": nested(DEPTH_MAX + 1)}))
    error = refusal(encode(wire.Numbered("s", 1, in_command)))
    assert error.kind is BadMessageKind.TOO_DEEP


@pytest.mark.parametrize(
    "value",
    [
        msgpack.Timestamp(1, 5),
        msgpack.ExtType(5, b"x"),
        {1: "a"},
        {b"a": 1},
        {"a": [{("x",): 1}]},
    ],
    ids=["time", "extension", "number as key", "bytes as key", "list as key"],
)
def test_loose_data_must_be_plain(value: object) -> None:
    data = packed(type="answer", request_id="r", rows=[value])
    assert refusal(data).kind in (BadMessageKind.WRONG_FIELD, BadMessageKind.MALFORMED)


@pytest.mark.parametrize(
    "row",
    [1 << 64, object(), "\ud800", 1j],
    ids=["past 64 bits", "an object", "no Unicode", "complex"],
)
def test_what_has_no_bytes_is_refused_by_the_sender(row: object) -> None:
    with pytest.raises(BadMessageError, match="message 'answer' can't be sent"):
        encode(wire.Answer("r", rows=[row]))


def test_data_too_deep_to_send_is_refused_by_the_sender() -> None:
    with pytest.raises(BadMessageError) as caught:
        encode(wire.Answer("r", rows=nested(100_000)))
    assert caught.value.kind is BadMessageKind.TOO_DEEP


def test_messages_are_frozen() -> None:
    with pytest.raises(AttributeError):
        ANY.decode(encode(SAMPLES["beat"])).session = "other"  # type: ignore[union-attr, misc]


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("ended", "size_bytes", 1 << 63),
        ("ended", "size_bytes", -1),
        ("ended", "run_s", float("nan")),
        ("beat", "sent_s", float("nan")),
        ("beat", "sent_s", float("inf")),
        ("stream", "offset", -1),
        ("query", "offset", -1),
        ("reprioritise", "priority", 1 << 31),
        ("welcome", "bulk_port", 0),
        ("welcome", "bulk_port", 65536),
    ],
)
def test_numbers_that_no_store_or_clock_can_hold_are_refused(
    name: str, field: str, value: float
) -> None:
    fields = plain(SAMPLES[name])
    error = refusal(packed(**{**fields, field: value}))
    assert error.kind is BadMessageKind.WRONG_FIELD
    assert f"field {field}" in str(error)


def test_a_metric_may_be_no_number() -> None:
    """A training that diverges says so with NaN."""
    ended = msgspec.structs.replace(SAMPLES["ended"], metrics={"loss": float("nan")})
    decoded = ANY.decode(encode(ended))
    assert isinstance(decoded, wire.Ended)
    assert math.isnan(decoded.metrics["loss"])
