"""The flat list: which entries share a base, what each run is told, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshtrain.spec.expand import Digests, expand, needed
from meshtrain.spec.forms import FlatJob
from meshtrain.spec.jobfile import JobFileError, parse_job_file
from meshtrain.spec.jobs import SweepSpec, TrainingWork

ENTRY: dict[str, Any] = {
    "mode": "full_fine_tuning",
    "participants": ["w01", "w02"],
    "target_participant": "w07",
    "model": "cnn",
    "batch_size": 32,
    "lr": 0.01,
    "augmentation": "shift",
}


def sweep_of(*entries: dict[str, Any]) -> SweepSpec:
    job_file = parse_job_file(json.dumps(entries).encode(), "runs.json")
    assert needed(job_file).code == needed(job_file).participants == ()
    return expand(job_file, Digests())


def config_of(sweep: SweepSpec, index: int = 0) -> dict[str, Any]:
    work = sweep.jobs[index].work
    assert isinstance(work, TrainingWork)
    return work.config


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "target_only_fine_tuning"},
        {"target_participant": "w08"},
        {"fold": 1},
        {"target_batch_pct": 0.25},
        {"target_data_pct": 0.5},
        {"prefix": "mine"},
        {"device": "1"},
        {"participants": ["w02", "w01"], "fold": 2},
        {"batch_size": 32.0, "lr": 1e-2, "fold": 2},
    ],
)
def test_entries_of_one_recipe_share_their_base(change: dict[str, Any]) -> None:
    sweep = sweep_of(ENTRY, {**ENTRY, **change})
    assert len(sweep.jobs) == 2
    (base,) = sweep.bases
    assert {job.recipe_hash for job in sweep.jobs} == {base.recipe_hash}


@pytest.mark.parametrize(
    "change",
    [
        {"participants": ["w01", "w03"]},
        {"model": "mlp"},
        {"batch_size": 33},
        {"lr": 0.011},
        {"augmentation": "none"},
    ],
)
def test_entries_of_two_recipes_have_two_bases(change: dict[str, Any]) -> None:
    sweep = sweep_of(ENTRY, {**ENTRY, **change})
    assert len({job.recipe_hash for job in sweep.jobs}) == len(sweep.bases) == 2


def test_a_list_and_a_sweep_of_one_recipe_share_their_base() -> None:
    keys = ("participants", "model", "batch_size", "lr", "augmentation")
    tree = {"base": {key: ENTRY[key] for key in keys}}
    (base,) = expand(parse_job_file(json.dumps(tree).encode(), "x.json"), Digests()).bases
    assert [base.recipe_hash] == [other.recipe_hash for other in sweep_of(ENTRY).bases]


def test_a_run_inherits_from_its_base_and_says_the_rest_itself() -> None:
    entry = {**ENTRY, "fold": 2, "target_batch_pct": 0.9, "target_data_pct": 0.1}
    config = config_of(sweep_of({**entry, "prefix": "mixed", "device": "cuda:0,1"}))
    told = {key: config[key] for key in ("model", "batch_size", "lr", "augmentation", "fold")}
    assert told == {
        "model": "cnn", "batch_size": 32, "lr": 0.01, "augmentation": "shift", "fold": 2
    }  # fmt: skip
    assert (config["target"], config["target_batch_pct"]) == ("w07", 0.9)
    assert (config["target_data_pct"], config["prefix"]) == (0.1, "mixed")
    assert config["device"] == "0,1"
    assert set(config["data_digests"]) == {"w01", "w02", "w07"}


def test_base_only_entries_are_bases_and_no_jobs() -> None:
    sweep = sweep_of({**ENTRY, "mode": "base_only"}, ENTRY, {**ENTRY, "mode": "base_only"})
    assert len(sweep.jobs) == len(sweep.bases) == 1
    alone = sweep_of({**ENTRY, "mode": "base_only"})
    assert alone.jobs == ()
    assert [base.recipe_hash for base in alone.bases] == [sweep.bases[0].recipe_hash]


def test_target_only_starts_from_scratch() -> None:
    sweep = sweep_of({"mode": "target_only", "target_participant": "w07", "model": "mlp"})
    assert sweep.bases == ()
    assert sweep.jobs[0].recipe_hash is None
    assert config_of(sweep)["participants"] == []
    assert set(config_of(sweep)["data_digests"]) == {"w07"}


def test_names_hold_what_differs() -> None:
    names = [job.name for job in sweep_of({**ENTRY, "fold": 0}, {**ENTRY, "fold": 1}).jobs]
    assert names == ["runs/fold=0", "runs/fold=1"]
    assert [job.name for job in sweep_of(ENTRY).jobs] == ["runs/1"]


@pytest.mark.parametrize("key", ["epochs", "seed", "data", "base", "target", "matrix", "x"])
def test_unknown_keys_are_refused(key: str) -> None:
    with pytest.raises(JobFileError) as caught:
        sweep_of(ENTRY, {**ENTRY, "fold": 1, key: 1})
    (problem,) = caught.value.problems
    assert problem.path == (1, key)
    assert problem.text.startswith("unknown key; ")


def test_every_entry_is_told_its_own_problems() -> None:
    text = """[
  {"mode": "full_fine_tuning", "participants": ["a"], "model": "cnn"},
  {"mode": "base_only", "participants": ["a"], "model": "cnn", "lr": true},
  {"mode": "target_only", "target_participant": "b", "model": "cnn", "fold": 5}
]"""
    with pytest.raises(JobFileError) as caught:
        parse_job_file(text.encode(), "runs.json")
    assert str(caught.value).splitlines()[2:5] == [
        "  line 2, column 3   [0].target_participant   missing: whose model is wanted",
        "  line 3, column 70  [1].lr   true is not a number",
        "  line 4, column 78  [2].fold   fold 5: there are 5 folds, counted from 0",
    ]


def test_all_keys_of_an_entry_are_those_that_are_promised() -> None:
    assert list(FlatJob.model_fields) == [
        "mode", "participants", "target_participant", "model", "batch_size", "lr",
        "augmentation", "fold", "target_batch_pct", "target_data_pct", "prefix", "device",
    ]  # fmt: skip
