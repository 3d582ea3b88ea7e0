"""The examples that come with meshtrain: what each comes to, and that its scripts run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from meshtrain.ids import digest
from meshtrain.spec.expand import CodeDigests, Digests, expand, needed
from meshtrain.spec.jobfile import parse_job_file
from meshtrain.spec.jobs import CommandWork, InputData, SweepSpec, TrainingWork
from meshtrain.spec.lineage import Parent, ResolvedParent
from meshtrain.spec.recipe import recipe_hash

EXAMPLES = Path(__file__).parents[2] / "configs" / "examples"
FILES = sorted(
    str(path.relative_to(EXAMPLES))
    for suffix in ("yaml", "json", "toml")
    for path in EXAMPLES.rglob(f"*.{suffix}")
)
COUNTS = {
    "batch_by_data.yaml": (25, 0, 1),
    "batch_composition.yaml": (15, 9, 1),
    "continued.yaml": (6, 0, 1),
    "few_shot/sweep.yaml": (32, 0, 2),
    "flat_list.json": (4, 0, 1),
    "inputs/sweep.yaml": (6, 0, 0),
    "resumable/sweep.yaml": (9, 0, 0),
    "seeds.toml": (11, 4, 2),
    "target_data_amount.yaml": (20, 5, 1),
}
"""File → jobs of the matrix, reference runs, bases."""
CLAIMS = re.compile(r"([0-9]+) (fine-tunes|runs to compare|tests of|base models)")
CLAIMED = {"fine-tunes": 0, "runs to compare": 1, "tests of": 1, "base models": 2}


def code_below(folder: Path) -> CodeDigests:
    """The digests of a folder's files."""
    files = {
        path.relative_to(folder).as_posix(): digest(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }
    return CodeDigests(digest(repr(files).encode()), files)


def sweep_of(name: str) -> SweepSpec:
    path = EXAMPLES / name
    job_file = parse_job_file(path.read_bytes(), path.name)
    wanted = needed(job_file)
    code = {folder: code_below(path.parent / folder) for folder in wanted.code}
    parents = {}
    if wanted.parent is not None:
        pin = Parent(wanted.parent.ljust(32, "0"), "a" * 32)
        parents[wanted.parent] = ResolvedParent(pin, "cnn", True, "cnn", ("w01", "w02"))
    inputs = {name: InputData(f"{name}@1", digest(name.encode())) for name in wanted.inputs}
    return expand(job_file, Digests(code=code, parents=parents, inputs=inputs))


def configs_of(sweep: SweepSpec) -> list[dict[str, Any]]:
    return [job.work.config for job in sweep.jobs if isinstance(job.work, TrainingWork)]


def test_every_example_is_counted_here() -> None:
    assert sorted(COUNTS) == FILES


@pytest.mark.parametrize("name", FILES)
def test_an_example_comes_to_what_its_comments_say(name: str) -> None:
    sweep = sweep_of(name)
    references = [job for job in sweep.jobs if job.group]
    counts = (len(sweep.jobs) - len(references), len(references), len(sweep.bases))
    assert counts == COUNTS[name]
    assert len({job.name for job in sweep.jobs}) == len(sweep.jobs)
    assert len({job.job_id for job in sweep.jobs}) == len(sweep.jobs)
    for base in sweep.bases:
        assert recipe_hash(base.recipe) == base.recipe_hash
    known = {base.recipe_hash for base in sweep.bases}
    assert {job.recipe_hash for job in sweep.jobs} - {None} == known
    written = " ".join((EXAMPLES / name).read_text().replace("# ", " ").split())
    for count, words in CLAIMS.findall(written.split("name:")[0]):
        assert int(count) == counts[CLAIMED[words]], f"{name} claims {count} {words}"


GOLDEN_RECIPE_HASH = "2cb09df0a781d509282e06bd9664a834"


def test_the_recipe_hash_of_the_demo_is_golden() -> None:
    """It changes only with TRAINER_VERSION, DIGITS_VERSION, RECIPE_VERSION or a default."""
    for name in ("batch_composition.yaml", "batch_by_data.yaml", "target_data_amount.yaml"):
        (base,) = sweep_of(name).bases
        assert base.recipe_hash == GOLDEN_RECIPE_HASH
        assert base.label == "cnn · w01 w02 w03 w04 w05 w06 · batch 64 · lr 0.001 · shift"


def test_the_demo_asks_what_it_says() -> None:
    sweep = sweep_of("batch_composition.yaml")
    assert sweep.results.metric == "accuracy"
    assert sweep.results.over == ("fold",)
    assert sweep.jobs[4].name == "batch_composition/target_batch_pct=0.25,fold=1"
    assert sweep.jobs[4].cell == {"target_batch_pct": 0.25, "fold": 1}
    assert [job.name.split("/", 1)[1] for job in sweep.jobs if job.group] == [
        f"{row}/fold={fold}"
        for row in ("base_alone", "target_only", "target-only_tuning")
        for fold in (0, 1, 2)
    ]
    for job, config in zip(sweep.jobs, configs_of(sweep), strict=True):
        assert (config["target"], config["target_data_pct"]) == ("w08", 0.2)
        assert (config["folds"], config["epochs"], config["fold"]) == (3, 2, job.cell["fold"])
        assert (config["model"], config["augmentation"]) == ("cnn", "shift")
        from_base = config["mode"] != "target_only"
        assert (config["recipe"] is not None) == from_base
        if from_base:
            assert recipe_hash(config["recipe"]) == job.recipe_hash
        assert job.recipe_hash == (GOLDEN_RECIPE_HASH if from_base else None)
        mixes = config["mode"] == "full_fine_tuning"
        assert config["target_batch_pct"] == (job.cell["target_batch_pct"] if mixes else None)


def test_the_base_alone_is_tested_once_and_not_once_a_seed() -> None:
    references = [job for job in sweep_of("seeds.toml").jobs if job.group == "base alone"]
    assert [job.cell for job in references] == [
        {"base.lr": lr, "fold": fold} for lr in (0.001, 0.003) for fold in (0, 1)
    ]
    assert len({job.recipe_hash for job in references}) == 2


def test_a_few_shot_base_hangs_on_its_own_code_alone() -> None:
    """An edit of src/replicate.py makes no base anew; one of models/ makes both."""
    path = EXAMPLES / "few_shot" / "sweep.yaml"
    job_file = parse_job_file(path.read_bytes(), path.name)
    code = code_below(path.parent)

    def hashes(**edits: str) -> list[str]:
        edited = CodeDigests(code.artifact_id, {**code.files, **edits})
        return [base.recipe_hash for base in expand(job_file, Digests(code={".": edited})).bases]

    before = hashes()
    assert hashes(**{"src/replicate.py": "0"}) == before
    assert not set(hashes(**{"models/scenes.py": "0"})) & set(before)
    assert not set(hashes(**{"train_base.py": "0"})) & set(before)


def run(command: str, **folders: Path) -> str:
    from meshtrain.spec.placeholders import fill_on_node

    line = fill_on_node(command, {k: str(v) for k, v in folders.items()}, for_shell=True)
    line = line.replace("python3", f"{sys.executable} -B", 1)
    told = subprocess.run(
        ["/bin/sh", "-c", line], cwd=EXAMPLES / "few_shot", capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_the_few_shot_scripts_run_and_write_what_the_sweep_reads(tmp_path: Path) -> None:
    sweep = sweep_of("few_shot/sweep.yaml")
    job = next(
        job
        for job in sweep.jobs
        if job.cell == {"dataset": "pascal5i", "backbone": "resnet50", "shots": 1, "fold": 2}
    )
    base = next(base for base in sweep.bases if base.recipe_hash == job.recipe_hash)
    assert base.recipe["params"] == {"backbone": "resnet50"}
    assert isinstance(base.work, CommandWork)
    assert isinstance(job.work, CommandWork)
    assert (job.work.result_file, sweep.results.metric) == ("results.json", "miou")
    run(base.work.command, output=tmp_path / "a base")
    run(job.work.command, output=tmp_path / "one", base=tmp_path / "a base")
    run(job.work.command, output=tmp_path / "two", base=tmp_path / "a base")
    results = (tmp_path / "one" / "results.json").read_text()
    found = json.loads(results)
    assert 0.2 < found["miou"] < 1
    assert found["miou"] == pytest.approx(sum(found["iou_per_class"].values()) / found["classes"])
    assert sorted(found["iou_per_class"]) == [f"pascal5i-{index}" for index in range(10, 15)]
    assert (tmp_path / "two" / "results.json").read_text() == results


def annealing(output: Path, **variables: object) -> subprocess.Popen[str]:
    arguments = ["--dimensions", "5", "--seed", "2", "--output", str(output)]
    return subprocess.Popen(
        [sys.executable, "-B", str(EXAMPLES / "resumable" / "train.py"), *arguments],
        env={"PATH": "/usr/bin:/bin", **{name: str(value) for name, value in variables.items()}},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_p7_the_resumable_example_ends_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    with annealing(tmp_path / "whole") as whole:
        assert whole.communicate()[0] == "begins at step 0\n"
    checkpoints = tmp_path / "checkpoints"
    # At each step a checkpoint: it can't be done before it is stopped.
    with annealing(
        tmp_path / "none", MESHTRAIN_CHECKPOINT=checkpoints, MESHTRAIN_CHECKPOINT_EVERY_S="1e-9"
    ) as stopped:
        while not list(checkpoints.glob("step-*2?.json")):
            assert stopped.poll() is None
            time.sleep(0.005)
        stopped.terminate()
        said = stopped.communicate()[0]
    assert stopped.returncode == 75
    kept = sorted(path.name for path in checkpoints.iterdir())
    assert len(kept) == 2
    step = int(kept[-1][5:14])
    assert said.splitlines()[-1] == f"asked to end: kept step {step}"
    assert not (tmp_path / "none").exists()
    (checkpoints / kept[-1]).write_text("{")  # and the last one is damaged on top of it
    with annealing(tmp_path / "on", MESHTRAIN_RESUME=checkpoints) as on:
        said = on.communicate()[0]
    assert said.splitlines()[-1] == f"goes on from step {step - 1}"
    assert (on.returncode, whole.returncode) == (0, 0)
    found = (tmp_path / "on" / "results.json").read_text()
    assert found == (tmp_path / "whole" / "results.json").read_text()
    assert json.loads(found)["steps"] == 20_000
