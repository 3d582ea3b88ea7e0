"""P10 with real processes: who is a member does all, and nobody else does anything."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_ports
from gate import Gate
from members import (
    command,
    fetch,
    join,
    line_of,
    person_at,
    standing_of,
    start_refused,
)
from mesh import Mesh, NewMesh

from meshtrain.artifacts.enrol import EnrolmentError
from meshtrain.artifacts.flight import Source
from meshtrain.clock import wall_now_s
from meshtrain.core.changes import TransferRow
from meshtrain.core.member import MemberKind
from meshtrain.errors import FetchError
from meshtrain.ids import new_id
from meshtrain.net.base import MasterAwayError, NotAdmittedError
from meshtrain.security.keys import Identity
from meshtrain.security.membership import MembersFile
from meshtrain.security.standing import Standing, keep_standing, load_standing
from meshtrain.security.tokens import TokenError
from meshtrain.wire import messages as msg

pytestmark = [pytest.mark.e2e]

NODES = ("n1", "n2")
BASE_BYTES = 3_000_000
WITH_BASE = """
name: %s
code: code
base: {command: "python make.py {output}/model %d"}
command: "cat {base}/model > /dev/null; %s"
matrix: {which: %s}
"""
MAKE = "import os, sys\nopen(sys.argv[1], 'wb').write(os.urandom(int(sys.argv[2])))\n"


@pytest.fixture(scope="module")
def mesh(new_module_mesh: NewMesh) -> Mesh:
    """Two nodes that joined with tokens."""
    mesh = new_module_mesh(secure=True)
    mesh.environment = {"MESHTRAIN_WARM_TRAINING": "false"}
    mesh.start(*NODES)
    return mesh


@pytest.fixture(scope="module")
def ann(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a person who joined with a token."""
    home = tmp_path_factory.mktemp("ann")
    told = command(home, "join", "--name", "ann", mesh.token(MemberKind.PERSON))
    assert "person ann joined the mesh" in told
    return home


def sweep_file(folder: Path, name: str, then: str, cells: str) -> Path:
    """A job file with code, a base that takes some chunks, and jobs that start from it."""
    code = folder / "code"
    code.mkdir(exist_ok=True)
    (code / "make.py").write_text(MAKE + f"# {name}\n")
    path = folder / f"{name}.yaml"
    path.write_text(WITH_BASE % (name, BASE_BYTES, then, cells))
    return path


def submit(home: Path, path: Path) -> str:
    told = command(home, "submit", "--json", str(path))
    return str(json.loads(told)["sweep_id"])


def url_of(mesh: Mesh, node: str) -> str:
    return str(mesh.rows("nodes", node)[0]["http_url"])


