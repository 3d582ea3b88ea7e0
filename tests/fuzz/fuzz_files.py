"""Fuzz targets of what lies in files: job files, settings, manifests, records, keys and tokens."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
from fuzz_base import Target
from fuzz_scratch import scratch

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core.commands import AssignAttempt
from meshtrain.core.manifest import ChunkNumbers, artifact_id, canonical_bytes, parse_manifest
from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.errors import ArtifactError, SettingsError, UserError
from meshtrain.results.metrics import read_metrics
from meshtrain.security.keys import Identity
from meshtrain.security.membership import MembersFile
from meshtrain.security.tokens import JoinToken, TokenError, TokensFile
from meshtrain.spec.expand import CodeDigests, Digests, expand, needed
from meshtrain.spec.jobfile import JobFileError, parse_job_file
from meshtrain.spec.jobs import CommandWork, InputData
from meshtrain.spec.lineage import Parent, ResolvedParent
from meshtrain.spec.settings import MasterSettings, WorkerSettings
from meshtrain.spec.settings_loading import load_settings
from meshtrain_daemon.master.holes import Hole, holes_path, read_holes
from meshtrain_daemon.worker.assignment_record import ASSIGNMENT_FILE, read_assignment
from meshtrain_daemon.worker.attempt_folder import AttemptFolder
from meshtrain_daemon.worker.frames import EXIT_FILE, MESSAGE_BYTES_MAX, STARTED_FILE, take_messages
from meshtrain_daemon.worker.launch import EndCause, Exited, Started, read_outcome, read_started
from meshtrain_daemon.worker.spool import LogSpool
from meshtrain_daemon.worker.stored_record import STORED_FILE, stored_before
from meshtrain_daemon.worker.verdict import failure_of

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "configs" / "examples"
CELLS_MAX = 100
PARENT = ResolvedParent(Parent("4" * 32, "5" * 32), "cnn", True, "cnn", ("w01", "w02"))
SUFFIXES = (".yaml", ".json", ".toml")


def chosen(data: bytes, count: int) -> tuple[int, bytes]:
    """The first byte chooses one of several; the rest is the input."""
    return (data[0] % count, data[1:]) if data else (0, b"")


# --- job files -------------------------------------------------------------------------------


def job_file(data: bytes) -> None:
    number, text = chosen(data, len(SUFFIXES))
    name = f"x{SUFFIXES[number]}"
    try:
        parsed = parse_job_file(text, name, cells_max=CELLS_MAX)
    except JobFileError as error:
        assert error.problems and str(error).startswith(f"{name} was not accepted")
        for problem in error.problems:
            assert problem.text and "\n" not in problem.text
        return
    wanted = needed(parsed)
    digests = Digests(
        code={folder: CodeDigests("0" * 32, {"train.py": "1" * 32}) for folder in wanted.code},
        data=dict.fromkeys(wanted.participants, "2" * 32),
        parents=dict.fromkeys([wanted.parent] if wanted.parent else [], PARENT),
        inputs={name: InputData(name, "3" * 32) for name in wanted.inputs},
    )
    try:
        sweep = expand(parsed, digests)
    except UserError as error:
        assert str(error)
        return
    assert len({job.job_id for job in sweep.jobs}) == len(sweep.jobs)
    msgspec.msgpack.encode(sweep)


def job_file_seeds() -> Sequence[bytes]:
    seeds = []
    for path in [*EXAMPLES.glob("*.*"), *EXAMPLES.glob("*/*.yaml")]:
        data = path.read_bytes()
        kind = SUFFIXES.index(path.suffix) if path.suffix in SUFFIXES else 0
        seeds.append(bytes([kind]) + data)
    small = {
        "name": "x",
        "base": {"participants": ["p01"], "model": "cnn", "lr": 1e-3},
        "target": {"mode": "full_fine_tuning", "participant": "p07"},
        "matrix": {"fold": [0, 1], "target_batch_pct": [0.1, 0.9]},
        "results": {"metric": "accuracy", "over": "fold"},
    }
    seeds.append(b"\1" + json.dumps(small).encode())
    seeds.append(b"\2name = 'x'\ncommand = 'echo {a}'\nmatrix = {a = [1, 2.5, true, 'b']}\n")
    seeds.append(b"\0name: x\ncommand: >-\n  echo {a}\n  {output}\nmatrix: {a: [1e-3, 0o17, ~]}\n")
    seeds.append(b"\0- {mode: base_only, participants: [p01], model: cnn, fold: 0}\n")
    return seeds


JOB_WORDS = tuple(
    word.encode()
    for word in (
        *("name", "base", "target", "matrix", "command", "code", "results", "resources", "retries"),
        *("params", "participants", "model", "batch_size", "lr", "augmentation", "mode", "prefix"),
        *("participant", "checkpoint_every", "timeout", "env", "user", "include", "exclude"),
        *(
            "{output}",
            "{base}",
            "{code}",
            "{{",
            "&a",
            "*a",
            "!!str",
            "|-",
            ">+",
            "? ",
            "---",
            "%YAML",
        ),
        *('"""', "'''", "[[", "1e400", "-.inf", ".nan", "0x", "\\ud800", "1979-05-27T07:32:00Z"),
    )
)


