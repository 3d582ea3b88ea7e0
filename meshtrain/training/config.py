"""The configuration of one run: parsed, checked, and compared with what was hashed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from meshtrain.errors import RecipeMismatchError, UserError
from meshtrain.spec.lineage import CHAIN_MAX, Parent
from meshtrain.spec.recipe import explain_mismatch, recipe_hash, training_recipe
from meshtrain.spec.training_keys import MODES_FROM_BASE, Mode

PARTICIPANTS_MAX = 10_000
TRAINED_BEFORE_MAX = PARTICIPANTS_MAX * CHAIN_MAX

# A name becomes a file's name.
Name = Annotated[str, Meta(pattern=r"\A[^/\x00.][^/\x00]*\Z", max_length=128)]
Share = Annotated[float, Meta(ge=0, le=1)]
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]


class DigitsData(
    msgspec.Struct, frozen=True, tag_field="source", tag="digits", forbid_unknown_fields=True
):
    """The built-in digits."""


class FolderData(
    msgspec.Struct, frozen=True, tag_field="source", tag="folder", forbid_unknown_fields=True
):
    """A folder with one `.npz` file per participant."""

    path: Annotated[str, Meta(pattern=r"\A/")]


class ParentPin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model, by its recipe and by its content."""

    recipe: Digest
    artifact: Digest


class TrainingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One run of the built-in training. Every key is there; what doesn't apply is null.

    The last two may be left out, and are where nothing stands in them: runs that
    were begun before there were such keys go on from their checkpoints.
    """

    mode: Mode
    recipe: dict[str, Any] | None
    """The recipe document of the base; always there when a base is trained."""
    data: DigitsData | FolderData
    participants: Annotated[tuple[Name, ...], Meta(max_length=PARTICIPANTS_MAX)]
    """The base's."""
    target: Name | None
    model: Literal["softmax", "mlp", "cnn", "cnn_wide"]
    batch_size: Annotated[int, Meta(ge=1, le=1_000_000)]
    lr: Annotated[float, Meta(gt=0, le=1_000)]
    augmentation: Literal["none", "shift", "affine"]
    epochs: Annotated[int, Meta(ge=1, le=1_000_000)]
    optimizer: Literal["adam", "sgd"]
    weight_decay: Annotated[float, Meta(ge=0, le=1_000)]
    seed: Annotated[int, Meta(ge=-(2**53), le=2**53)]
    fold: Annotated[int, Meta(ge=0)] | None
    folds: Annotated[int, Meta(ge=2, le=10_000)] | None
    target_batch_pct: Share | None
    """The target's share of each batch; read by full_fine_tuning only."""
    target_data_pct: Annotated[float, Meta(gt=0, le=1)] | None
    """The share of the target's training samples that is used."""
    data_digests: dict[str, str]
    """Participant → digest of the data that the job was made for."""
    device: str | None
    """What CUDA_VISIBLE_DEVICES is set to (empty hides every GPU), or null: the mesh chooses."""
    prefix: str | None
    """A person's own mark on the results; training doesn't read it."""
    parent: ParentPin | None = None
    """The model that a base continues from; None begins with fresh weights."""
    trained_before: Annotated[tuple[Name, ...], Meta(max_length=TRAINED_BEFORE_MAX)] = ()
    """Whose data the bases were trained on that a target's base continues from."""

    @property
    def source(self) -> str:
        """`digits` or `folder`."""
        return "digits" if isinstance(self.data, DigitsData) else "folder"

    @property
    def folder(self) -> str | None:
        """The folder of the participants' files, if there is one."""
        return self.data.path if isinstance(self.data, FolderData) else None


class TargetSplit(msgspec.Struct, frozen=True):
    """The target keys of a configuration, known to be there."""

    target: str
    fold: int
    folds: int
    data_share: float


