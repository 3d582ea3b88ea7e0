"""Each check of a mesh at rest finds what it is there for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshtrain.chaos import checks
from meshtrain.chaos.checks import Ledger, attempt_of_mark
from meshtrain.chaos.jobs import Kind, Stream, Submission, kinds_here
from meshtrain.chaos.mesh import Process
from meshtrain.chaos.verdict import Verdict
from meshtrain.spec.expand import Digests, expand
from meshtrain.spec.jobfile import parse_job_file

ATTEMPT = {
    "attempt_id": "j1.2",
    "epoch": 2,
    "generation": 1,
    "state": "succeeded",
}
LOST = {"attempt_id": "j1.1", "epoch": 1, "generation": 1, "state": "lost"}
BASE_ATTEMPT = {"attempt_id": "b1.3", "epoch": 3, "generation": 1, "state": "succeeded"}


class Master:
    """Answers as a master whose one sweep of one job came out well."""

    def __init__(self) -> None:
        self.sweeps: list[Any] = [{"name": "s"}]
        self.job: dict[str, Any] = {
            "job_id": "j1",
            "name": "s/number=0",
            "kind": "experiment",
            "state": "succeeded",
            "recipe_hash": "r",
            "attempts": [LOST, ATTEMPT],
        }
        self.base: dict[str, Any] = {
            "job_id": "b1",
            "recipe_hash": "r",
            "state": "committed",
            "generation": 1,
        }
        self.base_job = {"job_id": "b1", "name": "base r", "attempts": [BASE_ATTEMPT]}
        self.streams = {"log": b"1\n2\n", "metrics": b""}

    def ask(self, what: str, *names: str, offset: int = 0, limit: int = 1000) -> list[Any]:
        if what == "job":
            return [self.job if names == ("j1",) else self.base_job]
        if what == "log":
            data = self.streams[names[1]][offset:]
            return [{"data": data, "size_bytes": offset + len(data), "ended": True}]
        rows = {"sweeps": self.sweeps, "jobs": [self.job], "bases": [self.base]}[what]
        return rows[offset:]


GIVEN = {"s": Submission("s", Kind.BASES, b"{}", 1, log=b"1\n2\n", steps=7)}
Spoil = Callable[[Master, Path], object]


def home_of(folder: Path) -> Path:
    """A home whose results, ledger and inbox fit the master's answers."""
    home = folder / "node-1"
    cell = checks.cell_folder(home / "results", "s", "s/number=0")
    cell.mkdir(parents=True)
    (cell / "steps").write_text("7\n")
    (cell / "token").write_text("node-1/j1.2\n")
    (cell / "base").write_text("node-2/b1.3\n")
    (home / "ledger").write_text("j1 node-1/j1.2\n")
    accepted = home / "inbox" / "accepted"
    accepted.mkdir(parents=True)
    (accepted / "s.json").touch()
    (accepted / "s.json.receipt.txt").touch()
    return home


def verdict_of(master: Master, home: Path) -> Verdict:
    verdict = Verdict()
    checks.check_submissions(verdict, master.ask, GIVEN, ())
    checks.check_jobs(verdict, master.ask, GIVEN, Ledger(home / "ledger"))
    checks.check_results(verdict, master.ask, GIVEN, home / "results")
    checks.check_bases(verdict, master.ask)
    checks.check_inbox(verdict, home / "inbox", GIVEN.values())
    checks.check_processes(verdict, [])
    checks.check_folders(verdict, [home])
    return verdict


def test_a_mesh_that_is_well_holds_all(tmp_path: Path) -> None:
    verdict = verdict_of(Master(), home_of(tmp_path))
    assert verdict.violations == []
    assert verdict.ok
    assert all(check.looked_at for check in verdict.checks)


def _attempts(*changed: dict[str, Any]) -> Spoil:
    return lambda master, home: master.job.update(attempts=[LOST, *changed])


def _cell(home: Path) -> Path:
    return checks.cell_folder(home / "results", "s", "s/number=0")