# --- settings ----------------------------------------------------------------------------------


def settings_file(data: bytes) -> None:
    number, text = chosen(data, 2)
    path = scratch("settings.toml", text)
    try:
        if number:
            load_settings(WorkerSettings, path)
        else:
            load_settings(MasterSettings, path)
    except SettingsError as error:
        assert str(path) in str(error) or "settings" in str(error)


def settings_seeds() -> Sequence[bytes]:
    seeds = []
    for number, name in enumerate(("master.toml", "worker.toml")):
        text = (ROOT / "configs" / name).read_text()
        bare = "\n".join(
            line.removeprefix("# ") if " = " in line else line for line in text.splitlines()
        )
        seeds += [bytes([number]) + text.encode(), bytes([number]) + bare.encode()]
        fields = MasterSettings.model_fields if number == 0 else WorkerSettings.model_fields
        seeds += [bytes([number]) + f"{field} = 1\n".encode() for field in fields]
    return seeds


# --- manifests -----------------------------------------------------------------------------------


def manifest(data: bytes) -> None:
    try:
        parsed = parse_manifest(data)
    except ArtifactError as error:
        assert str(error)
        return
    assert canonical_bytes(parsed) == data
    assert len(artifact_id(parsed)) == 32
    assert ChunkNumbers(parsed).count >= 0


def manifest_seeds() -> Sequence[bytes]:
    folder = scratch("tree/a", b"one").parent
    scratch("tree/b/c.bin", bytes(3000))
    scratch("tree/b/d", b"")
    store = ArtifactStore(folder.parent / "manifest_store")
    made = store.add_tree(folder)
    return [canonical_bytes(made), b"", b"{}", b"[]"]


# --- what a node and its shims leave on disk -----------------------------------------------------


def record(data: bytes) -> None:
    """Whatever lies in an attempt's folder: it counts as what it says, or as nothing."""
    number, content = chosen(data, 9)
    folder = scratch("attempt/j.1/log", b"a line\n").parent
    match number:
        case 0:
            scratch(f"attempt/j.1/{STARTED_FILE}", content)
            read_started(folder, "j.1")
        case 1:
            scratch(f"attempt/j.1/{EXIT_FILE}", content)
            read_outcome(folder, "j.1")
        case 2:
            header = struct.pack("<cII", b"h", zlib.crc32(content), len(content))
            scratch(f"attempt/j.1/{ASSIGNMENT_FILE}", header + content)
            read_assignment(str(folder))
        case 3:
            scratch(f"attempt/j.1/{ASSIGNMENT_FILE}", content)
            read_assignment(str(folder))
        case 4:
            scratch(f"attempt/j.1/{STORED_FILE}", content)
            stored_before(str(folder), "j.1", ArtifactStore(folder.parent / "artifacts"))
        case 5:
            scratch("attempt/j.1/log.spool", content)
            spool = LogSpool(str(folder / "log"), "n1")
            offset = 0
            for _ in range(3 * len(spool.lost) + 1):
                offset += spool.piece(offset).size_bytes
            assert offset >= 1 << 42
            assert spool.kept_bytes(0, offset) >= 0
        case 6:
            log = scratch("attempt/j.1/stored.log", b"x" * 100)
            holes_path(log).write_bytes(content)
            after = 0
            for hole in read_holes(log, 100):
                assert isinstance(hole, Hole) and after <= hole.begin < hole.end <= 100
                after = hole.end
        case 7:
            scratch("attempt/j.1/failure.json", content)
            scratch("attempt/j.1/log", content)
            work = CommandWork("true")
            assignment = AssignAttempt("j.1", "j", "s/i=1", 1, work, (), None, None, None, None)
            attempt = AttemptFolder(folder.parent, assignment)
            told = failure_of(attempt, Exited("j.1", EndCause.FINISHED, code=1), "n1")
            assert told is not None and told.message.isprintable()
        case _:
            messages, rest = _taken(content)
            assert sum(map(len, messages)) + 4 * len(messages) + len(rest) <= len(content)


def _taken(content: bytes) -> tuple[list[bytes], bytes]:
    try:
        return take_messages(content)
    except ValueError as error:
        assert str(MESSAGE_BYTES_MAX) in str(error)
        return [], b""


