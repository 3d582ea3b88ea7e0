"""Whole training runs: each mode, its files, its refusals; and the forked child."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from meshtrain.core.job import FailureClass
from meshtrain.spec.lineage import Parent
from meshtrain.spec.recipe import builtin_data_digest, recipe_hash, training_recipe
from meshtrain.training import child
from meshtrain.training.child import TrainingRequest, run
from meshtrain.training.data import file_digest
from meshtrain.training.model_file import load_model

REPOSITORY = Path(__file__).parents[2]

RECIPE_VALUES: dict[str, Any] = {
    "participants": ["w02", "w01"],
    "model": "softmax",
    "batch_size": 16,
    "lr": 0.01,
    "augmentation": "shift",
    "epochs": 2,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "seed": 3,
}
DIGESTS = {name: builtin_data_digest("digits", name) for name in ("w01", "w02", "w07", "w09")}


def config_of(mode: str, **changed: Any) -> dict[str, Any]:
    base_values = {key: changed.pop(key, value) for key, value in RECIPE_VALUES.items()}
    digests = changed.get("data_digests", DIGESTS)
    target = {"target": "w07", "fold": 1, "folds": 3, "target_batch_pct": 0.5}
    return {
        **base_values,
        "mode": mode,
        "recipe": training_recipe(base_values, digests),
        "data": {"source": "digits"},
        **(dict.fromkeys(target) if mode == "base_only" else target),
        "target_data_pct": None if mode == "base_only" else 0.2,
        "data_digests": digests,
        "device": "",
        "prefix": None,
        **changed,
    }


def request_of(
    folder: Path, config: dict[str, Any], base: Path | None = None, recipe: Any = None
) -> TrainingRequest:
    document = recipe if recipe is not None else config["recipe"]
    return TrainingRequest(
        config=config,
        recipe_hash=None if document is None else recipe_hash(document),
        output=str(folder / "output"),
        base=None if base is None else str(base),
        metrics=str(folder / "metrics.jsonl"),
        failure=str(folder / "failure.json"),
    )


def failure_of(folder: Path) -> dict[str, str]:
    return json.loads((folder / "failure.json").read_text())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a trained base."""
    folder = tmp_path_factory.mktemp("base")
    assert run(request_of(folder, config_of("base_only"))) == 0
    return folder / "output"