@pytest.fixture(scope="module")
def base(mesh: Mesh, ann: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A base that both nodes and the master hold, trained for a sweep of ann's."""
    folder = tmp_path_factory.mktemp("sweep")
    gate = Gate(folder)
    sweep = submit(ann, sweep_file(folder, "shared", gate.wait_command, "[a, b]"))
    mesh.wait_until(lambda: gate.starts == 2, "a job runs on each node")
    gate.open()
    rows = mesh.wait_jobs(sweep)
    assert {row["node_id"] for row in rows} == set(NODES)
    (base,) = mesh.bases_of(sweep)
    mesh.wait_until(
        lambda: set(mesh.base(base["recipe_hash"])["holders"]) == {*NODES, "master"},
        "all hold the base",
    )
    return dict(base)


def test_P10_a_base_travels_from_node_to_node_by_tls(mesh: Mesh, base: dict[str, Any]) -> None:
    maker = mesh.job(base["job_id"])["node_id"]
    (other,) = {*NODES} - {maker}
    with line_of(mesh, load_standing(mesh.home / "person", MemberKind.PERSON)) as line:
        _, _, changes = line.snapshot()
    came = [
        change.bytes_by_node
        for change in changes
        if isinstance(change, TransferRow)
        and (change.artifact_id, change.to_node) == (base["artifact_id"], other)
    ]
    assert came == [{maker: BASE_BYTES}]
    assert all(url_of(mesh, node).startswith("https://127.0.0.1:") for node in NODES)


def test_P10_a_revoked_node_is_out_at_once_everywhere(
    mesh: Mesh, base: dict[str, Any], ann: Path, tmp_path: Path
) -> None:
    mesh.start_worker("r1")
    mesh.wait_connected("r1")
    gate = Gate(tmp_path)
    sweep = submit(ann, sweep_file(tmp_path, "revoking", gate.wait_command, "[a, b, c]"))
    mesh.wait_until(lambda: gate.starts == 3, "a job runs on each of three nodes")
    (job,) = [row for row in mesh.jobs(sweep) if row["node_id"] == "r1"]
    (own_base,) = mesh.bases_of(sweep)
    gone, url = standing_of(mesh, "r1"), url_of(mesh, "r1")
    stays = standing_of(mesh, "n1")
    at_r1 = Source("r1", url)
    assert fetch(tmp_path / "1", own_base["artifact_id"], at_r1, stays).chunks

    mesh.revoke("r1")

    (lost, *_) = mesh.attempts(job["job_id"])
    assert lost["state"] == "lost"
    assert "r1 is no member any more" in mesh.job(job["job_id"])["last_failure"]["message"]
    version = MembersFile(mesh.home / "members.json").version
    mesh.wait_until(
        lambda: all(standing_of(mesh, n).members.version >= version for n in NODES),
        "the nodes have heard",
    )
    for number, source in enumerate(
        [
            Source("n1", url_of(mesh, "n1")),
            Source("master", f"https://127.0.0.1:{mesh.ports['http']}"),
        ]
    ):
        with pytest.raises(FetchError, match="401"):
            fetch(tmp_path / f"2{number}", base["artifact_id"], source, gone)
    with pytest.raises(FetchError, match="not on the list of members"):
        fetch(tmp_path / "3", own_base["artifact_id"], at_r1, standing_of(mesh, "n1"))
    daemon = mesh.daemons["r1"]
    mesh.wait_until(lambda: daemon.said("refuses these keys"), "r1 is told why")
    assert not mesh.rows("nodes", "r1")[0]["connected"]
    gate.open()
    rows = mesh.wait_jobs(sweep)
    assert {row["node_id"] for row in rows} == set(NODES)
    with pytest.raises(EnrolmentError, match="were revoked"):
        join(mesh.folder / "r1", mesh.token(), "r1", MemberKind.NODE)
    mesh.kill("r1")
    # With new keys the name is free: it comes back as what it was.
    (mesh.folder / "r1" / "keys").rename(mesh.folder / "r1" / "keys.old")
    (mesh.folder / "r1" / "mesh.json").unlink()
    mesh.start_worker("r1")
    mesh.wait_connected("r1")
    mesh.revoke("r1")
    mesh.kill("r1")


def test_P10_a_revoked_person_commands_nothing_and_its_tokens_end(
    mesh: Mesh, base: dict[str, Any], ann: Path, tmp_path: Path
) -> None:
    home = tmp_path / "bob"
    bob = person_at(home, mesh.token(MemberKind.PERSON), "bob")
    assert "n1" in command(home, "nodes")
    with line_of(mesh, bob) as line:
        answer = line.request(msg.IssueToken(new_id("r"), MemberKind.PERSON, 3600.0, 5))
        assert isinstance(answer, msg.Done)
        (bobs_token,) = answer.done
        told = command(ann, "nodes", "revoke", "--person", "bob")
        assert "bob is no member any more" in told
        with pytest.raises((MasterAwayError, Exception), match=r"no member|refuses these keys"):
            line.request(msg.Query(new_id("r"), "jobs"))
    assert "refuses these keys" in command(home, "nodes")
    path = sweep_file(tmp_path, "of_bob", "true", "[a]")
    assert "refuses these keys" in command(home, "submit", str(path))
    at_n1 = Source("n1", url_of(mesh, "n1"))
    mesh.wait_until(
        lambda: "401" in _why_not(tmp_path / "f", base["artifact_id"], at_n1, bob), "n1 has heard"
    )
    with pytest.raises(EnrolmentError, match="used up"):
        join(tmp_path / "mallory", bobs_token, "mallory")
    members = {(m["name"], m["revoked"]) for m in mesh.rows("members")}
    assert {("bob", True), ("ann", False), ("n1", False)} <= members


def _why_not(folder: Path, artifact_id: str, source: Source, standing: Standing) -> str:
    try:
        fetch(folder, artifact_id, source, standing)
    except FetchError as error:
        return str(error)
    return ""


def test_P10_without_keys_or_with_those_of_another_mesh_nothing_is_open(
    mesh: Mesh, base: dict[str, Any], tmp_path: Path
) -> None:
    with line_of(mesh, None, 1.5) as line, pytest.raises(NotAdmittedError, match="only to members"):
        line.request(msg.Query(new_id("r"), "jobs"))
    stranger = of_another_mesh(mesh, tmp_path / "other")
    with line_of(mesh, stranger) as line, pytest.raises(NotAdmittedError, match="refuses these"):
        line.request(msg.Query(new_id("r"), "jobs"))
    for node in NODES:
        source = Source(node, url_of(mesh, node))
        with pytest.raises(FetchError, match="401"):
            fetch(tmp_path / node, base["artifact_id"], source, stranger)
        with pytest.raises(FetchError):
            fetch(tmp_path / f"{node}-plain", base["artifact_id"], source, None)
    # Its own token, and one of ours for its master, open nothing either.
    with pytest.raises(TokenError, match="mistyped"):
        join(tmp_path / "a", mesh.token(MemberKind.PERSON)[:-3] + "xyz", "a")
    with pytest.raises(EnrolmentError, match="lets a node join"):
        join(tmp_path / "b", mesh.token(MemberKind.NODE), "b")
    once = mesh.token(MemberKind.PERSON)
    join(tmp_path / "c", once, "c")
    with pytest.raises(EnrolmentError, match="used up"):
        join(tmp_path / "d", once, "d")


def of_another_mesh(mesh: Mesh, folder: Path) -> Standing:
    """A person with keys, who has the public records of this mesh, and is on another's list."""
    person = Identity.load_or_create(folder / "keys", "ann", MemberKind.PERSON)
    ours = MembersFile(mesh.home / "members.json").members
    keep_standing(folder, ours, mesh.address)
    assert person.member not in ours.members
    standing = load_standing(folder, MemberKind.PERSON)
    assert standing is not None
    return standing


def test_P10_P7_a_master_killed_just_after_it_revoked_and_made_a_token(
    mesh: Mesh, base: dict[str, Any], ann: Path, tmp_path: Path
) -> None:
    mesh.start_worker("r2")
    mesh.wait_connected("r2")
    for node in NODES:
        mesh.do(msg.Drain(new_id("r"), node, drained=True))
    gate = Gate(tmp_path)
    sweep = mesh.submit(f'name: killed\ncommand: "{gate.wait_command}"\n')
    (job,) = mesh.jobs(sweep)
    mesh.wait_until(lambda: gate.starts == 1, "r2 runs it")
    urls = {node: url_of(mesh, node) for node in NODES}
    kept, late = mesh.token(MemberKind.PERSON), mesh.token(MemberKind.PERSON)
    mesh.revoke("r2")
    mesh.kill("master")

    # The master is away: nodes know each other by the last list, and strangers too.
    at_n2 = Source("n2", urls["n2"])
    report = fetch(tmp_path / "1", base["artifact_id"], at_n2, standing_of(mesh, "n1"))
    assert report.bytes_by_node == {"n2": BASE_BYTES}
    with pytest.raises(FetchError, match="401"):
        fetch(tmp_path / "2", base["artifact_id"], at_n2, of_another_mesh(mesh, tmp_path / "x"))
    expire_last_token(mesh)

    mesh.start_master()
    mesh.wait_connected(*NODES)
    assert "r2" not in {row["node_id"] for row in mesh.rows("nodes") if row["connected"]}
    assert mesh.job(job["job_id"])["last_failure"]["message"] == "r2 is no member any more"
    for node in NODES:
        mesh.do(msg.Drain(new_id("r"), node, drained=False))
    gate.open()
    (row,) = mesh.wait_jobs(sweep)
    assert row["node_id"] in NODES
    daemon = mesh.daemons["r2"]
    mesh.wait_until(lambda: daemon.said("refuses these keys"), "r2 stays out")
    mesh.kill("r2")
    join(tmp_path / "eve", kept, "eve")
    with pytest.raises(EnrolmentError, match="has expired"):
        join(tmp_path / "zoe", late, "zoe")


def expire_last_token(mesh: Mesh) -> None:
    """As if its time had passed while the master was away."""
    path = mesh.home / "tokens.json"
    tokens = json.loads(path.read_bytes())
    tokens[-1]["expires_s"] = wall_now_s() - 1
    path.write_text(json.dumps(tokens))


def test_P10_without_encryption_requests_are_signed_and_people_join_by_tls(
    new_mesh: NewMesh, tmp_path: Path
) -> None:
    mesh = new_mesh("clear", secure=True)
    mesh.environment = {
        "MESHTRAIN_WARM_TRAINING": "false",
        "MESHTRAIN_ENCRYPT_ARTIFACTS": "false",
        "MESHTRAIN_ADDRESS": "127.0.0.1",
        # All addresses, those of IPv4 too, where this host has both.
        "MESHTRAIN_HOST": "::" if has_ipv6() else "0.0.0.0",
        "MESHTRAIN_ENROL_PORT": str(free_ports(1)[0]),
    }
    mesh.start("n1")
    home = tmp_path / "home"
    person_at(home, mesh.token(MemberKind.PERSON), "ann")
    rows = mesh.wait_jobs(submit(home, sweep_file(tmp_path, "clear", "true", "[a]")))
    (base,) = mesh.bases_of(mesh.jobs(rows[0]["job_id"])[0]["sweep_id"])
    at_n1 = Source("n1", url_of(mesh, "n1"))
    assert at_n1.url.startswith("http://127.0.0.1:")
    n1 = standing_of(mesh, "n1")
    assert fetch(tmp_path / "1", base["artifact_id"], at_n1, n1, encrypt=False).chunks
    stranger = of_another_mesh(mesh, tmp_path / "x")
    with pytest.raises(FetchError, match="401"):
        fetch(tmp_path / "2", base["artifact_id"], at_n1, stranger, encrypt=False)
    with pytest.raises(FetchError, match=r"artifacts.encrypt"):
        fetch(tmp_path / "3", base["artifact_id"], at_n1, n1)


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_P10_daemons_that_others_could_steer_do_not_start(tmp_path: Path) -> None:
    homes = {name: tmp_path / name for name in ("open", "master", "worker")}
    for name, kind in (("master", MemberKind.MASTER), ("worker", MemberKind.NODE)):
        homes[name].mkdir(mode=0o700)
        Identity.load_or_create(homes[name] / "keys", name, kind)
    key = homes["master"] / "keys" / "curve.key"
    key.chmod(0o644)
    cases = [
        ("master", "open", {"MESHTRAIN_HOST": "0.0.0.0"}, "the master refuses to bind"),
        ("master", "master", {"MESHTRAIN_SECURE": "true"}, f"`chmod 600 {key}`"),
        ("worker", "worker", {}, "that was not finished: join again"),
    ]
    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(lambda c: start_refused(c[0], homes[c[1]], **c[2]), cases))
    for (_, _, _, expected), (code, told) in zip(cases, outcomes, strict=True):
        assert code == 2, told
        assert expected in told
    assert not homes["open"].exists()
