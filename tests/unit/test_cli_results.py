"""`results`: from the master, and from a folder without one."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli_double import out, run
from master_double import MasterDouble, small_sweep, user_error

from meshtrain.core.job import Job
from meshtrain.results.merge import CellResult, merge
from meshtrain.results.records import EXPERIMENTS_FILE, ExperimentRecord, write_records
from meshtrain.results.table import write_results
from meshtrain.spec.jobs import Better, ResultsSpec


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
    assert lines[0].split() == ["share", "accuracy", "95", "%", "interval", "n", "missing"]
    assert lines[1].split() == ["0.1", "0.150", "±", "0.071", "-0.485", "to", "0.785", "2", "–"]
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
    monkeypatch.setattr("meshtrain.cli.results_sources.PAGE_CELLS", 1)
    table = json.loads(out(master, "results", "mix", "--json"))["table"]
    assert sum(row["expected"] for row in table["rows"]) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name a sweep"),
        (("mix", "--folder", "x", "--from", "y"), "folders of two kinds"),
        (("mix", "mix_b", "--from", "y"), "needs the sweep's job file"),
        (tuple(f"s{n}" for n in range(21)), "too many to compare"),
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


# --- what is missing, and several sweeps ----------------------------------------------


def test_missing_cells_come_with_the_command_that_reruns_them(master: MasterDouble) -> None:
    text = out(master, "results", "mix")
    assert text.splitlines()[-4:] == [
        "missing  1 cell: this runs it again",
        "         meshtrain retry mix/share=0.5,fold=1",
        "",
        "results  /var/lib/meshtrain/results/mix",
    ]
    told = json.loads(out(master, "results", "mix", "--json"))["rerun"]
    assert told == [
        {
            "cells": ["mix/share=0.5,fold=1"],
            "command": "meshtrain retry mix/share=0.5,fold=1",
            "says": "this runs it again",
        }
    ]


def test_the_rerun_command_does_what_it_says(master: MasterDouble) -> None:
    (told,) = json.loads(out(master, "results", "mix", "--json"))["rerun"]
    program, *arguments = shlex.split(told["command"])
    assert program == "meshtrain"
    assert "1 job runs again" in out(master, *arguments)
    master.outcome = lambda job: {"accuracy": 0.9}
    master.run_all()
    assert json.loads(out(master, "results", "mix", "--json"))["rerun"] == []


def test_a_comparison_of_two_sweeps(master: MasterDouble) -> None:
    master.outcome = lambda job: {"accuracy": job.spec.cell["share"] + 0.1}
    master.submit(small_sweep("more", shares=(0.1, 0.5, 0.9)))
    master.run_all()
    lines = out(master, "results", "mix", "more").splitlines()
    assert lines == [
        "accuracy: more less mix",
        "",
        "share       mix             more            difference       n",
        "0.1         0.150 ± 0.071   0.200 ± 0.000   +0.050 ± 0.635   2 pairs   –",
        "0.5         0.500           0.600 ± 0.000   +0.100 ±     –   1 pair    –",
        "0.9         –               1.000 ± 0.000        –           0 and 2   –",
        "all pairs                                   +0.067 ± 0.143   3 pairs   –",
        "",
        "difference ± half its 95 % interval; better and worse where that leaves out 0;",
        "higher is better, as its name says",
        "note   1 value of more has no partner, and is left out of the paired differences",
        "note   more alone has share=0.9",
        "",
        "mix",
        "missing  1 cell: this runs it again",
        "         share=0.5,fold=1",
        "         meshtrain retry mix/share=0.5,fold=1",
        "",
        "results  /var/lib/meshtrain/results/mix",
        "results  /var/lib/meshtrain/results/more",
    ]
    document = json.loads(out(master, "results", "mix", "more", "--json"))
    assert [len(document["comparisons"]), len(document["sweeps"])] == [1, 2]
    rows = list(csv.DictReader(io.StringIO(out(master, "results", "mix", "more", "--csv"))))
    assert [row["pairs"] for row in rows] == ["2", "1", "0"]
    assert float(rows[0]["difference"]) == pytest.approx(0.05)


def test_a_report_and_parquet_of_the_masters_sweeps(master: MasterDouble, tmp_path: Path) -> None:
    master.submit(small_sweep("more"))
    master.run_all()
    report, cells = tmp_path / "out.html", tmp_path / "out.parquet"
    files = ("--html", str(report), "--plot", str(tmp_path / "out.png"))
    result = run(master, "results", "mix", "more", *files)
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert f"report   {report}" in result.stderr
    text = report.read_text()
    assert "node-1" in text
    assert "train.py · lr 0.001" in text
    assert "more less mix" in text
    parquet = pytest.importorskip("pyarrow.parquet")
    result = run(master, "results", "mix", "--parquet", str(cells))
    assert f"parquet  {cells}, 4 cells" in result.stderr
    rows = parquet.read_table(cells).to_pylist()
    assert {row["nodes"] for row in rows} == {"node-1"}
    assert [row["metrics.accuracy"] for row in rows][-1] is None


def test_details_are_asked_for_reports_alone(master: MasterDouble) -> None:
    out(master, "results", "mix")
    assert [request.what for request in master.requests] == ["results"]


# --- several masters' folders -----------------------------------------------------------


def folder_of(
    folder: Path, values: dict[tuple[float, int], tuple[float | None, float]], sweep_id: str = "1"
) -> str:
    """A results folder: (share, fold) → accuracy, or None for one that failed, and its end."""
    jobs = [(share, fold) for share in (0.1, 0.5) for fold in (0, 1)]
    experiments = []
    for index, (share, fold) in enumerate(jobs):
        value, ended_s = values.get((share, fold), (None, None))
        state = "waiting" if ended_s is None else "failed" if value is None else "succeeded"
        experiments.append(
            ExperimentRecord(
                f"{sweep_id}-{index}",
                f"mix/share={share},fold={fold}",
                {"share": share, "fold": fold},
                "command",
                state,
                ended_s=ended_s,
                metrics={} if value is None else {"accuracy": value},
                reason="out of memory" if state == "failed" else "",
            )
        )
    cells = [
        CellResult(e.job_id, e.name, e.cell, "", e.state, e.metrics, index=index)
        for index, e in enumerate(experiments)
    ]
    write_results(folder, merge(cells, ResultsSpec("accuracy", ("fold",))), cells, title="mix")
    write_records(
        folder, sweep_id=f"mix-{sweep_id}", sweep_name="mix", bases=[], experiments=experiments
    )
    return str(folder)


def two_masters(root: Path) -> tuple[str, str]:
    lab = folder_of(
        root / "lab",
        {(0.1, 0): (0.5, 100.0), (0.1, 1): (0.6, 100.0), (0.5, 0): (None, 500.0)},
    )
    cluster = folder_of(
        root / "cluster",
        {(0.1, 0): (0.5, 100.0), (0.1, 1): (0.7, 200.0), (0.5, 0): (0.9, 50.0)},
    )
    return lab, cluster


def test_folders_of_several_masters_merge_and_tell_what_lies_twice(tmp_path: Path) -> None:
    lab, cluster = two_masters(tmp_path)
    text = out(None, "results", "--folder", lab, "--folder", cluster)
    lines = text.splitlines()
    assert lines[1].split()[:3] == ["0.1", "0.600", "±"], "0.5 once, and 0.7: the newer one"
    assert lines[2].split()[:2] == ["0.5", "0.900"]
    told = "\n".join(lines[lines.index("") :])
    assert "4 cells lie in more than one folder; none is averaged twice" in told
    assert (
        f"""\
  share=0.5,fold=0
    kept      accuracy 0.9, 1970-01-01 00:00:50 UTC, {cluster}
    left out  failed, 1970-01-01 00:08:20 UTC, {lab}
  share=0.1,fold=1
    kept      accuracy 0.7, 1970-01-01 00:03:20 UTC, {cluster}
    left out  accuracy 0.6, 1970-01-01 00:01:40 UTC, {lab}