def test_a_base_leaves_its_model_and_says_how_it_went(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(path.name for path in base.iterdir()) == [
        "config.json",
        "history.json",
        "metrics.json",
        "model.safetensors",
    ]
    metrics = json.loads((base / "metrics.json").read_text())
    assert metrics["accuracy"] > 0.6
    assert metrics["n_train"] + metrics["n_test"] in (448, 449, 450)
    assert all(isinstance(value, int | float) for value in metrics.values())
    assert next(iter(metrics)) == "accuracy"
    lines = [json.loads(line) for line in (base.parent / "metrics.jsonl").open()]
    assert [(line["epoch"], line["step"], line["device"]) for line in lines] == [
        (1, 200, "cpu"),
        (2, 400, "cpu"),
    ]
    assert lines[1]["loss"] < lines[0]["loss"]
    assert json.loads((base / "history.json").read_text())["epochs"] == lines
    assert json.loads((base / "config.json").read_text())["seed"] == 3
    _, info = load_model(base / "model.safetensors")
    assert info is not None
    assert info.recipe_hash == recipe_hash(config_of("base_only")["recipe"])
    assert (info.sample_shape, info.classes) == ((1, 8, 8), 10)


def test_the_same_configuration_gives_the_same_bytes_in_another_process(
    base: Path, tmp_path: Path
) -> None:
    request = request_of(tmp_path, config_of("base_only", participants=["w01", "w02"]))
    (tmp_path / "request.json").write_bytes(msgspec.json.encode(request))
    trained = subprocess.run(
        [sys.executable, "-m", "meshtrain.training.child", str(tmp_path / "request.json")],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "5"},
    )
    assert trained.returncode == 0, trained.stderr
    assert "epoch 2/2  loss " in trained.stdout
    again, _ = load_model(tmp_path / "output" / "model.safetensors")
    first, _ = load_model(base / "model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    # The order in which participants were written is kept in config alone.
    one = json.loads((base / "metrics.json").read_text())
    two = json.loads((tmp_path / "output" / "metrics.json").read_text())
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


@pytest.mark.parametrize(
    ("mode", "from_base", "samples"),
    [
        ("full_fine_tuning", True, 30 + 404),
        ("target_only_fine_tuning", True, 30),
        ("target_only", False, 30),
    ],
)
def test_each_mode_trains_on_what_it_should(
    base: Path, tmp_path: Path, mode: str, from_base: bool, samples: int
) -> None:
    config = config_of(mode)
    request = request_of(tmp_path, config, base if from_base else None)
    if not from_base:
        request = msgspec.structs.replace(
            request, recipe_hash=None, config={**config, "recipe": None}
        )
    assert run(request) == 0
    metrics = json.loads((tmp_path / "output" / "metrics.json").read_text())
    assert metrics["n_train"] == pytest.approx(samples, abs=2)
    assert (metrics["n_train_target"], metrics["n_test"]) == (30, 75)
    tuned, info = load_model(tmp_path / "output" / "model.safetensors")
    assert info is not None and info.recipe_hash == request.recipe_hash
    started_from, _ = load_model(base / "model.safetensors")
    assert not torch.equal(tuned["1.weight"], started_from["1.weight"])


def test_base_alone_measures_the_base_and_trains_nothing(base: Path, tmp_path: Path) -> None:
    assert run(request_of(tmp_path, config_of("base_alone"), base)) == 0
    assert not (tmp_path / "output" / "model.safetensors").exists()
    assert not (tmp_path / "metrics.jsonl").exists()
    metrics = json.loads((tmp_path / "output" / "metrics.json").read_text())
    assert (metrics["steps"], metrics["n_train"], metrics["n_test"]) == (0, 0, 75)
    assert metrics["accuracy"] > 0.3


def test_fine_tuning_starts_from_the_weights_of_the_base(base: Path, tmp_path: Path) -> None:
    alone = request_of(tmp_path / "alone", config_of("base_alone"), base)
    still = request_of(tmp_path / "still", config_of("full_fine_tuning", lr=1e-12), base)
    # The target's lr is its own: the recipe of the base stays what it was.
    still = msgspec.structs.replace(
        still,
        recipe_hash=alone.recipe_hash,
        config={**still.config, "recipe": alone.config["recipe"]},
    )
    for request in (alone, still):
        Path(request.failure).parent.mkdir()
        assert run(request) == 0
    found = [
        json.loads((Path(request.output) / "metrics.json").read_text())["loss"]
        for request in (alone, still)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def child_config(recipe: str, **changed: Any) -> dict[str, Any]:
    """A base that continues from another."""
    config = config_of("base_only", **{"lr": 1e-12, "epochs": 1, **changed})
    pin = Parent(recipe, "e" * 32)
    values = {key: config[key] for key in RECIPE_VALUES}
    return {
        **config,
        "recipe": training_recipe(values, DIGESTS, pin),
        "parent": pin.document(),
    }


def test_a_base_that_continues_starts_from_the_weights_of_its_parent(
    base: Path, tmp_path: Path
) -> None:
    parent = recipe_hash(config_of("base_only")["recipe"])
    request = request_of(tmp_path, child_config(parent), base)
    assert run(request) == 0
    before, _ = load_model(base / "model.safetensors")
    after, info = load_model(tmp_path / "output" / "model.safetensors")
    assert info is not None
    assert info.recipe_hash == request.recipe_hash != parent
    assert info.config["parent"]["recipe"] == parent
    assert all(torch.allclose(before[name], after[name], atol=1e-8) for name in before)
    further = tmp_path / "further"
    further.mkdir()
    assert run(request_of(further, child_config(parent, lr=0.01), base)) == 0
    trained, _ = load_model(further / "output" / "model.safetensors")
    assert any(not torch.allclose(before[name], trained[name]) for name in before)


def test_a_base_continues_from_no_other_weights_than_those_of_its_recipe(
    base: Path, tmp_path: Path
) -> None:
    assert run(request_of(tmp_path, child_config("f" * 32), base)) == 1
    assert "continues from recipe ffff" in failure_of(tmp_path)["message"]
    parent = recipe_hash(config_of("base_only")["recipe"])
    assert run(request_of(tmp_path, child_config(parent, model="mlp"), base)) == 1
    assert "its parent's softmax" in failure_of(tmp_path)["message"]
    assert run(request_of(tmp_path, child_config(parent))) == 1
    assert "no folder was given" in failure_of(tmp_path)["message"]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (config_of("base_only", data_digests={**DIGESTS, "w01": "0" * 32}), "data of participant"),
        (config_of("full_fine_tuning", target="w09"), "hold the same built-in images"),
        (config_of("full_fine_tuning", trained_before=["w15"]), "hold the same built-in images"),
        (config_of("full_fine_tuning", trained_before=["w07"]), "parents were trained on"),
        (config_of("full_fine_tuning", seed=4), "is the base of recipe"),
        ({**config_of("full_fine_tuning"), "model": "mlp"}, "its base's softmax"),
        ({**config_of("base_only"), "seed": 4}, "not the recipe that was hashed"),
        ({**config_of("full_fine_tuning"), "data_digests": {}}, "names no digest"),
        ({**config_of("base_only"), "epochs": "many"}, "epochs"),
    ],
)
def test_a_run_that_cannot_be_right_is_refused(
    base: Path, tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    assert run(request_of(tmp_path, config, base)) == 1
    failure = failure_of(tmp_path)
    assert failure["class"] == "user_error"
    assert says in failure["message"]
    assert not (tmp_path / "output" / "metrics.json").exists()


def test_a_run_without_its_base_is_refused(base: Path, tmp_path: Path) -> None:
    assert run(request_of(tmp_path, config_of("base_alone"), tmp_path / "nowhere")) == 1
    assert "model.safetensors" in failure_of(tmp_path)["message"]
    assert run(request_of(tmp_path, config_of("base_alone"), None)) == 1
    assert "no folder was given" in failure_of(tmp_path)["message"]


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    config = config_of("base_only", lr=1000.0, optimizer="sgd", weight_decay=1000.0, epochs=1)
    assert run(request_of(tmp_path, config)) == 1
    assert "Lower lr (it is 1000.0)" in failure_of(tmp_path)["message"]


@pytest.mark.parametrize(
    ("error", "failure_class"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), FailureClass.OUT_OF_MEMORY),
        (MemoryError(), FailureClass.OUT_OF_MEMORY),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B"),
            FailureClass.OUT_OF_MEMORY,
        ),
        (OSError(errno.ENOSPC, "No space left on device"), FailureClass.DISK),
        (ZeroDivisionError("division by zero"), FailureClass.USER_ERROR),
    ],
)
def test_failures_are_told_apart(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    failure_class: FailureClass,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(child, "load_samples", fail)
    assert run(request_of(tmp_path, config_of("base_only"))) == 1
    assert failure_of(tmp_path)["class"] == failure_class.name.lower()
    assert ("Traceback" in capsys.readouterr().err) == (failure_class is FailureClass.USER_ERROR)


def test_an_unreadable_request_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert child.main([str(tmp_path / "none.json")]) == 1
    (tmp_path / "request.json").write_text('{"config": 1}')
    assert child.main([str(tmp_path / "request.json")]) == 1
    assert capsys.readouterr().err.count("can't be used") == 2
    assert child.main([]) == 2


def test_people_train_on_their_own_data(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    data = tmp_path / "data"
    data.mkdir()
    for name in ("anna", "bert", "cleo"):
        y = np.repeat(np.arange(3), 20)
        x = random.normal(size=(60, 4)) + 4 * np.eye(3, 4)[y]
        np.savez(data / f"{name}.npz", x=x, y=y)
    own: dict[str, Any] = {
        "participants": ["anna", "bert"],
        "augmentation": "none",
        "epochs": 1,
        "data": {"source": "folder", "path": str(data)},
        "data_digests": {path.stem: file_digest(path) for path in data.iterdir()},
    }
    assert run(request_of(tmp_path, config_of("base_only", **own))) == 0
    base = tmp_path / "output"
    tuning = config_of("full_fine_tuning", **own, target="cleo")
    folder = tmp_path / "tuned"
    folder.mkdir()
    assert run(request_of(folder, tuning, base)) == 0
    assert json.loads((folder / "output" / "metrics.json").read_text())["accuracy"] > 0.8

    y = np.repeat(np.arange(4), 20)
    np.savez(data / "cleo.npz", x=random.normal(size=(80, 4)), y=y)
    own["data_digests"] = {path.stem: file_digest(path) for path in data.iterdir()}
    tuning = config_of("full_fine_tuning", **own, target="cleo")
    assert run(request_of(folder, tuning, base)) == 1
    assert "classes up to 3, but the base knows 3" in failure_of(folder)["message"]
    np.savez(data / "cleo.npz", x=random.normal(size=(80, 5)), y=y)
    own["data_digests"] = {path.stem: file_digest(path) for path in data.iterdir()}
    tuning = config_of("target_only_fine_tuning", **own, target="cleo")
    assert run(request_of(folder, tuning, base)) == 1
    assert "the base takes samples of the shape [4]" in failure_of(folder)["message"]


FORK = """
import os, sys
from meshtrain.training import warm
assert "torch" not in sys.modules
warm.preload()
import torch
assert not torch.cuda.is_initialized()
for request in sys.argv[1:]:
    pid = os.fork()
    if pid == 0:
        os._exit(warm.run(request))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert len(os.listdir("/proc/self/task")) == 1
    if status:
        sys.exit(status)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="nodes run on Linux")
def test_a_forked_child_trains_as_a_fresh_process_does(base: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        request = request_of(tmp_path / name, config_of("base_only"))
        (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode(request))
    forked = subprocess.run(
        [sys.executable, "-c", FORK, *(str(tmp_path / f"{name}.json") for name in ("one", "two"))],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=100,
    )
    assert forked.returncode == 0, forked.stderr
    for name in ("one", "two"):
        trained = tmp_path / name / "output" / "model.safetensors"
        assert trained.read_bytes() == (base / "model.safetensors").read_bytes()
