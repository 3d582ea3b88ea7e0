"""What people see of the archive: `bases restore`, `bases --json`, `results`, `doctor`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from cli_double import out, run
from master_double import MasterDouble, small_sweep

from meshtrain.cli import doctor_mesh, doctor_network
from meshtrain.cli.context import Cli
from meshtrain.cli.doctor_findings import Level
from meshtrain.core.job import Base, Sweep
from meshtrain.errors import MeshtrainError
from meshtrain.wire import messages as msg


@dataclass
class PlayedArchive:
    """An archive that is asked, and answers what the test has it answer."""

    #: what each question about a restoring is told, one after the other; the last one stays
    steps: list[dict[str, Any]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    restoring: str = ""

    def restore(self, base: Base) -> None:
        self.restoring = base.recipe_hash

    def status(self) -> dict[str, Any]:
        restores = {}
        if self.steps:
            step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
            restores = {self.restoring: step}
        told = {"url": "s3://lab/mesh", "queued": 0, "queued_bytes": 0, "done": 7, "lost": 0}
        return {**told, "trouble": "", **self.state, "restores": restores}

    def has_base(self, artifact_id: str | None) -> bool:
        return True

    def results_count(self, sweep: Sweep) -> int | None:
        return 3


def progress(done: int, *, error: str = "", over: bool = False) -> dict[str, Any]:
    return {
        "artifact_id": "a" * 32,
        "bytes_done": done,
        "bytes_total": 50_000_000,
        "error": error,
        "done": over,
    }


@pytest.fixture
def master() -> MasterDouble:
    master = MasterDouble()
    master.add_node("node-1")
    master.submit(small_sweep())
    master.run_all()
    return master


def recipe(master: MasterDouble) -> str:
    return str(next(iter(master.state.bases)))


def test_a_base_is_waited_for_until_it_is_back(master: MasterDouble) -> None:
    archive = PlayedArchive([progress(0), progress(10_000_000), progress(50_000_000, over=True)])
    master.archiving = archive
    told = out(master, "bases", "restore", recipe(master)[:6])
    assert "came back from the archive (50 MB), verified" in told
    assert archive.restoring == recipe(master)
    asked = [m for m in master.requests if isinstance(m, msg.Query)]
    assert [m.what for m in asked] == ["archive"] * 3


def test_what_goes_wrong_is_told_with_the_master_s_words(master: MasterDouble) -> None:
    master.archiving = PlayedArchive([progress(0), progress(9, error="the share is away")])
    result = run(master, "bases", "restore", recipe(master))
    assert result.exit_code == 1
    assert "the share is away" in result.stderr
    master.archiving = PlayedArchive()
    result = run(master, "bases", "restore", recipe(master))
    assert result.exit_code == 1
    assert "the master was restarted meanwhile" in result.stderr


def test_without_an_archive_the_way_to_one_is_told(master: MasterDouble) -> None:
    result = run(master, "bases", "restore", recipe(master))
    assert result.exit_code == 2
    assert "set `archive` in its settings" in result.stderr
    assert "meshtrain bases rebuild" in result.stderr


def test_who_has_one_sees_what_is_there(master: MasterDouble) -> None:
    rows = json.loads(out(master, "bases", "--json"))
    assert [row["archived"] for row in rows] == [False]
    assert "archive" not in out(master, "bases")
    assert "archive" not in out(master, "results", "mix")
    master.archiving = PlayedArchive()
    rows = json.loads(out(master, "bases", "--json"))
    assert [row["archived"] for row in rows] == [True]
    assert "1 of 1 are in the archive" in out(master, "bases")
    assert "archive  3 of 4 results are there" in out(master, "results", "mix")


@pytest.mark.parametrize(
    ("state", "level", "told"),
    [
        ({}, Level.OK, "s3://lab/mesh: 7 results and bases are there"),
        ({"queued": 2, "queued_bytes": 3_000_000}, Level.OK, "2 wait (3 MB)"),
        ({"queued": 2, "trouble": "it is away"}, Level.WARN, "it is away"),
        ({"lost": 1}, Level.WARN, "1 were gone or damaged"),
    ],
)
def test_the_doctor_looks_at_it(
    master: MasterDouble, state: dict[str, Any], level: Level, told: str
) -> None:
    master.archiving = PlayedArchive(state=state)
    cli = Cli(connect=lambda way, timeout_s: master)
    reading = doctor_network.archive(cli, "127.0.0.1:7470")
    assert reading is not None
    finding = doctor_mesh.check_archive(reading)
    assert finding.level is level
    assert told in finding.told
    assert bool(finding.mend) == (level is Level.WARN)


def test_the_doctor_says_nothing_where_there_is_none_or_the_master_knows_of_none(
    master: MasterDouble,
) -> None:
    cli = Cli(connect=lambda way, timeout_s: master)
    assert doctor_network.archive(cli, "127.0.0.1:7470") is None

    def refuse(way: object, timeout_s: float) -> MasterDouble:
        raise MeshtrainError("no query is called archive")

    assert doctor_network.archive(Cli(connect=refuse), "127.0.0.1:7470") is None