"""
        in told
    )
    turned = json.loads(out(None, "results", "--folder", cluster, "--folder", lab, "--json"))
    straight = json.loads(out(None, "results", "--folder", lab, "--folder", cluster, "--json"))
    assert turned == straight


def test_a_contradiction_is_told_first(tmp_path: Path) -> None:
    one = folder_of(tmp_path / "one", {(0.1, 0): (0.5, 100.0)})
    other = folder_of(tmp_path / "other", {(0.1, 0): (0.6, 100.0)}, sweep_id="2")
    text = out(None, "results", "--folder", one, "--folder", other)
    assert "1 CONTRADICT each other at one time: one is kept, look at them" in text
    assert "of 2 states of the job file, its code or its data (mix-1, mix-2)" in text
    assert (
        json.loads(out(None, "results", "--folder", one, "--folder", one, "--json"))["twice"] == []
    )


def test_what_failed_is_rerun_on_its_own_master(tmp_path: Path) -> None:
    lab, cluster = folder_of(tmp_path / "lab", {(0.1, 0): (None, 1.0)}), tmp_path / "cluster"
    folder_of(cluster, {(0.1, 1): (0.6, 1.0)})
    document = json.loads(out(None, "results", "--folder", lab, "--folder", str(cluster), "--json"))
    (failed, waiting) = document["rerun"]
    assert failed["command"] == "meshtrain retry mix/share=0.1,fold=0"
    assert failed["says"] == f"this runs it again, on the master of {lab}"
    assert len(waiting["cells"]) == 2


def test_a_masters_folder_of_many_sweeps(tmp_path: Path) -> None:
    two_masters(tmp_path / "a")
    lab, _ = two_masters(tmp_path / "b")
    whole = out(None, "results", "mix", "--folder", str(tmp_path / "a"), "--json")
    assert json.loads(whole)["title"] == "mix"
    result = run(None, "results", "nothing", "--folder", lab)
    assert result.exit_code == 2
    assert "no results of nothing" in result.stderr
    assert run(None, "results", "--folder", str(tmp_path / "absent")).exit_code == 1


def test_lower_is_better_where_the_job_file_says_so(master: MasterDouble) -> None:
    sweep = small_sweep("odd")
    spec = ResultsSpec("accuracy", ("fold",), better=Better.LOWER)
    master.submit(msgspec.structs.replace(sweep, results=spec))
    master.run_all()
    assert "lower is better, as the job file says" in out(master, "results", "odd")
    other = json.loads(out(master, "results", "odd", "--metric", "loss", "--json"))["table"]
    assert other["direction"] == "lower is better, as its name says"


def test_two_sweeps_of_one_name_go_by_their_ids(master: MasterDouble) -> None:
    """A retry by name would take the newer one's job."""
    first = "mix-00000001"
    master.submit(small_sweep(sweep_id="mix-00000002"))
    master.run_all()
    document = json.loads(out(master, "results", first, "mix", "--json"))
    assert [sweep["title"] for sweep in document["sweeps"]] == [first, "mix-00000002"]
    (again,) = document["sweeps"][0]["rerun"]
    assert again["command"] == f"meshtrain retry {first}"
    (alone,) = json.loads(out(master, "results", first, "--json"))["rerun"]
    assert alone["command"] == f"meshtrain retry {first}"


