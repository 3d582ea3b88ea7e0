"""`plan` and `submit`, and what a submission carries."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli_double import out, run
from master_double import MasterDouble, user_error

import meshtrain.cli.submit as submit_module
from meshtrain.cli.submission import prepare
from meshtrain.errors import UserError
from meshtrain.spec.jobfile import JobFileError
from meshtrain.wire import messages as msg

SWEEP: dict[str, Any] = {
    "name": "batch",
    "base": {"participants": ["p01", "p02"], "model": "cnn", "lr": 0.001},
    "target": {"mode": "full_fine_tuning", "participant": "p07"},
    "matrix": {"target_batch_pct": [0.1, 0.25, 0.5, 0.75, 0.9], "fold": [0, 1, 2]},
    "results": {"metric": "accuracy", "over": "fold"},
}


def written(folder: Path, name: str = "batch.json", **changes: Any) -> str:
    path = folder / name
    path.write_bytes(msgspec.json.encode(SWEEP | changes))
    return str(path)


@pytest.fixture
def master() -> MasterDouble:
    master = MasterDouble()
    master.add_node("node-1", cpu_slots=4)
    return master


# --- plan -----------------------------------------------------------------------------


def test_the_plan_of_an_untouched_mesh(master: MasterDouble, tmp_path: Path) -> None:
    file = written(tmp_path)
    text = out(master, "plan", file, "--base-hours", "2", "--job-hours", "1")
    assert text.startswith("batch: 15 jobs on 1 base model\n")
    assert "15 fine-tunes   target_batch_pct × fold = 5 × 3" in text
    assert "16 instead of 30 (14 base trainings avoided)" in text
    assert "17 h instead of 45 h (62% saved)\n" in text
    assert "\n                  from --base-hours 2 --job-hours 1\n" in text
    assert max(map(len, text.splitlines()[:-1])) <= 80
    # 2 h for the base, then 15 jobs on 4 slots.
    assert "about 6 h on 4 free CPU slots" in text
    assert text.endswith(f"Nothing was started. Start it: meshtrain submit {file}\n")
    assert not any(isinstance(request, msg.Submit) for request in master.requests)


def test_the_plan_as_json(master: MasterDouble, tmp_path: Path) -> None:
    file = written(tmp_path)
    plan = json.loads(out(master, "plan", file, "--base-hours", "2", "--job-hours", "1", "--json"))
    assert (plan["sweep"], plan["jobs"]) == ("batch", 15)
    assert [(base["jobs"], base["cached"]) for base in plan["bases"]] == [(15, False)]
    assert len(plan["bases"][0]["hash"]) == 32
    assert (plan["base_trainings_avoided"], plan["compute_saved_pct"]) == (14, 62.2)
    assert json.loads(out(master, "plan", file, "--json"))["compute_saved_pct"] is None


def test_what_ran_before_makes_the_plan_know(master: MasterDouble, tmp_path: Path) -> None:
    out(master, "submit", written(tmp_path))
    master.run_all()
    again = written(tmp_path, "more.json", matrix={"target_batch_pct": [0.3], "fold": [0, 1]})
    text = out(master, "plan", again)
    assert "cached: it is there" in text
    assert "2 instead of 4 (2 base trainings avoided)" in text
    assert "from 15 earlier runs" in text
    assert "disk            about 100 MB" in text
    other = written(tmp_path, "other.json", base={**SWEEP["base"], "lr": 0.002})
    plan = out(master, "plan", other)
    known = json.loads(out(master, "bases", "--json"))[0]["recipe_hash"]
    assert f"new: {known[:4]}…{known[-3:]} with lr: 0.001 -> 0.002" in plan


def test_a_plan_needs_no_master_and_says_so(tmp_path: Path) -> None:
    text = out(None, "plan", written(tmp_path), "--base-hours", "2", "--job-hours", "1")
    assert "17 h instead of 45 h" in text
    assert "No master answered" in text
    assert "to finish" not in text
    assert json.loads(out(None, "plan", written(tmp_path), "--json"))["master_away"]


def test_a_plan_of_many_bases_stays_short(master: MasterDouble, tmp_path: Path) -> None:
    rates = [round(0.001 + 0.0001 * n, 4) for n in range(40)]
    file = written(tmp_path, matrix={"base.lr": rates, "fold": [0, 1]})
    text = out(master, "plan", file)
    assert "… and 28 more bases, 0 of them there" in text
    assert "matrix          base.lr × fold = 40 × 2" in text
    too_long = [line for line in text.splitlines() if len(line) > 80 and "Start it" not in line]
    assert too_long == []


def test_all_problems_of_a_job_file_are_told(master: MasterDouble, tmp_path: Path) -> None:
    file = written(
        tmp_path,
        base={**SWEEP["base"], "lerning_rate": 1},
        matrix={"target_batch_pct": [0.1, 1.5], "fold": [0, 1]},
    )
    for command in ("plan", "submit"):
        result = run(master, command, file)
        assert result.exit_code == 2
        assert "2 problems. Nothing was started." in result.stderr
        assert "1.5 is not a share" in result.stderr
    assert master.state.sweeps == {}


def test_a_file_that_is_none(master: MasterDouble, tmp_path: Path) -> None:
    absent = run(master, "submit", str(tmp_path / "absent.yaml"))
    assert absent.exit_code == 2
    assert "can't be read" in absent.stderr
    (tmp_path / "abzent.yaml").touch()
    near = run(master, "submit", str(tmp_path / "absent.yaml"))
    assert f'did you mean "{tmp_path / "abzent.yaml"}"?' in near.stderr
    (tmp_path / "abzent.yaml").unlink()
    written(tmp_path)
    folder = run(master, "submit", str(tmp_path))
    assert folder.exit_code == 2
    assert "it holds batch.json" in folder.stderr


# --- submit -----------------------------------------------------------------------------


def test_the_receipt(master: MasterDouble, tmp_path: Path) -> None:
    text = out(master, "submit", written(tmp_path))
    (sweep_id,) = master.state.sweeps
    (recipe_hash,) = master.state.bases
    assert f"sweep    {sweep_id}\njobs     15 on 1 base model\n" in text
    assert f"base     {recipe_hash[:4]}…{recipe_hash[-3:]}  new     cnn · p01 p02" in text
    assert "results  /var/lib/meshtrain/results/batch" in text
    assert f"meshtrain cancel {sweep_id}" in text
    more = written(tmp_path, "more.json", matrix={"target_batch_pct": [0.3], "fold": [0]})
    assert "  reused  " in out(master, "submit", more)


def test_what_a_receipt_says_to_do_next_can_be_done(master: MasterDouble, tmp_path: Path) -> None:
    """Also of jobs whose names are wider than the terminal."""
    axes = {"target_batch_pct": [0.123456789], "target_data_pct": [0.987654321], "fold": [0, 1]}
    text = out(master, "submit", written(tmp_path, matrix=axes))
    assert "--watch" in text
    name = text.partition("meshtrain logs -f '")[2].partition("'")[0]
    assert name in {job.name for job in master.state.jobs.values()}


def test_the_receipt_as_json(master: MasterDouble, tmp_path: Path) -> None:
    receipt = json.loads(out(master, "submit", written(tmp_path), "--json"))
    (sweep,) = master.state.sweeps.values()
    assert receipt == {
        "sweep_id": sweep.sweep_id,
        "sweep": "batch",
        "jobs": 15,
        "bases": [{"hash": sweep.recipe_hashes[0], "reused": False}],
        "results": "/var/lib/meshtrain/results/batch",
        "notes": [],
        "code": [],
        "inputs": [],
    }


def test_the_same_file_is_one_sweep_unless_again(master: MasterDouble, tmp_path: Path) -> None:
    file = written(tmp_path)
    out(master, "submit", file)
    assert "note     it was submitted before" in out(master, "submit", file)
    assert len(master.state.sweeps) == 1
    out(master, "submit", file, "--again")
    assert len(master.state.sweeps) == 2


def test_bases_alone(master: MasterDouble, tmp_path: Path) -> None:
    text = out(master, "submit", written(tmp_path), "--bases-only")
    assert "bases    1 base model, no job" in text
    master.run_all()
    assert [str(base.state) for base in master.state.bases.values()] == ["committed"]
    assert all(job.sweep_id is None for job in master.state.jobs.values())


def test_what_no_node_could_run_is_refused(master: MasterDouble, tmp_path: Path) -> None:
    file = written(tmp_path, resources={"gpus": 2})
    result = run(master, "submit", file)
    assert result.exit_code == 2
    assert "no known node could ever run" in result.stderr
    assert "note     no known node" in out(master, "submit", file, "--allow-pending")


def test_waiting_ends_with_the_outcome(master: MasterDouble, tmp_path: Path) -> None:
    master.outcome = lambda job: {"accuracy": 0.875}
    result = run(master, "submit", written(tmp_path), "--wait")
    assert result.exit_code == 0
    assert "1/15 succeeded  batch/" in result.stdout
    assert "15/15 succeeded  batch/" in result.stdout
    assert "accuracy 0.875" in result.stdout
    assert "trained on node-1 in 1 min" in result.stdout
    assert "15 jobs succeeded" in result.stderr


def test_waiting_for_what_fails_exits_1(master: MasterDouble, tmp_path: Path) -> None:
    master.outcome = lambda job: (
        user_error("bad fold") if job.spec.cell["fold"] == 1 else {"accuracy": 0.5}
    )
    result = run(master, "submit", written(tmp_path), "--wait", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["jobs"] == 15
    assert "5 of 15 jobs failed" in result.stderr
    assert "user error: bad fold" in result.stderr


def test_waiting_for_bases_alone(master: MasterDouble, tmp_path: Path) -> None:
    result = run(master, "submit", written(tmp_path), "--bases-only", "--wait")
    assert result.exit_code == 0
    assert "bases are there" in result.stderr


# --- code and data -----------------------------------------------------------------------


def command_sweep(folder: Path) -> str:
    (folder / "models").mkdir()
    (folder / "train.py").write_text("print('base')\n")
    (folder / "models" / "net.py").write_text("net = 1\n")
    path = folder / "few.yaml"
    path.write_text(
        "name: few\n"
        "code: .\n"
        "base:\n"
        "  command: python train.py --out {output}\n"
        "  code: [train.py, models/]\n"
        "command: python run.py {fold} --init {base} --out {output}\n"
        "matrix: {fold: [0, 1]}\n"
    )
    return str(path)


def test_code_travels_as_a_snapshot(
    master: MasterDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = command_sweep(tmp_path)
    uploaded = []

    async def take(submission: Any, url: str, standing: object, shows: object) -> None:
        uploaded.append((submission.snapshots["."].files, url))

    monkeypatch.setattr(submit_module, "upload", take)
    assert f"snapshot of {tmp_path}/" in out(master, "plan", file)
    monkeypatch.chdir(tmp_path)
    assert "snapshot of ./" in out(master, "plan", Path(file).name)
    assert uploaded == []
    text = out(master, "submit", file)
    assert uploaded == [(("few.yaml", "models/net.py", "train.py"), "http://127.0.0.1:7473")]
    assert "in 3 files" in text
    submit = next(r for r in master.requests if isinstance(r, msg.Submit))
    code = submit.code["."]
    job = next(iter(master.state.sweeps.values())).job_ids[0]
    assert master.state.jobs[job].spec.work.code == code.artifact_id
    assert set(code.files) == {"few.yaml", "models/net.py", "train.py"}


def test_the_plan_says_which_code_makes_a_base_anew(master: MasterDouble, tmp_path: Path) -> None:
    text = out(master, "plan", command_sweep(tmp_path))
    assert "base is made again when train.py and models/ change" in text
    before = json.loads(out(master, "plan", str(tmp_path / "few.yaml"), "--json"))
    (tmp_path / "other.py").write_text("x = 1\n")
    after = json.loads(out(master, "plan", str(tmp_path / "few.yaml"), "--json"))
    assert before["bases"] == after["bases"]
    (tmp_path / "models" / "net.py").write_text("net = 2\n")
    changed = json.loads(out(master, "plan", str(tmp_path / "few.yaml"), "--json"))
    assert changed["bases"][0]["hash"] != before["bases"][0]["hash"]


def test_a_plan_without_bases_asks_for_no_time_of_theirs(
    master: MasterDouble, tmp_path: Path
) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text("name: plain\ncommand: 'true'\nmatrix: {fold: [0, 1]}\n")
    text = out(master, "plan", str(path))
    assert "not known before any run: say --job-hours\n" in text
    assert "--base-hours" not in text


def test_data_is_digested_where_it_lies(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("p01", "p02", "p07"):
        (data / f"{name}.npz").write_bytes(name.encode())
    file = Path(written(tmp_path, data={"folder": str(data)}))
    submission = prepare(file)
    assert set(submission.data_digests) == {"p01", "p02", "p07"}
    first = submission.sweep().bases[0].recipe_hash
    (data / "p01.npz").write_bytes(b"other")
    assert prepare(file).sweep().bases[0].recipe_hash != first
    (data / "p07.npz").unlink()
    with pytest.raises(JobFileError, match=r"p07\.npz is not there"):
        prepare(file).sweep()


def test_code_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "few.yaml"
    file.write_text("command: python run.py --out {output}\ncode: absent\n")
    with pytest.raises(UserError, match="absent is no folder"):
        prepare(file)


def test_code_is_found_beside_the_file_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(command_sweep(tmp_path))
    monkeypatch.chdir(os.sep)
    assert prepare(file).snapshots["."].folder == tmp_path.resolve()
