"""What jobs and bases of a sweep are told, beside what the examples show."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshtrain.errors import UserError
from meshtrain.spec.expand import CodeDigests, Digests, Needed, expand, needed
from meshtrain.spec.jobfile import JobFile, JobFileError, parse_job_file
from meshtrain.spec.jobs import BudgetSpec, CommandWork, SweepSpec

FOLDER: dict[str, Any] = {
    "data": {"folder": "/data/people"},
    "base": {"participants": ["a", "b"], "model": "cnn"},
    "target": {"mode": "full_fine_tuning", "participant": "c"},
}


def parse(tree: Any) -> JobFile:
    return parse_job_file(json.dumps(tree).encode(), "x.json")


def sweep_of(tree: Any, **options: Any) -> SweepSpec:
    return expand(parse(tree), Digests(), **options)


def test_what_a_command_job_is_told() -> None:
    tree = {
        "command": "run {shots} {note} --init {base} --out {output}",
        "code": ".",
        "params": {"note": "it's {shots}"},
        "env": {"SHOTS": "{shots}", "FLAG": True},
        "base": {
            "command": "make {width} {output}",
            "params": {"width": "{width}"},
            "checkpoint_every": "5m",
            "resources": {"gpus": 2},
            "timeout": "1h",
        },
        "matrix": {"shots": [5], "width": [0.5, 1]},
        "resources": {"gpus": 1, "gpu_memory": "12GB"},
        "timeout": "30s",
        "retries": 0,
        "priority": 7,
        "results": {"file": "out/r.json"},
    }
    job_file = parse_job_file(json.dumps(tree).encode(), "x.json")
    sweep = expand(job_file, Digests(code={".": CodeDigests("c" * 32, {"a.py": "d"})}))
    job, base = sweep.jobs[0], sweep.bases[0]
    assert job.work == CommandWork(
        command="run 5 'it'\"'\"'s 5' --init {base} --out {output}",
        code="c" * 32,
        env={"SHOTS": "5", "FLAG": "true"},
        result_file="out/r.json",
    )
    assert (job.resources.gpus, job.resources.gpu_memory_bytes) == (1, 12_000_000_000)
    assert (job.limits.timeout_s, job.limits.retries_max, job.priority) == (30.0, 0, 7)
    assert base.work == CommandWork(command="make 0.5 {output}", code="c" * 32)
    assert (base.resources.gpus, base.limits.timeout_s) == (2, 3600.0)
    assert base.recipe["params"] == {"width": 0.5}
    assert len(sweep.bases) == 2


@pytest.mark.parametrize(
    ("written", "in_base", "job_every_s", "base_every_s"),
    [
        ({}, {}, None, None),
        ({"checkpoint_every": "10m"}, {}, 600.0, 600.0),
        ({}, {"checkpoint_every": "30s"}, None, 30.0),
        ({"checkpoint_every": "10m", "user": "lab"}, {"checkpoint_every": 30}, 600.0, 30.0),
    ],
)
def test_how_often_a_checkpoint_is_kept_and_as_whom_it_runs(
    written: dict[str, Any],
    in_base: dict[str, Any],
    job_every_s: float | None,
    base_every_s: float | None,
) -> None:
    command = {"command": "a", "base": {"command": "b", **in_base}, **written}
    people = {"participants": ["p01"], "model": "cnn", **in_base}
    target = {"mode": "full_fine_tuning", "participant": "p02"}
    training = {"base": people, "target": target, **written}
    for tree, default_s in ((command, None), (training, 300.0)):
        sweep = sweep_of(tree)
        (job,), (base,) = sweep.jobs, sweep.bases
        assert job.limits.checkpoint_every_s == (job_every_s or default_s)
        assert base.limits.checkpoint_every_s == (base_every_s or default_s)
        assert job.limits.user == base.limits.user == written.get("user")
        plain = {key: value for key, value in tree.items() if key not in written}
        plain["base"] = {
            key: value for key, value in tree["base"].items() if key != "checkpoint_every"
        }
        assert sweep_of(plain).bases[0].recipe_hash == base.recipe_hash


def test_entries_of_a_flat_list_keep_checkpoints_too() -> None:
    run = {"mode": "full_fine_tuning", "participants": ["p01"], "model": "cnn"}
    sweep = sweep_of([{**run, "target_participant": "p02"}])
    assert {item.limits.checkpoint_every_s for item in (*sweep.jobs, *sweep.bases)} == {300.0}


def test_data_in_a_folder_is_asked_for_and_what_is_missing_is_told() -> None:
    job_file = parse({**FOLDER, "matrix": {"participant": ["c", "d"]}})
    assert needed(job_file) == Needed(data_folder="/data/people", participants=("a", "b", "c", "d"))
    with pytest.raises(JobFileError) as caught:
        expand(job_file, Digests(data={"a": "0", "c": "0"}))
    assert [(problem.path, problem.text) for problem in caught.value.problems] == [
        (("base", "participants", 1), "no data: /data/people/b.npz is not there"),
        (("matrix", "participant", 1), "no data: /data/people/d.npz is not there"),
    ]


def test_code_that_is_not_in_the_snapshot_is_told() -> None:
    job_file = parse({"code": ".", "base": {"command": "x", "code": ["train_bse.py", "models/"]}})
    files = {"train_base.py": "0", "models": "a file, no folder"}
    with pytest.raises(JobFileError) as caught:
        expand(job_file, Digests(code={".": CodeDigests("c", files)}))
    assert [problem.text for problem in caught.value.problems] == [
        'no such file or folder in the snapshot of .; did you mean "train_base.py"?',
        'no such file or folder in the snapshot of .; did you mean "models"?',
    ]


def test_bases_only_keeps_the_bases_and_leaves_the_jobs_out() -> None:
    tree = {key: value for key, value in FOLDER.items() if key != "data"}
    whole, bases = sweep_of(tree), sweep_of(tree, bases_only=True)
    assert bases.jobs == ()
    assert bases.bases == whole.bases
    assert bases.sweep_id != whole.sweep_id
    with pytest.raises(UserError, match="starts from no base"):
        sweep_of({"command": "true"}, bases_only=True)


def test_other_code_or_other_data_is_another_sweep() -> None:
    job_file = parse(FOLDER)
    digests = {"a": "0", "b": "0", "c": "0"}
    one, other = (
        expand(job_file, Digests(data={**digests, "c": last})).sweep_id for last in ("0", "1")
    )
    assert one != other
    job_file = parse({"command": "true", "code": "."})
    one, other = (
        expand(job_file, Digests(code={".": CodeDigests(artifact)})).sweep_id
        for artifact in ("1", "2")
    )
    assert one != other


def test_references_follow_the_axes_that_change_what_they_compare() -> None:
    tree = {
        "base": {"participants": ["a"], "model": "cnn"},
        "target": {"mode": "full_fine_tuning"},
        "matrix": {
            "participant": ["x", "y"],
            "base.seed": [0, 1],
            "target_batch_pct": [0.2, 0.8],
            "seed": [5, 6],
            "fold": [0, 1],
        },
        "references": ["base_alone", "target_only"],
        "results": {"over": ["seed", "fold"]},
    }
    sweep = sweep_of(tree)
    alone = [job.cell for job in sweep.jobs if job.group == "base alone"]
    scratch = [job.cell for job in sweep.jobs if job.group == "target only"]
    assert [set(cell) for cell in alone] == [{"participant", "base.seed", "fold"}] * 8
    assert [set(cell) for cell in scratch] == [{"participant", "base.seed", "seed", "fold"}] * 16
    assert len(sweep.jobs) == 32 + 8 + 16
    assert len(sweep.bases) == 2


def test_affinity_names_axes_and_makes_groups() -> None:
    tree = {
        "command": "run {dataset} {fold}",
        "matrix": {"dataset": ["a", "b"], "fold": [0, 1]},
        "affinity": ["dataset"],
    }
    assert [job.affinity for job in sweep_of(tree).jobs] == [
        "dataset=a",
        "dataset=a",
        "dataset=b",
        "dataset=b",
    ]
    assert {job.affinity for job in sweep_of({**tree, "affinity": []}).jobs} == {""}
    with pytest.raises(JobFileError, match=r'affinity\[0\]   "datasett" is no axis.*did you mean'):
        parse({**tree, "affinity": ["datasett"]})
    many = {**tree, "matrix": {"dataset": list(range(1001))}, "command": "run {dataset}"}
    with pytest.raises(JobFileError, match="1,001 groups of jobs; at most 1,000"):
        sweep_of({**many, "affinity": "dataset"})


def test_a_sweep_names_labels_of_its_nodes_and_what_it_may_use() -> None:
    tree = {
        "name": "s",
        "command": "echo {x}",
        "matrix": {"x": [1]},
        "resources": {"gpus": 1, "labels": {"zone": "cellar", "gpu": "a100"}},
        "budget": {"gpu_hours": 20, "money": 12.5},
    }
    sweep = sweep_of(tree)
    assert sweep.budget == BudgetSpec(gpu_hours=20.0, money=12.5)
    assert sweep.jobs[0].resources.labels == (("gpu", "a100"), ("zone", "cellar"))
    assert sweep_of({**tree, "budget": {}}).budget == BudgetSpec()
    for key, value, told in (
        ("budget", {"gpu_hours": 0}, "above 0"),
        ("budget", {"gpu_hour": 3}, 'did you mean "gpu_hours"'),
        ("budget", {"money": "ten"}, "not a number"),
        ("resources", {"labels": ["gpu"]}, "expected labels such as"),
        ("resources", {"labels": {"g p u": "a100"}}, "not a name"),
    ):
        with pytest.raises(JobFileError, match=told):
            parse({**tree, key: value})


def test_a_reference_is_of_the_group_that_its_axes_make() -> None:
    tree = {
        "base": {"participants": ["a"], "model": "cnn"},
        "target": {"mode": "full_fine_tuning", "participant": "b"},
        "matrix": {"base.lr": [0.1, 0.2], "fold": [0, 1]},
        "references": ["base_alone"],
        "results": {"over": "fold"},
        "affinity": ["base.lr", "target_batch_pct"],
    }
    with pytest.raises(JobFileError, match=r"affinity\[1\]"):
        parse(tree)
    sweep = sweep_of({**tree, "affinity": ["base.lr"]})
    groups = {(job.group, job.affinity) for job in sweep.jobs}
    assert groups == {(row, f"base.lr={lr}") for row in ("", "base alone") for lr in (0.1, 0.2)}
