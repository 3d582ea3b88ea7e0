"""The commands of membership and of nodes: tokens, who is in, who is out, who is kept from work."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cli_double import out, run
from master_double import MasterDouble, small_sweep
from member_keys import ALL, members

from meshtrain.core import events as ev
from meshtrain.core.job import Failure, FailureClass
from meshtrain.core.member import MemberKind
from meshtrain.wire import messages as msg

BAD_GPU = Failure(FailureClass.BAD_GPU, "Xid 79", "node-1")


@pytest.fixture
def master() -> MasterDouble:
    master = MasterDouble(members=members(*ALL[:3], revoked=(ALL[3],)).members)
    master.add_node("node-1", gpus=1)
    return master


def last(master: MasterDouble, kind: type) -> msg.FromPerson:
    return next(request for request in reversed(master.requests) if isinstance(request, kind))


def test_a_token_comes_with_the_command_that_uses_it(master: MasterDouble) -> None:
    assert out(master, "token") == "meshtrain worker --join mt1.for-a-node\n"
    asked = last(master, msg.IssueToken)
    assert (asked.ttl_s, asked.uses_max) == (3600.0, 1)  # type: ignore[union-attr]
    assert "good for 1 host within 1 h" in run(master, "token").stderr
    assert out(master, "token", "--person") == "meshtrain join mt1.for-a-person\n"
    told = json.loads(out(master, "token", "--json", "--uses", "8", "--for", "1d"))
    assert told == {"token": "mt1.for-a-node", "kind": "node", "valid_s": 86400.0, "uses": 8}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["token", "--for", "soon"], "--for soon"),
        (["token", "--uses", "0"], "--uses"),
        (["token", "--uses", "10001"], "--uses"),
        (["drain", "node-1", "--within", "later"], "--within later"),
        (["drain", "node-2"], "no node is called"),
        (["nodes", "show", "node-2"], "no node is called"),
        (["nodes", "release", "node-1"], "no GPU of node-1 is out of use"),
        (["join", "mt1.nonsense"], "mistyped"),
        (["join", "nonsense"], "no join token"),
    ],
)
def test_P11_what_is_wrong_is_said_and_nothing_is_done(
    master: MasterDouble, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    result = run(master, "--home", str(tmp_path / "home"), *arguments)
    assert result.exit_code == 2, result.output
    assert expected in result.output
    assert not (tmp_path / "home").exists()


def test_who_belongs_to_the_mesh_and_who_did(master: MasterDouble) -> None:
    lines = [line.split() for line in out(master, "nodes", "members").splitlines()]
    assert [line[:3] for line in lines[1:]] == [
        ["master", "master", "member"],
        ["node", "gpu1", "member"],
        ["node", "gpu2", "member"],
        ["person", "ada", "revoked"],
    ]
    rows = json.loads(out(master, "nodes", "members", "--json"))
    assert rows[0]["sign_key"].startswith(lines[1][3])
    assert "has no members" in out(MasterDouble(), "nodes", "members")


def test_a_membership_is_ended_once(master: MasterDouble) -> None:
    assert out(master, "nodes", "revoke", "gpu1") == "gpu1 is no member any more\n"
    assert last(master, msg.Revoke).kind is MemberKind.NODE  # type: ignore[union-attr]
    told = out(master, "nodes", "revoke", "--person", "ada")
    assert told == "ada was revoked before\n"
    told = out(master, "nodes", "revoke", "gpu2", "--json")
    assert json.loads(told) == {"kind": "node", "name": "gpu2", "was_member": True}


def test_a_gpu_that_failed_is_shown_and_released(master: MasterDouble) -> None:
    master.submit(small_sweep(shares=(0.1,), folds=1))
    for _ in range(3):
        ((_, given),) = master.assigned
        master.assigned.clear()
        master.tell(ev.AttemptEnded("node-1", given.attempt_id, given.epoch, failure=BAD_GPU))
        master.wait(10)
    assert "out of use" in out(master, "nodes", "show", "node-1")
    assert out(master, "nodes", "release", "node-1") == "all GPUs of node-1 are in use again\n"
    assert "out of use" not in out(master, "nodes")


def test_a_drain_says_what_becomes_of_what_runs(master: MasterDouble) -> None:
    assert "nothing runs on it" in out(master, "drain", "node-1")
    assert out(master, "drain", "node-1", "--undo") == "node-1 takes jobs again\n"
    master.submit(small_sweep())
    told = out(master, "drain", "node-1", "--within", "10m")
    assert told == (
        "node-1 is drained: it takes no new jobs; 1 job still on it, moved elsewhere in 10 min\n"
    )
    assert last(master, msg.Drain).within_s == 600.0  # type: ignore[union-attr]
    assert "moved now" in out(master, "drain", "node-1", "--within", "0s")
    assert "1 job still on it\n" in out(master, "drain", "node-1")
    assert last(master, msg.Drain).within_s is None  # type: ignore[union-attr]
    assert "drained" in out(master, "nodes")


@pytest.mark.parametrize(
    "command",
    ["token", "join", "nodes members", "nodes revoke", "nodes release", "nodes show", "drain"],
)
def test_each_help_has_an_example_that_is_understood(
    master: MasterDouble, tmp_path: Path, command: str
) -> None:
    told = out(master, *command.split(), "--help")
    examples = re.findall(r"^ *(meshtrain .*)$", told.partition("Example")[2], re.MULTILINE)
    assert examples, told
    for example in examples:
        words = example.split()[1:]
        if words[0] == "join":
            words = [word.replace("...", "") for word in words]
        result = run(master, "--home", str(tmp_path / "home"), *words)
        # Whatever the master says of the names, the command itself was well formed.
        assert "No such option" not in result.output, result.output
        assert "Missing argument" not in result.output, result.output
        assert result.exit_code == 0 or words[-1] not in ("token", "members"), result.output
