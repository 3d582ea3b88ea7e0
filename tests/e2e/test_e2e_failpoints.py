"""At every point where a crash may part two steps, a daemon is killed, and started again.

Each run is a mesh of its own: a master and two workers, one sweep that is
submitted and starts from a base, one that is dropped into the inbox. Whoever
comes by the point first dies there. Then everything must end well, nothing
twice, and nothing be left.

`make failpoints` runs all of them; without MESHTRAIN_FAILPOINTS=all a part of
them runs, another one each day.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from daemons import WAIT_S
from mesh import Mesh, NewMesh, read_json

from meshtrain.chaos import checks
from meshtrain.chaos.checks import Ledger
from meshtrain.chaos.jobs import Kind, Submission
from meshtrain.chaos.mesh import Process
from meshtrain.chaos.verdict import Check, Verdict
from meshtrain.core.job import TERMINAL, JobState
from meshtrain.errors import MeshtrainError
from meshtrain.failpoints import MASTER, NOTE_VARIABLE, POINTS, VARIABLE, WORKER
from meshtrain.ids import digest, new_id
from meshtrain.net.zmq_client import MasterClient
from meshtrain.wire import messages as msg

NODES = ("n1", "n2")
LEASE_S = 20.0
CELLS = 4
LINES = 3000
ANSWER_TIMEOUT_S = 3.0
PARTS = 12
"""A part of this size of all runs is made each day."""
LATER: dict[str, tuple[int, ...]] = {
    "store.written": (1, 2, 3, 5, 8),
    "store.committed": (1, 2, 3, 5, 8),
    "loop.sent": (1, 3, 6, 10),
    "artifact.whole": (1, 2),
    "artifact.renamed": (1, 2),
    "log.counted": (1, 3),
    "ended.sent": (1, 2),
}
"""Points that are come by for many reasons: the n-th time, too."""


def runs() -> list[tuple[str, str, int]]:
    """(who dies, where, the how manieth time) of every run."""
    return [
        (role, name, nth)
        for name, (roles, _) in POINTS.items()
        for role in roles
        for nth in LATER.get(name, (1,))
    ]


def chosen() -> list[tuple[str, str, int]]:
    """All runs, or today's part of them."""
    every = runs()
    if os.environ.get("MESHTRAIN_FAILPOINTS") == "all":
        return every
    day = int(time.time() // 86_400)
    return [run for number, run in enumerate(every) if (number + day) % PARTS == 0]


class Survivor:
    """A mesh whose daemons are started again whenever they died at the point."""

    def __init__(self, mesh: Mesh, note: Path, armed: dict[str, dict[str, str]]) -> None:
        self.mesh = mesh
        self.note = note
        self.deaths: list[str] = []
        self._armed = armed

    def start(self) -> None:
        self._begin("master")
        for node in NODES:
            self._begin(node)

    def _begin(self, name: str) -> None:
        environment = self._armed.get(name, {})
        if name == "master":
            self.mesh.begin_master(**environment)
        else:
            self.mesh.start_worker(name, **environment)
        self.mesh.daemons[name].expected_to_end = True

    def revive(self) -> None:
        """Start again who died at the point; any other end fails the test."""
        for name, daemon in list(self.mesh.daemons.items()):
            code = daemon.process.poll()
            if code is None:
                continue
            assert code == -9, f"{name} ended with {code}"
            assert self.note.exists(), f"{name} was killed, and not at the point"
            assert not self.deaths, f"{name} died after {self.deaths}"
            self.deaths.append(name)
            self._begin(name)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait, reviving; a master that is away counts as not yet."""

        def reached() -> Any:
            self.revive()
            return condition()

        return self.mesh.wait_until(reached, what, WAIT_S)

    def ask(self, what: str, *names: str, offset: int = 0, limit: int = 1000) -> list[Any]:
        answer = self.request(msg.Query(new_id("query"), what, names, offset, limit))
        if answer.error or not isinstance(answer, msg.Answer):
            raise MeshtrainError(answer.error)
        return answer.rows

    def request(self, message: msg.FromPerson) -> msg.Done | msg.Answer:
        address = f"127.0.0.1:{self.mesh.ports['control']}"
        with MasterClient(address, timeout_s=ANSWER_TIMEOUT_S) as client:
            return client.request(message)

    def submit(self, submission: Submission) -> None:
        """Submit until it is acknowledged."""
        message = msg.Submit(new_id("request"), submission.file_name, submission.data)

        def acknowledged() -> msg.Done | msg.Answer:
            return self.request(message)

        done = self.until(acknowledged, f"{submission.name} is acknowledged")
        assert not done.error, done.error


def submissions(ledger: Path) -> tuple[Submission, Submission]:
    """A sweep on one base, whose cells last so long that both nodes get some, and a plain one."""
    end = (
        "echo $MESHTRAIN_ATTEMPT > {output}/token; "
        f"echo $MESHTRAIN_JOB $MESHTRAIN_ATTEMPT >> {ledger}"
    )
    base = (
        "seq 3000 > {output}/model; echo $MESHTRAIN_ATTEMPT > {output}/made; "
        f"echo $MESHTRAIN_JOB $MESHTRAIN_ATTEMPT >> {ledger.with_name('bases')}"
    )
    lines = f"seq -f 'line %06.0f' {LINES}"
    sweep = {
        "name": "sweep",
        "base": {"command": base},
        "command": f"cp {{base}}/made {{output}}/base; {lines}; sleep 0.3; {end}",
        "matrix": {"number": list(range(CELLS))},
    }
    plain = {"name": "plain", "command": f"{lines}; {end}"}
    log = "".join(f"line {number:06d}\n" for number in range(1, LINES + 1)).encode()
    return (
        Submission("sweep", Kind.BASES, msgspec.json.encode(sweep), CELLS, log=log),
        Submission("plain", Kind.LINES, msgspec.json.encode(plain), 1, log=log, by_inbox=True),
    )


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("role", "name", "nth"), chosen(), ids=lambda part: str(part).replace(".", "-")
)
def test_p1_to_p8_hold_when_a_daemon_dies_between_two_steps(
    new_mesh: NewMesh, tmp_path: Path, role: str, name: str, nth: int
) -> None:
    ledger, note = tmp_path / "ledger", tmp_path / "note"
    armed = {VARIABLE: f"{name}:{nth}", NOTE_VARIABLE: str(note)}
    mesh = new_mesh(lease_s=LEASE_S)
    share = tmp_path / "share"
    share.mkdir()
    mesh.environment["MESHTRAIN_ARCHIVE"] = str(share)
    names = ["master"] if role == MASTER else list(NODES)
    survivor = Survivor(mesh, note, dict.fromkeys(names, armed))
    survivor.start()
    # Only then do both get some of the sweep, and one of them fetches the base.
    survivor.until(lambda: _connected(survivor), "both nodes are there")
    sweep, plain = submissions(ledger)
    for submission in (sweep, plain):
        if submission.by_inbox:
            survivor.until(mesh.inbox.is_dir, "there is an inbox")
            mesh.drop(submission.data.decode(), submission.file_name)
        else:
            survivor.submit(submission)
    given = {s.name: s for s in (sweep, plain)}
    results = mesh.results

    def all_done() -> bool:
        rows = survivor.ask("jobs")
        if len(rows) < CELLS + 2 or any(row["state"] not in TERMINAL for row in rows):
            return False
        if not all("master" in base["holders"] for base in survivor.ask("bases")):
            return False
        if not all(_is_whole(survivor, row, results) for row in rows if row["sweep_id"]):
            return False
        (archive,) = survivor.ask("archive")
        return bool(archive["done"] == CELLS + 2)

    survivor.until(all_done, "all jobs have ended, their logs and results are there")
    survivor.until(note.exists, f"the point {name} is reached")
    if name.startswith("shim."):
        # The shim died, and no daemon.
        assert not survivor.deaths
    else:
        survivor.until(lambda: survivor.deaths, "a daemon died and was started again")

    verdict = Verdict()
    survivor.until(lambda: _connected(survivor), "all nodes are there")
    checks.check_submissions(verdict, survivor.ask, given, ())
    counts = checks.check_jobs(verdict, survivor.ask, given, Ledger(ledger))
    checks.check_results(verdict, survivor.ask, given, results)
    checks.check_bases(verdict, survivor.ask)
    once = verdict.check("once", "P7: nobody notices that the master was away")
    if role == MASTER:
        once.demand(counts["executions"] == CELLS + 1, f"{counts['executions']} executions")
        once.demand(len(Ledger(ledger.with_name("bases")).ends) == 1, "the base was trained again")
    archived = verdict.check("archive", "P12: each result and base is there once, and whole")
    _check_archive(archived, share)
    checks.check_inbox(verdict, mesh.inbox, [plain])
    _stop(mesh)
    left = [Process(pid, "", 0, line) for pid, line in mesh.processes().items()]
    checks.check_processes(verdict, left)
    checks.check_folders(verdict, [mesh.folder / daemon for daemon in mesh.daemons])
    checks.check_store(verdict, mesh.home / "state", LEASE_S)
    assert verdict.violations == []
    assert counts[JobState.SUCCEEDED] == CELLS + 1


def _is_whole(survivor: Survivor, row: Any, results: Path) -> bool:
    stored = survivor.ask("log", row["job_id"], limit=1)[0]["size_bytes"]
    cell = checks.cell_folder(results, row["name"].partition("/")[0], row["name"])
    return bool(stored >= LINES * len("line 000001\n")) and (cell / "token").exists()


def _check_archive(archived: Check, share: Path) -> None:
    places = [
        *(share / "results").glob("*/*/*"),
        *(share / "bases").glob("*/*"),
    ]
    archived.demand(len(places) == CELLS + 2, f"{len(places)} places")
    for place in places:
        told = read_json(place / "manifest.json")
        there = {
            str(path.relative_to(place)): path.read_bytes()
            for path in (place / "files").rglob("*")
            if path.is_file()
        }
        promised = {row["path"]: row["xxh3_128"] for row in told["files"]}
        archived.demand(
            promised == {path: digest(data) for path, data in there.items()},
            f"{place} is not whole",
        )


def _connected(survivor: Survivor) -> bool:
    return {row["node_id"] for row in survivor.ask("nodes") if row["connected"]} == set(NODES)


def _stop(mesh: Mesh) -> None:
    for names in (NODES, ("master",)):
        for name in names:
            mesh.ask_to_stop(name)
        for name in names:
            assert mesh.wait_stopped(name) == 0, f"{name} didn't end well"


def test_every_point_is_somewhere_in_the_code_and_every_call_is_a_point() -> None:
    root = Path(__file__).parents[2]
    called = [
        found
        for package in ("meshtrain", "daemon")
        for path in sorted((root / package).rglob("*.py"))
        for found in re.findall(r'^\s+failpoints\.reach\("([^"]+)"\)', path.read_text(), re.M)
    ]
    assert sorted(called) == sorted(POINTS)
    assert {role for roles, _ in POINTS.values() for role in roles} == {MASTER, WORKER}


def test_the_days_parts_make_the_whole() -> None:
    every = runs()
    parts = [
        [run for number, run in enumerate(every) if (number + day) % PARTS == 0]
        for day in range(PARTS)
    ]
    assert sorted(run for part in parts for run in part) == sorted(every)


def test_a_daemon_refuses_a_point_that_nobody_knows(new_mesh: NewMesh) -> None:
    mesh = new_mesh()
    mesh.begin_master(**{VARIABLE: "store.comitted"})
    daemon = mesh.daemons["master"]
    daemon.expected_to_end = True
    assert mesh.wait_stopped("master") == 2
    assert daemon.said("no failpoint is called 'store.comitted'")
