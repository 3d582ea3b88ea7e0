"""`results`: from the master, and from a folder without one."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from cli_double import out, run
from master_double import MasterDouble, small_sweep, user_error

from meshtrain.core.job import Job
from meshtrain.results.merge import CellResult, merge
from meshtrain.results.records import EXPERIMENTS_FILE, ExperimentRecord, write_records
from meshtrain.results.table import write_results
from meshtrain.spec.jobs import ResultsSpec


def outcome(job: Job) -> Any:
    share, fold = job.spec.cell["share"], job.spec.cell["fold"]
    if (share, fold) == (0.5, 1):
        return user_error("no GPU")
    return {"accuracy": share + fold / 10, "loss": 1 - share}


@pytest.fixture
def master() -> MasterDouble:
    master = MasterDouble(outcome=outcome)
    master.add_node("node-1")
    master.submit(small_sweep())
    master.run_all()
    return master


def test_the_table(master: MasterDouble) -> None:
    text = out(master, "results", "mix")
    lines = text.splitlines()
    assert lines[0].split() == ["share", "accuracy", "n", "missing"]
    assert lines[1].split() == ["0.1", "0.150", "±", "0.071", "2", "–"]
    assert "1 of 2" in lines[2]
    assert "fold=1 failed" in lines[2]
    assert "1 failed: user error: no GPU" in text
    assert text.endswith("results  /var/lib/meshtrain/results/mix\n")


def test_other_groups_and_metrics(master: MasterDouble) -> None:
    by_fold = json.loads(out(master, "results", "mix", "--by", "fold", "--json"))["table"]
    assert [row["axes"] for row in by_fold["rows"]] == [{"fold": 0}, {"fold": 1}]
    assert [row["n"] for row in by_fold["rows"]] == [2, 1]
    loss = json.loads(out(master, "results", "mix", "--metric", "loss", "--json"))
    assert loss["table"]["higher_is_better"] is False
    assert loss["header"] == "loss"
    over = json.loads(out(master, "results", "mix", "--over", "share,fold", "--json"))["table"]
    assert [(row["n"], row["expected"]) for row in over["rows"]] == [(3, 4)]
    rows = list(csv.DictReader(io.StringIO(out(master, "results", "mix", "--csv"))))
    assert [row["share"] for row in rows] == ["0.1", "0.5"]


def test_many_cells_come_in_pages(master: MasterDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshtrain.cli.results.PAGE_CELLS", 1)
    table = json.loads(out(master, "results", "mix", "--json"))["table"]
    assert sum(row["expected"] for row in table["rows"]) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name a sweep"),
        (("mix", "--folder", "x"), "not both"),
        (("mix", "--by", "share", "--over", "fold"), "give one of them"),
        (("mix", "--csv", "--json"), "give one of them"),
        (("mix", "--by", "shots"), "its axes are share, fold"),
        (("mix", "--metric", "acuracy"), "did you mean accuracy"),
        (("nothing",), "no job, sweep or base"),
    ],
)
def test_wrong_use(master: MasterDouble, arguments: tuple[str, ...], words: str) -> None:
    result = run(master, "results", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    # Who asks for JSON gets the error as JSON; no results in any case.
    assert result.stdout == "" or list(json.loads(result.stdout)) == ["error"]


def test_a_plot(master: MasterDouble, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "out.png"
    result = run(master, "results", "mix", "--plot", str(path))
    assert result.exit_code == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert str(path) in result.stderr


def test_before_anything_ended(tmp_path: Path) -> None:
    master = MasterDouble()
    master.submit(small_sweep())
    assert "all waiting" in out(master, "results", "mix")


# --- a folder ---------------------------------------------------------------------------


def results_folder(folder: Path, *, record: bool) -> str:
    jobs = [(share, fold) for share in (0.1, 0.5) for fold in (0, 1)]
    cells = [
        CellResult(
            job_id=str(index),
            name=f"mix/share={share},fold={fold}",
            cell={"share": share, "fold": fold},
            state="succeeded",
            metrics={"accuracy": share + fold},
            index=index,
        )
        for index, (share, fold) in enumerate(jobs)
    ]
    table = merge(cells, ResultsSpec("accuracy", ("fold",)))
    write_results(folder, table, cells, title="mix", header="accuracy on p07")
    if record:
        experiments = [
            ExperimentRecord(c.job_id, c.name, c.cell, "command", c.state, metrics=c.metrics)
            for c in cells
        ]
        write_records(folder, sweep_id="mix-1", sweep_name="mix", bases=[], experiments=experiments)
    return str(folder)


def test_a_folder_needs_no_master(tmp_path: Path) -> None:
    folder = results_folder(tmp_path, record=True)
    text = out(None, "results", "--folder", folder)
    assert text.splitlines()[0].split()[:4] == ["share", "accuracy", "on", "p07"]
    by_fold = json.loads(out(None, "results", "--folder", folder, "--by", "fold", "--json"))
    assert [row["mean"] for row in by_fold["table"]["rows"]] == [0.3, 1.3]
    assert by_fold["header"] == "accuracy on p07"


def test_a_folder_with_a_table_alone(tmp_path: Path) -> None:
    folder = results_folder(tmp_path, record=False)
    assert "accuracy on p07" in out(None, "results", "--folder", folder)
    result = run(None, "results", "--folder", folder, "--by", "fold")
    assert result.exit_code == 2
    assert EXPERIMENTS_FILE in result.stderr


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    assert run(None, "results", "--folder", str(tmp_path / "absent")).exit_code == 1
    folder = results_folder(tmp_path, record=True)
    (tmp_path / EXPERIMENTS_FILE).write_text("{")
    result = run(None, "results", "--folder", folder)
    assert result.exit_code == 2
    assert "can't be read" in result.stderr