def test_csv_has_the_ends_of_the_intervals(master: MasterDouble) -> None:
    first, second = csv.DictReader(io.StringIO(out(master, "results", "mix", "--csv")))
    # 0.1 and 0.2: 0.15 ± 12.706 · 0.0707 / √2.
    assert float(first["ci_low"]) == pytest.approx(-0.4853, abs=1e-4)
    assert float(first["ci_high"]) == pytest.approx(0.7853, abs=1e-4)
    assert (second["n"], second["ci_low"], second["ci_high"]) == ("1", "", "")


@pytest.mark.parametrize(
    "broken",
    [
        b"[]",
        b'{"sweep": {}, "experiments": [{"job_id": 1}]}',
        b'{"sweep": {"name": "mix"}, "experiments": [{"job_id": "a", "name": "b", "cell": {}, '
        b'"state": "succeeded", "metrics": {"accuracy": "much"}}]}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_broken_record_is_a_clear_error(tmp_path: Path, broken: bytes) -> None:
    """P11"""
    folder = results_folder(tmp_path, record=True)
    (tmp_path / EXPERIMENTS_FILE).write_bytes(broken)
    result = run(None, "results", "--folder", folder)
    assert result.exit_code == 2
    assert "can't be read" in result.stderr
    assert EXPERIMENTS_FILE in result.stderr


def test_names_can_t_steer_a_terminal(tmp_path: Path) -> None:
    """P11"""
    cells = [
        ExperimentRecord(f"{n}", f"mix/\x1b[2J{n}", {"x": f"\x1b]0;{n}"}, "command", "failed",
                         reason="\x1b[31mred")
        for n in range(3)
    ]  # fmt: skip
    write_records(tmp_path, sweep_id="\x1b[m", sweep_name="mix", bases=[], experiments=cells)
    text = out(None, "results", "--folder", str(tmp_path))
    assert "\x1b" not in text
    assert "3 cells" in text