def record_seeds() -> Sequence[bytes]:
    work = CommandWork("echo {output}", env={"A": "b"})
    assignment = AssignAttempt("j.1", "j", "s/i=1", 1, work, (0,), 5.0, None, None, None)
    return [
        b"\0" + msgspec.json.encode(Started("j.1", 12, 11, 5, "boot", 1.5)),
        b"\1" + b'{"type":"exited","attempt_id":"j.1","cause":"finished","code":0}\n',
        b"\1" + b'{"type":"launch_failed","attempt_id":"j.1","reason":"no such file"}\n',
        b"\2" + msgspec.msgpack.encode(assignment),
        b"\3" + b"h" + bytes(8),
        b"\4" + b'{"attempt_id": "j.1", "artifact_id": "' + b"a" * 32 + b'", "size_bytes": 1}',
        b"\5" + b'{"given_back": 4, "lost": [{"begin": 4, "end": 9, "by_master": true}]}',
        b"\6" + struct.pack("<QQQQ", 3, 4, 7, 10),
        b"\7" + b'{"class": "out of memory", "message": "CUDA out of memory\\u001b"}',
        b"\7" + b'{"class": "user error", "message": "\xff"}',
        b"\7" + b'{"x": ' + b"[" * 3000,
        b"\1" + b'{"type":"launch_failed","attempt_id":"j.1","reason":"\xff"}\n',
        b"\1" + b'{"x": ' + b"[" * 3000,
        b"\x08" + struct.pack("<I", 3) + b"abc" + struct.pack("<I", 1) + b"d",
    ]


def metrics_file(data: bytes) -> None:
    """A result's metrics: values or a reason, never an exception."""
    number, content = chosen(data, 4)
    name = ("metrics.json", "results.csv", "results.tsv", "results.jsonl")[number]
    path = scratch(f"result{number}/{name}", content)
    found = read_metrics(path.parent, name)
    assert found.reason or all(value == value for value in found.values.values())
    found.find("accuracy")


def metrics_seeds() -> Sequence[bytes]:
    return [
        b'\0{"accuracy": 0.5, "test": {"loss": [1, 2], "f1": null}}',
        b"\0{}",
        b"\1name,value\naccuracy,0.5\n",
        b"\1accuracy,loss\n0.5,1e400\n",
        b"\2accuracy\tloss\n0.5\tnan\n",
        b'\3{"step": 1}\n{"step": 2}\n',
    ]


# --- members and tokens --------------------------------------------------------------------------

_MEMBER = Member("gpu1", MemberKind.NODE, "a" * 40, "b" * 64, "c" * 64)
_WORD = JoinToken("127.0.0.1", 7473, 7470, "ab" * 32, "a" * 40, b"s" * 16).word().encode()


def member_file(data: bytes) -> None:
    number, content = chosen(data, 4)
    match number:
        case 0:
            try:
                token = JoinToken.parse(content.decode("utf-8", "surrogateescape"))
            except TokenError as error:
                assert str(error)
                return
            assert JoinToken.parse(token.word()) == token
        case 1:
            path = scratch("members/members.json", content, private=True)
            try:
                assert MembersFile(path).version >= 0
            except SettingsError as error:
                assert str(path) in str(error)
        case 2:
            path = scratch("tokens/tokens.json", content, private=True)
            try:
                TokensFile(path)
            except SettingsError as error:
                assert str(path) in str(error)
        case _:
            folder = scratch("identity/member.json", content, private=True).parent
            try:
                Identity.load(folder)
            except SettingsError as error:
                assert str(folder) in str(error)


def member_seeds() -> Sequence[bytes]:
    members = msgspec.json.encode(Members(3, (_MEMBER,)))
    return [
        b"\0" + _WORD,
        b"\0mt2.abc",
        b"\1" + members,
        b"\2{}",
        b'\2{"tokens": []}',
        b"\3" + msgspec.json.encode(_MEMBER),
    ]


TARGETS = (
    Target(
        "jobfile",
        job_file,
        job_file_seeds,
        (
            "meshtrain.spec.jobfile",
            "meshtrain.spec.reader",
            "meshtrain.spec.read_yaml",
            "meshtrain.spec.read_json",
            "meshtrain.spec.read_toml",
            "meshtrain.spec.validate",
            "meshtrain.spec.forms",
            "meshtrain.spec.matrix",
            "meshtrain.spec.expand",
            "meshtrain.spec.recipe",
        ),
        share=0.12,
        size_max=2048,
        words=JOB_WORDS,
    ),
    Target("settings", settings_file, settings_seeds, ("meshtrain.spec.settings",), share=0.05),
    Target("manifest", manifest, manifest_seeds, ("meshtrain.core.manifest",), share=0.2),
    Target(
        "records",
        record,
        record_seeds,
        (
            "meshtrain_daemon.worker.launch",
            "meshtrain_daemon.worker.assignment_record",
            "meshtrain_daemon.worker.stored_record",
            "meshtrain_daemon.worker.spool",
            "meshtrain_daemon.worker.verdict",
            "meshtrain_daemon.master.holes",
        ),
        share=0.08,
    ),
    Target("metrics", metrics_file, metrics_seeds, ("meshtrain.results.metrics",), share=0.04),
    Target(
        "members",
        member_file,
        member_seeds,
        (
            "meshtrain.security.tokens",
            "meshtrain.security.membership",
            "meshtrain.security.member_check",
        ),
        share=0.05,
    ),
)
