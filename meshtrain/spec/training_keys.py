"""The words of the built-in training that job files and the trainer share.

`meshtrain.training` implements each of these names; job files are checked
against them, so that a name nobody can train is refused before anything runs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

MODELS = ("softmax", "mlp", "cnn", "cnn_wide")
AUGMENTATIONS = ("none", "shift", "affine")
OPTIMIZERS = ("adam", "sgd")

CHECKPOINT_EVERY_S_DEFAULT = 300.0
"""How often a training writes a checkpoint when the job file doesn't say."""
EXIT_INTERRUPTED = 75
"""The exit code of a training that was asked to end by SIGTERM, and can go on elsewhere."""

DIGITS_VERSION = 1
"""Raised whenever the built-in digits, or the style of a writer, change."""


class Mode(StrEnum):
    """What a training run does."""

    BASE_ONLY = "base_only"
    """Trains the recipe."""
    FULL_FINE_TUNING = "full_fine_tuning"
    """Starts from the base; batches mix target and base participants."""
    TARGET_ONLY_FINE_TUNING = "target_only_fine_tuning"
    """Starts from the base; the target's data only."""
    TARGET_ONLY = "target_only"
    """From scratch, on the target's data only."""
    BASE_ALONE = "base_alone"
    """Evaluates the base on the target's test fold and trains nothing; a reference only."""


WRITABLE_MODES = (
    Mode.BASE_ONLY,
    Mode.FULL_FINE_TUNING,
    Mode.TARGET_ONLY_FINE_TUNING,
    Mode.TARGET_ONLY,
)
"""The modes that a job file may name."""

MODES_FROM_BASE = (Mode.FULL_FINE_TUNING, Mode.TARGET_ONLY_FINE_TUNING, Mode.BASE_ALONE)
"""The modes that start from a base artifact."""

REFERENCE_GROUPS = {
    Mode.BASE_ALONE: "base alone",
    Mode.TARGET_ONLY: "target only",
    Mode.TARGET_ONLY_FINE_TUNING: "target-only tuning",
}
"""Reference runs, and the row of the results that each fills."""

BASE_DEFAULTS: dict[str, Any] = {
    "batch_size": 64,
    "lr": 0.001,
    "augmentation": "none",
    "epochs": 12,
    "seed": 0,
    "optimizer": "adam",
    "weight_decay": 0.0,
}
"""Recipe keys that may be left out; `participants` and `model` may not."""

TARGET_DEFAULTS: dict[str, Any] = {
    "epochs": 4,
    "seed": 0,
    "fold": 0,
    "folds": 5,
    "target_batch_pct": 0.5,
    "target_data_pct": 1.0,
}
"""What a target run takes when nothing is said and nothing is inherited."""

INHERITED_KEYS = ("model", "batch_size", "lr", "augmentation", "optimizer", "weight_decay")
"""What a target takes from its base unless it says otherwise."""

RECIPE_KEYS = ("participants", "model", *BASE_DEFAULTS)
"""Everything in a `base:` section of built-in training that determines the model."""