def parse_config(raw: dict[str, Any]) -> TrainingConfig:
    """Parses and checks a configuration.

    Args:
        raw: as `TrainingWork.config` holds it.

    Raises:
        UserError: a key is missing, unknown or has a value that can't be used.
    """
    # Jobs that were made before checkpoints carry the interval here; the request has it now.
    wanted = {key: value for key, value in raw.items() if key != "checkpoint_every_s"}
    try:
        config = msgspec.convert(wanted, type=TrainingConfig)
    except msgspec.ValidationError as error:
        raise UserError(
            f"the training configuration can't be used: {error}. Mend the job file."
        ) from None
    if len(set(config.participants)) != len(config.participants):
        raise UserError("participants: a name stands there twice. Remove one of the two.")
    if config.mode is Mode.BASE_ONLY:
        if not config.participants:
            raise UserError("participants is empty: a base needs at least one participant.")
        return config
    split = target_split(config)
    if split.fold >= split.folds:
        raise UserError(
            f"fold is {split.fold}, but there are {split.folds} folds, numbered from 0. "
            "Lower fold or raise folds."
        )
    if config.parent is not None:
        raise UserError(
            f"a run of mode {config.mode.value} starts from its base, and continues from no other. "
            "Remove parent from its configuration."
        )
    if config.mode in MODES_FROM_BASE and split.target in config.trained_before:
        raise UserError(
            f"target {split.target} is among those whom the base's parents were trained on: "
            "its test data would leak. Take another target, or a base with another parent."
        )
    if config.mode in MODES_FROM_BASE and split.target in config.participants:
        raise UserError(
            f"target {split.target} is also among the base's participants: "
            "its test data would leak into the base. Take it out of one of the two."
        )
    if config.mode is Mode.FULL_FINE_TUNING:
        if config.target_batch_pct is None:
            raise UserError("target_batch_pct is missing: full_fine_tuning mixes batches by it.")
        if not config.participants:
            raise UserError(
                "participants is empty: full_fine_tuning mixes their samples into each batch. "
                "Name the base's participants, or use target_only_fine_tuning."
            )
    return config


def target_split(config: TrainingConfig) -> TargetSplit:
    """The target's keys of a run that has a target.

    Args:
        config: of any mode but base_only.

    Raises:
        UserError: one of the keys is null.
    """
    if config.target is None or config.fold is None or config.folds is None:
        raise UserError(
            f"mode {config.mode.value} needs target, fold and folds, "
            f"but has {config.target!r}, {config.fold!r} and {config.folds!r}."
        )
    share = 1.0 if config.target_data_pct is None else config.target_data_pct
    return TargetSplit(config.target, config.fold, config.folds, share)


def check_recipe(config: TrainingConfig, expected_hash: str | None) -> None:
    """Refuses a configuration that isn't the one that was hashed when the job was made.

    A base is rehashed from the values that were really parsed. A run that
    starts from a base has settings of its own, so only its recipe document is
    rehashed; `meshtrain.training.child` compares the hash that the base's
    checkpoint carries.

    Args:
        config: as parsed.
        expected_hash: the job's recipe hash, or None for a run without a base.

    Raises:
        RecipeMismatchError: it is another recipe; the message shows both.
    """
    if config.mode is Mode.BASE_ONLY:
        if expected_hash is None or config.recipe is None:
            raise UserError("a base is trained under its recipe, but the job carries none.")
        parsed = recipe_of(config)
        if recipe_hash(parsed) != expected_hash:
            raise RecipeMismatchError(explain_mismatch(parsed, config.recipe))
    elif config.mode in MODES_FROM_BASE and expected_hash is None:
        raise UserError(f"mode {config.mode.value} starts from a base, but the job names none.")
    if config.recipe is not None and expected_hash is not None:
        found = recipe_hash(config.recipe)
        if found != expected_hash:
            raise RecipeMismatchError(
                f"the job's recipe hash is {expected_hash}, but the recipe document it carries "
                f"has the hash {found}: {config.recipe}. Submit the job again."
            )


def recipe_of(config: TrainingConfig) -> dict[str, Any]:
    """The recipe document that the parsed values of a base make.

    Args:
        config: of mode base_only.
    """
    return training_recipe(
        {
            "participants": list(config.participants),
            "model": config.model,
            "batch_size": config.batch_size,
            "lr": config.lr,
            "augmentation": config.augmentation,
            "epochs": config.epochs,
            "optimizer": config.optimizer,
            "weight_decay": config.weight_decay,
            "seed": config.seed,
        },
        config.data_digests,
        None if config.parent is None else Parent(config.parent.recipe, config.parent.artifact),
    )
