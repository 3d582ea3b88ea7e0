"""`plan --split` and `results --from`: what is written, what is refused, what is merged."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_double import out, run
from master_double import MasterDouble

from meshtrain.cli.split_script import script_name, scripts
from meshtrain.core.job import Job
from meshtrain.core.split import split
from meshtrain.errors import UserError
from meshtrain.results.brought import NOT_BROUGHT, gather
from meshtrain.spec.expand import expand
from meshtrain.spec.jobfile import parse_job_file
from meshtrain.spec.jobs import SweepSpec
from meshtrain.spec.stand_in import stand_in_digests

COMMAND: dict[str, Any] = {
    "name": "few",
    "base": {"command": "train {lr} {output}", "params": {"lr": "{lr}"}},
    "command": "tune --lr {lr} --fold {fold} {base} {output}",
    "matrix": {"lr": [0.1, 0.2], "fold": [0, 1]},
    "results": {"metric": "accuracy", "over": "fold"},
}


def sweep_of(tree: Any) -> SweepSpec:
    job_file = parse_job_file(json.dumps(tree).encode(), "few.json")
    return expand(job_file, stand_in_digests(job_file))


def written(folder: Path, tree: Any = COMMAND) -> Path:
    path = folder / "few.json"
    path.write_text(json.dumps(tree))
    return path


def text_of(tree: Any, parts: int = 1) -> str:
    sweep = sweep_of(tree)
    return "\n".join(script.text for script in scripts(sweep, split(sweep.jobs, parts), "few.json"))


def lay_out(folder: Path, sweep: SweepSpec, name: str, code: str | None, **metrics: float) -> None:
    """What a script leaves of one cell."""
    job = next(job for job in sweep.jobs if job.name == name)
    cell = folder / name.partition("/")[2]
    (cell / "output").mkdir(parents=True)
    document = {
        "version": 1,
        "sweep": sweep.name,
        "sweep_id": sweep.sweep_id,
        "job_id": job.job_id,
        "name": job.name,
        "cell": job.cell,
    }
    (cell / "cell.json").write_text(json.dumps(document))
    if code is not None:
        (cell / "exit_code").write_text(f"{code}\n")
    if metrics:
        (cell / "output" / "metrics.json").write_text(json.dumps(metrics))


# --- the scripts --------------------------------------------------------------------------


def test_scripts_are_shell_and_say_what_they_are(tmp_path: Path) -> None:
    file, folder = written(tmp_path), tmp_path / "scripts"
    told = out(None, "plan", str(file), "--split", "2", "--by", "lr", "--out", str(folder))
    assert told.startswith("few: 4 cells in 2 scripts, by lr\n")
    assert "bases     2, each in one script alone" in told
    assert f"meshtrain results {file.name} --from FOLDER" in told
    names = ["few-1-of-2.sh", "few-2-of-2.sh"]
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", *names]
    for name in names:
        assert subprocess.run(["bash", "-n", folder / name], check=False).returncode == 0
        assert (folder / name).stat().st_mode & 0o111
    text = (folder / names[0]).read_text()
    assert text.splitlines()[1] == "# few, script 1 of 2: 2 of 4 cells"
    assert "#   lr=0.1" in text
    told = out(None, "plan", str(file), "--split", "2", "--out", str(tmp_path / "other"))
    assert "bases     2, trained 4 times: once in each script that needs it" in told


def test_what_was_written_as_json(tmp_path: Path) -> None:
    options = ["--split", "2", "--by", "lr", "--out", str(tmp_path / "s"), "--json"]
    document = json.loads(out(None, "plan", str(written(tmp_path)), *options))
    assert [script["cells"] for script in document["scripts"]] == [
        ["few/lr=0.1,fold=0", "few/lr=0.1,fold=1"],
        ["few/lr=0.2,fold=0", "few/lr=0.2,fold=1"],
    ]
    assert [len(script["bases"]) for script in document["scripts"]] == [1, 1]


def test_groups_are_those_of_affinity_unless_others_are_named(tmp_path: Path) -> None:
    file = str(written(tmp_path, {**COMMAND, "affinity": "lr"}))
    groups = []
    for place, by in enumerate(((), ("--by", "fold"), ("--by", ""))):
        options = ["--split", "2", *by, "--out", str(tmp_path / f"s{place}"), "--json"]
        document = json.loads(out(None, "plan", file, *options))
        groups.append(document["scripts"][0]["groups"])
    assert groups == [["lr=0.1"], ["fold=0"], []]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--by", "lr"), "--by and --out go with --split N"),
        (("--out", "x"), "--by and --out go with --split N"),
        (("--split", "2", "--by", "learning"), "no axis of the sweep"),
        (("--split", "3", "--by", "lr"), "too few for 3 servers"),
        (("--split", "0"), "greater than or equal to 1"),
    ],
)
def test_wrong_use_of_plan(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    result = run(None, "plan", str(written(tmp_path)), *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_scripts_of_another_split_are_not_left_beside(tmp_path: Path) -> None:
    file, folder = str(written(tmp_path)), str(tmp_path / "s")
    out(None, "plan", file, "--split", "2", "--out", folder)
    out(None, "plan", file, "--split", "2", "--by", "lr", "--out", folder)
    refused = run(None, "plan", file, "--split", "3", "--out", folder)
    assert refused.exit_code == 2
    assert "holds scripts of another split, few-1-of-2.sh and few-2-of-2.sh" in refused.stderr
    blocked = tmp_path / "file"
    blocked.touch()
    refused = run(None, "plan", file, "--split", "2", "--out", str(blocked))
    assert refused.exit_code == 2
    assert "can't be written" in refused.stderr


def test_what_no_script_can_do_is_refused() -> None:
    with pytest.raises(UserError, match="runs as the account amy"):
        text_of({**COMMAND, "user": "amy"})


def test_marks_are_nothing_that_somebody_wrote() -> None:
    odd = {**COMMAND, "command": "echo @@output@@ @@1@base {base} {output}"}
    text = text_of(odd)
    assert "MARK=@@2@" in text
    assert "echo @@output@@ @@1@base @@2@base@@2@ @@2@output@@2@" in text


def test_a_base_that_continues_is_told_to_whoever_runs_it() -> None:
    base = {"command": "train {from} {output}", "from": "aaaa"}
    text = text_of({**COMMAND, "base": base})
    assert "#     continues from 0000…000" in text
    assert "give its folder with --from" in text
    assert "MESHTRAIN_FROM=@@from@@" in text


def test_names_of_scripts_sort() -> None:
    names = [script_name("s", number, 12) for number in range(1, 13)]
    assert names == sorted(names)


# --- what comes home ------------------------------------------------------------------------


def outcome(job: Job) -> Any:
    return {"accuracy": job.spec.cell["lr"] + job.spec.cell["fold"] / 10}


def test_what_comes_home_gives_the_table_of_a_mesh(tmp_path: Path) -> None:
    file = written(tmp_path)
    master = MasterDouble(outcome=outcome)
    master.add_node("node-1")
    out(master, "submit", str(file))
    master.run_all()
    mesh = json.loads(out(master, "results", "few", "--json"))
    sweep = sweep_of(COMMAND)
    for job in sweep.jobs:
        server = tmp_path / f"gpu{job.cell['fold']}" / "results" / "few"
        accuracy = job.cell["lr"] + job.cell["fold"] / 10
        lay_out(server, sweep, job.name, "0", accuracy=accuracy)
    folders = ["--from", str(tmp_path / "gpu0"), "--from", str(tmp_path / "gpu1")]
    brought = json.loads(out(None, "results", str(file), *folders, "--json"))
    assert brought["table"] == mesh["table"]
    assert (brought["title"], brought["header"]) == (mesh["title"], mesh["header"])
    text = out(None, "results", str(file), *folders)
    assert "missing  " not in text.splitlines()[-1]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    file, sweep = written(tmp_path), sweep_of(COMMAND)
    lay_out(tmp_path / "home", sweep, "few/lr=0.1,fold=0", "0", accuracy=0.5)
    lay_out(tmp_path / "home", sweep, "few/lr=0.1,fold=1", "137")
    lay_out(tmp_path / "home", sweep, "few/lr=0.2,fold=0", None)
    text = out(None, "results", str(file), "--from", str(tmp_path / "home"))
    assert "missing  1 of 4 cells have no result here:\n  lr=0.2,fold=1\n" in text
    assert "exit code 137: ended by signal 9" in text
    as_json = run(None, "results", str(file), "--from", str(tmp_path / "home"), "--json")
    rows = json.loads(as_json.stdout)["table"]["rows"]
    reasons = [cell["reason"] for row in rows for cell in row["missing"]]
    assert reasons == [
        "exit code 137: ended by signal 9",
        "it was begun and has not ended",
        NOT_BROUGHT,
    ]
    assert "lr=0.2,fold=1" in as_json.stderr


def test_a_timeout_is_told_as_one(tmp_path: Path) -> None:
    sweep = sweep_of({**COMMAND, "timeout": "90s"})
    lay_out(tmp_path, sweep, "few/lr=0.1,fold=0", "124")
    lay_out(tmp_path, sweep, "few/lr=0.1,fold=1", "base failed")
    reasons = [cell.reason for cell in gather([tmp_path], sweep).cells[:2]]
    assert reasons == ["timeout: it took longer than 90 s", "base failed"]


def test_of_several_results_the_one_that_succeeded_counts(tmp_path: Path) -> None:
    sweep = sweep_of(COMMAND)
    name = "few/lr=0.1,fold=0"
    for folder, code, accuracy in (("a", "1", 0.0), ("b", "0", 0.5), ("c", "0", 0.7)):
        lay_out(tmp_path / folder, sweep, name, code, accuracy=accuracy)
    brought = gather([tmp_path / folder for folder in "abc"], sweep)
    assert brought.cells[0].metrics == {"accuracy": 0.5}
    assert len(brought.missing) == 3
    assert brought.notes == ()


def test_results_of_other_sweeps_and_broken_ones_are_left_out_with_a_word(tmp_path: Path) -> None:
    sweep = sweep_of(COMMAND)
    lay_out(tmp_path, sweep, "few/lr=0.1,fold=0", "0", accuracy=0.5)
    other = sweep_of({**COMMAND, "name": "other"})
    lay_out(tmp_path / "other", other, "other/lr=0.1,fold=0", "0", accuracy=0.9)
    changed = sweep_of({**COMMAND, "priority": 3})
    lay_out(tmp_path, changed, "few/lr=0.1,fold=1", "0", accuracy=0.6)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "cell.json").write_text("[" * 10_000)
    brought = gather([tmp_path], sweep)
    assert len(brought.missing) == 2
    notes = "\n".join(brought.notes)
    assert "1 results are of other" in notes
    assert f"{broken}/cell.json can't be read" in notes
    assert f"of several states of the job file, its code or its data: {sweep.sweep_id}" in notes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--from", "."), "--from needs the sweep's job file"),
        (("few.json", "--from", ".", "--folder", "."), "give one of them"),
        (("few.json", "--from", "nowhere"), "is no folder"),
        (("nothing.yaml", "--from", "."), "can't be read"),
    ],
)
def test_wrong_use_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    written(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = run(None, "results", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize(
    "tree",
    [
        {**COMMAND, "code": ".", "base": {"command": "x", "code": ["a.py", "models/", "./b/c.py"]}},
        {**COMMAND, "inputs": {"data": "pascal5i", "more": {"path": "/mnt/coco"}}},
        {**COMMAND, "base": {"command": "x {from}", "from": "aaaa"}},
        {
            "base": {"participants": ["a"], "from": "aaaa"},
            "target": {"mode": "full_fine_tuning", "participant": "b"},
            "data": {"folder": "/data"},
            "matrix": {"base.model": ["cnn"], "fold": [0, 1]},
        },
    ],
)
def test_a_file_is_merged_where_nothing_that_it_names_is_there(tree: dict[str, Any]) -> None:
    sweep = sweep_of(tree)
    assert sweep.jobs
    assert len(gather([], sweep).missing) == len(sweep.jobs)
