"""`meshtrain chaos`: what it refuses, and how it tells what came of a run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from cli_double import run

from meshtrain.chaos import report
from meshtrain.chaos.run import ChaosRun, Outcome, Plan
from meshtrain.chaos.verdict import Verdict


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--for", "soon"), "--for"),
        (("--for", "30d"), "--for"),
        (("--lease", "0s"), "--lease"),
        (("--hurt", "masters"), "known: master, worker, shim, spawner, link"),
        (("--hurt", ","), "nothing is named"),
        (("--kinds", "long"), "known: short"),
    ],
)
def test_wrong_use_is_told_before_anything_is_made(
    arguments: tuple[str, str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = run(None, "chaos", *arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert list(tmp_path.iterdir()) == []


def _carried_out(monkeypatch: pytest.MonkeyPatch, *violations: str) -> None:
    async def carry_out(self: ChaosRun) -> Outcome:
        verdict = Verdict()
        check = verdict.check("ends", "P2: a job ends once")
        check.demand(True, "")
        for told in violations:
            check.demand(False, told)
        return Outcome(
            plan=self._plan,
            verdict=verdict,
            faults=Counter({("link", "cut"): 3, ("master", "killed"): 1}),
            submissions=Counter({"short": 5}),
            unsure=1,
            counts=Counter({"jobs": 9, "succeeded": 8, "cancelled": 1, "executions": 10}),
            took_s=61.0,
            settled_s=2.0,
        )

    monkeypatch.setattr(ChaosRun, "carry_out", carry_out)


def test_what_held_is_told_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _carried_out(monkeypatch)
    result = run(None, "chaos", "--seed", "7", "--kinds", "short")
    assert result.exit_code == 0, result.stderr
    assert "all held (seed 7)" in result.stdout
    assert "cut 3×" in result.stdout
    assert "5 submissions acknowledged (short 5), 9 jobs: 8 succeeded" in result.stdout
    assert "never acknowledged: 1" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_broke_is_told_with_its_folder_and_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _carried_out(monkeypatch, *(f"job {number} ended twice" for number in range(30)))
    result = run(None, "chaos", "--seed", "7", "--json")
    assert result.exit_code == 1
    (home,) = tmp_path.iterdir()
    assert str(home) in result.stderr
    assert "--seed 7" in result.stderr
    assert "and 10 more" in result.stderr
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert document["faults"] == {"link": {"cut": 3}, "master": {"killed": 1}}
    assert document["faults_total"] == 4
    assert len(document["violations"]) == 30
    (check,) = document["checks"]
    assert check == {
        "name": "ends",
        "promise": "P2: a job ends once",
        "looked_at": 31,
        "violations": 30,
    }


def test_a_kept_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _carried_out(monkeypatch)
    assert run(None, "chaos", "--keep").exit_code == 0
    assert len(list(tmp_path.iterdir())) == 1


def test_a_table_has_a_row_for_each_that_was_hurt(tmp_path: Path) -> None:
    outcome = Outcome(
        plan=Plan(tmp_path),
        verdict=Verdict(),
        faults=Counter({("worker", "killed"): 2, ("worker", "stopped"): 1}),
        submissions=Counter(),
        unsure=0,
        counts=Counter(),
        took_s=1.0,
        settled_s=1.0,
    )
    assert report.fault_rows(outcome) == [("worker", "3", "killed 2×, stopped 1×")]
