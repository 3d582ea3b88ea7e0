"""Partitions between hosts: cables pulled, one way cut, slow and lossy links; then healing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gate import Gate
from hosts import MASTER, Hosts, HostsMesh, why_not

from meshtrain.chaos import checks
from meshtrain.chaos.verdict import Verdict
from meshtrain.core.job import TERMINAL

REASON = why_not()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.xdist_group("network"),
    pytest.mark.skipif(bool(REASON), reason=REASON),
]

NODES = ("n1", "n2", "n3")
LEASE_S = 2.0
LINES = 4000


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostsMesh]:
    """A master and three nodes, each on a host of its own."""
    folder = tmp_path_factory.mktemp("hosts") / "mesh"
    mesh = HostsMesh(folder, Hosts(MASTER, *NODES), NODES, lease_s=LEASE_S)
    try:
        mesh.start_all()
        yield mesh
    finally:
        mesh.close()


def gated(mesh: HostsMesh, gate: Gate, name: str, ledger: Path) -> tuple[Any, str]:
    """A job that waits at a gate, and the node that it runs on."""
    sweep = mesh.submit(
        f"""
name: {name}
command: "{gate.wait_command}; seq {LINES}; echo $MESHTRAIN_ATTEMPT > {{output}}/token;
  echo $MESHTRAIN_JOB $MESHTRAIN_ATTEMPT >> {ledger}"
"""
    )
    (row,) = mesh.jobs(sweep)
    mesh.wait_until(lambda: gate.starts == 1, "the job runs")
    mesh.wait_job_state(row["job_id"], "running")
    return row, str(mesh.job(row["job_id"])["node_id"])


def connected(mesh: HostsMesh) -> set[str]:
    return {row["node_id"] for row in mesh.rows("nodes") if row["connected"]}


def healed(mesh: HostsMesh, row: Any, ledger: Path) -> list[Any]:
    """Wait until all is one mesh again and the job has ended; its attempts, after all checks."""
    mesh.wait_connected(*NODES)
    mesh.wait_until(lambda: mesh.job(row["job_id"])["state"] in TERMINAL, "the job has ended")
    expected = "".join(f"{number}\n" for number in range(1, LINES + 1)).encode()
    mesh.wait_log(row["job_id"], expected)
    attempts = mesh.attempts(row["job_id"])
    won = [a for a in attempts if a["state"] == "succeeded"]
    assert [a["attempt_id"] for a in won] == [attempts[-1]["attempt_id"]]
    assert won[0]["attempt_id"] in checks.Ledger(ledger).ends[row["job_id"]]
    cell = checks.cell_folder(mesh.results, row["name"].partition("/")[0], row["name"])
    token = mesh.wait_file(cell / "token").read_text()
    assert checks.attempt_of_mark(token) == won[0]["attempt_id"]
    # Whoever runs an attempt that counts no more is told so, and ends it.
    mark = f"MESHTRAIN_JOB={row['job_id']}".encode()
    mesh.wait_until(lambda: not marked(mark), "nothing of the job runs any more")
    verdict = Verdict()
    checks.check_bases(verdict, lambda what, *names, **page: mesh.rows(what, *names, **page))
    assert verdict.violations == []
    return attempts


def marked(word: bytes) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and word in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


CUTS: dict[str, tuple[Callable[[Hosts, str], None], Callable[[Hosts, str], None]]] = {
    "cable": (lambda hosts, node: hosts.pull(node), lambda hosts, node: hosts.plug(node)),
    "to_the_master": (
        lambda hosts, node: hosts.deafen(MASTER, node),
        lambda hosts, node: hosts.hear(MASTER, node),
    ),
    "from_the_master": (
        lambda hosts, node: hosts.deafen(node, MASTER),
        lambda hosts, node: hosts.hear(node, MASTER),
    ),
}


@pytest.mark.parametrize("cut", CUTS)
def test_p2_p6_p7_a_job_behind_a_long_cut_goes_on_and_counts_once(
    mesh: HostsMesh, tmp_path: Path, cut: str
) -> None:
    spoil, mend = CUTS[cut]
    gate, ledger = Gate(tmp_path), tmp_path / "ledger"
    row, node = gated(mesh, gate, f"long_{cut}", ledger)
    (first,) = gate.pids
    spoil(mesh.hosts, node)
    try:
        mesh.wait_until(lambda: node not in connected(mesh), "the master misses the node")
        mesh.wait_until(lambda: gate.starts == 2, "the job runs elsewhere")
        # Lost trust ends no running job: only word of a higher epoch does.
        assert Path(f"/proc/{first}").exists()
        assert len([a for a in mesh.attempts(row["job_id"]) if a["state"] == "live"]) == 1
    finally:
        mend(mesh.hosts, node)
    gate.open()
    attempts = healed(mesh, row, ledger)
    assert len(attempts) == 2
    assert attempts[0]["state"] == "lost"
    assert attempts[1]["placements"][0]["node_id"] != node


def test_p7_a_cut_of_all_cables_of_the_master_is_survived(mesh: HostsMesh, tmp_path: Path) -> None:
    gate, ledger = Gate(tmp_path), tmp_path / "ledger"
    row, _ = gated(mesh, gate, "master_cut", ledger)
    (first,) = gate.pids
    mesh.hosts.pull(MASTER)
    try:
        gate.open()
        mesh.wait_until(lambda: not Path(f"/proc/{first}").exists(), "it ends while nobody hears")
    finally:
        mesh.hosts.plug(MASTER)
    healed(mesh, row, ledger)


def test_p3_p5_p6_a_sweep_over_slow_and_lossy_links(mesh: HostsMesh, tmp_path: Path) -> None:
    made = tmp_path / "made"
    for node in NODES:
        mesh.spoil(node, "delay", 0.02, 0.03)
        mesh.spoil(node, "lose", 0.05, 0.1)
    try:
        sweep = mesh.submit(
            f"""
name: lossy
base: {{command: "echo $MESHTRAIN_ATTEMPT >> {made}; seq 20000 > {{output}}/model"}}
command: "tail -n 1 {{base}}/model; seq {LINES}; sleep 0.05"
matrix: {{number: [0, 1, 2, 3, 4, 5]}}
"""
        )
        rows = mesh.wait_jobs(sweep)
        expected = "20000\n" + "".join(f"{number}\n" for number in range(1, LINES + 1))
        for row in rows:
            mesh.wait_log(row["job_id"], expected.encode())
        (base,) = mesh.bases_of(sweep)
        won = [a for a in mesh.attempts(base["job_id"]) if a["state"] == "succeeded"]
        assert len(won) == 1
        assert base["generation"] == 1
        assert len(made.read_text().splitlines()) == len(mesh.attempts(base["job_id"]))
    finally:
        for node in NODES:
            mesh.spoil(node, "heal")