SPOILED: dict[str, tuple[str, Spoil]] = {
    "a lost submission": ("submissions", lambda m, home: m.sweeps.clear()),
    "a doubled submission": ("submissions", lambda m, home: m.sweeps.append({"name": "s"})),
    "one that nobody gave": ("submissions", lambda m, home: m.sweeps.append({"name": "x"})),
    "a job too many": ("submissions", lambda m, home: m.job.update(name="x/number=0")),
    "a failed job": ("ends", lambda m, home: m.job.update(state="failed")),
    "an open job": ("ends", lambda m, home: m.job.update(state="running")),
    "a job that succeeded twice": (
        "ends",
        _attempts(ATTEMPT, ATTEMPT | {"attempt_id": "j1.3", "epoch": 3}),
    ),
    "a result of a former epoch": (
        "ends",
        _attempts(ATTEMPT, {**LOST, "attempt_id": "j1.3", "epoch": 3}),
    ),
    "a live attempt of an ended job": (
        "ends",
        _attempts({**LOST, "state": "live", "attempt_id": "j1.0"}, ATTEMPT),
    ),
    "a success of nobody": ("ends", _attempts()),
    "a success that never got to its end": (
        "ledger",
        lambda m, home: (home / "ledger").write_text("j1 node-1/j1.1\n"),
    ),
    "one lease that ran twice": (
        "ledger",
        lambda m, home: (home / "ledger").write_text("j1 node-1/j1.2\nj1 node-2/j1.2\n"),
    ),
    "a torn line of the ledger": (
        "ledger",
        lambda m, home: (home / "ledger").write_text("j1 node-1/j1.2\nj1\n"),
    ),
    "a log that lacks bytes": ("logs", lambda m, home: m.streams.update(log=b"1\n")),
    "a log with bytes twice": ("logs", lambda m, home: m.streams.update(log=b"1\n1\n2\n")),
    "metrics from nowhere": ("logs", lambda m, home: m.streams.update(metrics=b"{}\n")),
    "a result of another attempt": (
        "results",
        lambda m, home: (_cell(home) / "token").write_text("node-2/j1.1\n"),
    ),
    "a step too few": (
        "results",
        lambda m, home: (_cell(home) / "steps").write_text("6\n"),
    ),
    "no result": ("results", lambda m, home: (_cell(home) / "token").unlink()),
    "a base that was never committed": (
        "results",
        lambda m, home: (_cell(home) / "base").write_text("node-2/b1.2\n"),
    ),
    "a base committed twice": (
        "bases",
        lambda m, home: m.base_job.update(attempts=[BASE_ATTEMPT, BASE_ATTEMPT]),
    ),
    "a base that nobody made": ("bases", lambda m, home: m.base_job.update(attempts=[])),
    "a dropped file without a verdict": (
        "inbox",
        lambda m, home: (home / "inbox/accepted/s.json.receipt.txt").unlink(),
    ),
    "a dropped file with two": (
        "inbox",
        lambda m, home: (home / "inbox/accepted/s.2.json").touch(),
    ),
    "a dropped file that stays": ("inbox", lambda m, home: (home / "inbox/s.json").touch()),
    "a folder of an attempt": ("files", lambda m, home: (home / "attempts/x").mkdir(parents=True)),
    "something half stored": (
        "files",
        lambda m, home: (home / "artifacts/temp/x").mkdir(parents=True),
    ),
    "something half fetched": (
        "files",
        lambda m, home: (home / "artifacts/partial/x").mkdir(parents=True),
    ),
    "a temporary result": ("files", lambda m, home: (home / "results/s/.x.tmp").mkdir()),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_what_is_broken_is_found(tmp_path: Path, spoiled: str) -> None:
    name, spoil = SPOILED[spoiled]
    master, home = Master(), home_of(tmp_path)
    master.job = copy.deepcopy(master.job)
    spoil(master, home)
    verdict = verdict_of(master, home)
    assert not verdict.ok
    assert name in {check.name for check in verdict.checks if not check.ok}


def test_p8_a_process_that_is_left_is_found() -> None:
    verdict = Verdict()
    checks.check_processes(verdict, [Process(7, "sleep", 5, "sleep 900")])
    (told,) = verdict.violations
    assert "7 sleep (sleep 900)" in told


@pytest.mark.parametrize(
    ("attempt", "ends", "held"),
    [
        (LOST | {"started_wall_s": None}, "", True),
        (LOST | {"started_wall_s": 5.0}, "", False),
        (LOST | {"started_wall_s": None}, "j1 node-1/j1.1\n", False),
        (ATTEMPT | {"started_wall_s": 5.0}, "j1 node-1/j1.2\n", True),
    ],
)
def test_p7_an_attempt_that_ran_and_was_lost_is_found(
    tmp_path: Path, attempt: dict[str, Any], ends: str, held: bool
) -> None:
    master, verdict = Master(), Verdict()
    master.job["attempts"] = [attempt | {"failure": None}]
    (tmp_path / "ledger").write_text(ends)
    checks.check_adopted(verdict, master.ask, Ledger(tmp_path / "ledger"))
    assert verdict.ok is held


def test_a_store_that_is_not_there_is_told(tmp_path: Path) -> None:
    verdict = Verdict()
    checks.check_store(verdict, tmp_path, 6.0)
    assert not verdict.ok


def test_a_log_is_put_together_from_its_parts() -> None:
    whole = bytes(range(200))

    def ask(what: str, *names: str, offset: int = 0, limit: int = 0) -> list[Any]:
        part = whole[offset : offset + 64]
        return [{"data": part, "size_bytes": len(whole), "ended": True}]

    assert checks.stored_stream(ask, "j", "log") == (whole, True)


def test_a_mark_names_its_attempt() -> None:
    assert attempt_of_mark("node-1/j1.2\n") == "j1.2"
    assert attempt_of_mark("") == ""


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_job_is_a_job_file_with_as_many_jobs_as_it_says(
    kind: Kind, tmp_path: Path
) -> None:
    made = Stream(3, tmp_path / "a folder" / "ledger", [kind]).make(kind)
    job_file = parse_job_file(made.data, made.file_name, cells_max=100)
    sweep = expand(job_file, Digests(code={}, data={}))
    assert (sweep.name, len(sweep.jobs)) == (made.name, made.jobs)


def test_one_seed_gives_the_same_jobs_again(tmp_path: Path) -> None:
    kinds = [kind for kind in kinds_here() if kind is not Kind.TRAINING]
    one, same, other = (Stream(seed, tmp_path, kinds) for seed in (1, 1, 2))
    first = [one.next() for _ in range(50)]
    assert first == [same.next() for _ in range(50)]
    assert first != [other.next() for _ in range(50)]
    assert {submission.kind for submission in first} == set(kinds)
