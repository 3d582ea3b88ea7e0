"""What a configuration may say, and that it must be the one that was hashed."""

from __future__ import annotations

from typing import Any

import pytest

from meshtrain.errors import RecipeMismatchError, UserError
from meshtrain.spec.recipe import builtin_data_digest, recipe_hash, training_recipe
from meshtrain.spec.training_keys import Mode
from meshtrain.training.config import check_recipe, parse_config

RECIPE_VALUES: dict[str, Any] = {
    "participants": ["w02", "w01"],
    "model": "mlp",
    "batch_size": 64,
    "lr": 0.001,
    "augmentation": "none",
    "epochs": 12,
    "optimizer": "adam",
    "weight_decay": 0.0,
    "seed": 0,
}
DIGESTS = {name: builtin_data_digest("digits", name) for name in ("w01", "w02", "w07")}
RECIPE = training_recipe(RECIPE_VALUES, DIGESTS)
HASH = recipe_hash(RECIPE)

BASE: dict[str, Any] = {
    **RECIPE_VALUES,
    "mode": "base_only",
    "recipe": RECIPE,
    "data": {"source": "digits"},
    "target": None,
    "fold": None,
    "folds": None,
    "target_batch_pct": None,
    "target_data_pct": None,
    "data_digests": DIGESTS,
    "device": None,
    "prefix": None,
}
TUNING: dict[str, Any] = {
    **BASE,
    "mode": "full_fine_tuning",
    "target": "w07",
    "fold": 0,
    "folds": 3,
    "target_batch_pct": 0.5,
    "target_data_pct": 0.2,
    "epochs": 4,
}


def test_a_configuration_is_parsed_into_typed_values() -> None:
    config = parse_config({**TUNING, "lr": 1, "data": {"source": "folder", "path": "/data"}})
    assert config.mode is Mode.FULL_FINE_TUNING
    assert config.lr == 1.0
    assert config.participants == ("w02", "w01")
    assert (config.source, config.folder) == ("folder", "/data")
    assert (parse_config(BASE).source, parse_config(BASE).folder) == ("digits", None)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model": "vit"}, r"\$\.model"),
        ({"batch_size": 0}, r"\$\.batch_size"),
        ({"batch_size": True}, r"\$\.batch_size"),
        ({"lr": "0.1"}, r"\$\.lr"),
        ({"lr": float("nan")}, r"\$\.lr|lr"),
        ({"lr": 0}, r"\$\.lr"),
        ({"target_batch_pct": 1.5}, r"\$\.target_batch_pct"),
        ({"target_data_pct": 0}, r"\$\.target_data_pct"),
        ({"mode": "tuning"}, r"\$\.mode"),
        ({"participants": ["../secret"]}, r"\$\.participants\[0\]"),
        ({"target": ".."}, r"\$\.target"),
        ({"data": {"source": "s3"}}, r"\$\.data"),
        ({"data": {"source": "folder", "path": "data"}}, r"\$\.data\.path"),
        ({"data": {"source": "digits", "path": "/x"}}, r"\$\.data"),
        ({"lerning_rate": 1}, "lerning_rate"),
        ({"participants": ["w01", "w01"]}, "stands there twice"),
        ({"participants": []}, "participants is empty"),
        ({"target": "w02"}, "leak"),
        ({"fold": 3}, "fold is 3"),
        ({"target": None}, "needs target"),
        ({"target_batch_pct": None}, "target_batch_pct is missing"),
    ],
)
def test_bad_values_are_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_config({**TUNING, **changed})


def test_a_job_that_was_made_before_checkpoints_still_runs() -> None:
    assert parse_config({**TUNING, "checkpoint_every_s": 300.0}) == parse_config(TUNING)


def test_a_missing_key_is_refused() -> None:
    for key in TUNING:
        with pytest.raises(UserError, match=key):
            parse_config({name: value for name, value in TUNING.items() if name != key})


def test_a_base_needs_a_participant() -> None:
    with pytest.raises(UserError, match="at least one participant"):
        parse_config({**BASE, "participants": []})


def test_the_hashed_recipe_passes() -> None:
    check_recipe(parse_config(BASE), HASH)
    check_recipe(parse_config({**BASE, "participants": ["w01", "w02"], "lr": 1e-3}), HASH)
    check_recipe(parse_config({**BASE, "device": "1", "prefix": "x", "fold": 2}), HASH)
    check_recipe(parse_config({**TUNING, "lr": 0.5, "batch_size": 7}), HASH)


@pytest.mark.parametrize(
    "changed",
    [
        {"lr": 0.002},
        {"participants": ["w01", "w07"]},
        {"seed": 1},
        {"epochs": 13},
        {"data_digests": {**DIGESTS, "w01": "0" * 32}},
    ],
)
def test_any_other_recipe_is_refused_with_both_forms(changed: dict[str, Any]) -> None:
    with pytest.raises(RecipeMismatchError) as refused:
        check_recipe(parse_config({**BASE, **changed}), HASH)
    assert HASH in str(refused.value)
    assert "parsed" in str(refused.value) and "hashed" in str(refused.value)


def test_a_document_that_is_not_the_hashed_one_is_refused() -> None:
    other = training_recipe({**RECIPE_VALUES, "lr": 0.5}, DIGESTS)
    for config in (BASE, TUNING):
        with pytest.raises(RecipeMismatchError, match="has the hash"):
            check_recipe(parse_config({**config, "recipe": other}), HASH)


def test_a_run_with_a_base_needs_its_hash() -> None:
    with pytest.raises(UserError, match="carries none"):
        check_recipe(parse_config(BASE), None)
    with pytest.raises(UserError, match="carries none"):
        check_recipe(parse_config({**BASE, "recipe": None}), HASH)
    with pytest.raises(UserError, match="names none"):
        check_recipe(parse_config(TUNING), None)
    check_recipe(parse_config({**TUNING, "mode": "target_only", "recipe": None}), None)
