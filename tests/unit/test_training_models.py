"""The built-in models, augmentation, checkpoints, and what a short training comes to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from meshtrain.errors import ArtifactError, UserError
from meshtrain.spec.recipe import TRAINER_VERSION, builtin_data_digest
from meshtrain.spec.training_keys import AUGMENTATIONS, MODELS
from meshtrain.training.augment import augment
from meshtrain.training.batches import derived_seed
from meshtrain.training.data import load_participant
from meshtrain.training.loop import Pool, TrainingPlan, TrainingRun, macro_f1, prepare_torch, train
from meshtrain.training.model_file import (
    ModelInfo,
    load_model,
    load_weights,
    save_model,
    write_atomically,
)
from meshtrain.training.models import build_model, parameter_count

DIGIT = (1, 8, 8)

GOLDEN_TRAINER_VERSION = 1
GOLDEN_LOSSES = {
    ("softmax", "shift", "adam"): 2.2522658,
    ("mlp", "affine", "adam"): 2.0694985,
    ("mlp", "none", "sgd"): 0.9411561,
    ("cnn", "shift", "adam"): 2.1771754,
    ("cnn_wide", "shift", "adam"): 1.9722745,
}
"""Mean training loss of the first epoch on writer w01, by model, augmentation and optimizer."""


def first_epoch_loss(model_name: str, augmentation: str, optimizer: str) -> float:
    prepare_torch()
    w01 = load_participant(
        "w01",
        source="digits",
        folder=None,
        promised_digest=builtin_data_digest("digits", "w01"),
    )
    model = build_model(model_name, sample_shape=DIGIT, classes=10, seed=derived_seed(0, "weights"))
    losses: list[float] = []
    run = TrainingRun(
        model,
        target=None,
        base=Pool(w01.x, w01.y),
        plan=TrainingPlan(
            epochs=1,
            batch_size=16,
            lr=0.001 if optimizer == "adam" else 0.05,
            optimizer=optimizer,
            weight_decay=0.0001,
            augmentation=augmentation,
            target_share=0.0,
            seed=0,
        ),
        device=torch.device("cpu"),
    )
    train(run, lambda record: losses.append(record.loss))
    return losses[0]


@pytest.mark.parametrize(("made_by", "golden"), GOLDEN_LOSSES.items())
def test_training_still_makes_the_models_of_its_version(
    made_by: tuple[str, str, str], golden: float
) -> None:
    assert TRAINER_VERSION == GOLDEN_TRAINER_VERSION, (
        "TRAINER_VERSION was raised: set GOLDEN_TRAINER_VERSION, and GOLDEN_LOSSES to new losses"
    )
    assert first_epoch_loss(*made_by) == pytest.approx(golden, rel=1e-4), (
        "the same recipe now trains another model. If that is meant, raise TRAINER_VERSION in "
        "meshtrain/spec/recipe.py, so that bases made before are made again, and pin the new losses"
    )


def test_every_model_is_pinned() -> None:
    assert {made_by[0] for made_by in GOLDEN_LOSSES} == set(MODELS)
    assert {made_by[1] for made_by in GOLDEN_LOSSES} == set(AUGMENTATIONS)


def test_models_are_as_large_as_documented_and_fit_other_shapes() -> None:
    def size(name: str, shape: tuple[int, ...] = DIGIT) -> int:
        return parameter_count(build_model(name, sample_shape=shape, classes=10, seed=0))

    assert [size(name) for name in MODELS] == [650, 17_226, 13_706, 53_002]
    for name in MODELS:
        model = build_model(name, sample_shape=(3, 9, 13), classes=4, seed=0)
        assert model(torch.zeros(2, 3, 9, 13)).shape == (2, 4)
    for name in ("softmax", "mlp"):
        assert build_model(name, sample_shape=(5,), classes=3, seed=0)(torch.zeros(2, 5)).shape == (
            2,
            3,
        )


def test_shapes_that_a_model_cannot_take_are_refused() -> None:
    with pytest.raises(UserError, match=r"shape \[5\]"):
        build_model("cnn", sample_shape=(5,), classes=2, seed=0)
    with pytest.raises(UserError, match="at least 4 x 4"):
        build_model("cnn_wide", sample_shape=(1, 3, 9), classes=2, seed=0)
    with pytest.raises(UserError, match="no model 'vit'"):
        build_model("vit", sample_shape=DIGIT, classes=2, seed=0)


def test_the_seed_alone_determines_the_weights() -> None:
    before = torch.get_rng_state()
    first, again, other = (
        build_model("mlp", sample_shape=DIGIT, classes=10, seed=seed).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["1.weight"], other["1.weight"])
    assert torch.equal(before, torch.get_rng_state())


def test_shift_moves_whole_images_by_one_pixel_at_most() -> None:
    images = torch.zeros(200, 1, 8, 8)
    images[:, :, 3, 4] = 1
    shifted = augment(images, "shift", torch.Generator().manual_seed(0))
    places = {tuple(place) for place in shifted.nonzero()[:, 2:].tolist()}
    assert shifted.sum() == 200
    assert places == {(row, column) for row in (2, 3, 4) for column in (3, 4, 5)}


def test_affine_changes_every_image_a_little() -> None:
    images = torch.zeros(100, 2, 16, 16)
    images[:, :, 4:12, 4:12] = 1
    changed = augment(images, "affine", torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    assert all(not torch.equal(was, now) for was, now in zip(images, changed, strict=True))
    inks = changed.sum(dim=(1, 2, 3)) / images.sum(dim=(1, 2, 3))
    assert inks.min() > 0.7 and inks.max() < 1.4


def test_augmentation_needs_images() -> None:
    noise = torch.Generator()
    flat = torch.ones(4, 5)
    assert augment(flat, "none", noise) is flat
    with pytest.raises(UserError, match="needs images"):
        augment(flat, "shift", noise)
    with pytest.raises(UserError, match="no augmentation 'blur'"):
        augment(torch.ones(1, 1, 8, 8), "blur", noise)


def test_macro_f1_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        truth, guesses = random.integers(0, 6, (2, 30))
        assert macro_f1(truth, guesses) == pytest.approx(f1_score(truth, guesses, average="macro"))


INFO = ModelInfo(
    model="softmax", sample_shape=(4,), classes=3, recipe_hash="ab", config={"lr": 0.1, "a": [1]}
)


def test_a_checkpoint_comes_back_as_it_was_and_is_the_same_file_each_time(tmp_path: Path) -> None:
    model = build_model("softmax", sample_shape=(4,), classes=3, seed=0)
    save_model(tmp_path / "a.safetensors", model, INFO)
    save_model(tmp_path / "b.safetensors", model, INFO)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]
    tensors, info = load_model(tmp_path / "a.safetensors")
    assert info == INFO
    other = build_model("softmax", sample_shape=(4,), classes=3, seed=1)
    load_weights(other, tensors, "a.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_weights_that_do_not_fit_are_named() -> None:
    model = build_model("softmax", sample_shape=(4,), classes=3, seed=0)
    tensors = {"1.weight": torch.zeros(3, 5), "2.bias": torch.zeros(3)}
    with pytest.raises(ArtifactError) as refused:
        load_weights(model, tensors, "base/model.safetensors")
    message = str(refused.value)
    assert "base/model.safetensors" in message
    assert "1.weight is [3, 5], the model needs [3, 4]" in message
    assert "1.bias is absent, the model needs [3]" in message
    assert "2.bias is [3], the model needs absent" in message


def test_a_broken_checkpoint_is_told_apart_from_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no"):
        load_model(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ArtifactError, match="no readable safetensors"):
        load_model(tmp_path / "model.safetensors")


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.json"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]
