"""Keeps a run: writes its checkpoints while it goes, and finds the one that it goes on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from meshtrain.clock import lease_now_s
from meshtrain.errors import ArtifactError, RecipeMismatchError
from meshtrain.ids import digest
from meshtrain.spec.recipe import TRAINER_VERSION, canonical
from meshtrain.training.checkpoint import (
    found_in,
    read_checkpoint,
    sweep_unfinished,
    write_checkpoint,
)
from meshtrain.training.config import TrainingConfig
from meshtrain.training.interruption import Interrupted, Interruption
from meshtrain.training.loop import TrainingRun, device_name
from meshtrain.training.run_state import RunState, give_back, take

COST_SHARE_MAX = 0.05
"""The share of a training's time that checkpoints may cost; slow disks get fewer of them."""
DIFFERENCES_SHOWN_MAX = 8
WHERE_IT_RUNS = ("device", "prefix")
"""Keys of a configuration that don't change what a run comes to."""


class RunIdentity(msgspec.Struct, frozen=True):
    """What must be the same for a run to go on from a checkpoint."""

    config_digest: str
    config: dict[str, Any]
    """All keys that determine the run."""
    recipe_hash: str | None
    trainer_version: int
    base_digest: str | None
    """Of the file with the base's weights; None for a run from scratch."""


class _Saved(msgspec.Struct, frozen=True):
    """The JSON of a checkpoint."""

    identity: RunIdentity
    run: RunState


def identify(config: TrainingConfig, recipe_hash: str | None, base: Path | None) -> RunIdentity:
    """What a run is, for its checkpoints.

    Args:
        config: as parsed.
        recipe_hash: of the base that it trains or starts from.
        base: the file with the base's weights, or None.

    Raises:
        OSError: `base` can't be read.
    """
    built = msgspec.to_builtins(config)
    kept = {key: value for key, value in built.items() if key not in WHERE_IT_RUNS}
    return RunIdentity(
        config_digest=digest(canonical(kept)),
        config=kept,
        recipe_hash=recipe_hash,
        trainer_version=TRAINER_VERSION,
        base_digest=None if base is None else digest(base.read_bytes()),
    )


class Keeper:
    """Writes the checkpoints of one run.

    Args:
        folder: where they go.
        every_s: seconds between two; more where writing one takes long.
        identity: of the run.
        interruption: whether it was asked to end.
        say: tells the log.
        now_s: a clock in seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every_s: float,
        identity: RunIdentity,
        interruption: Interruption,
        say: Callable[[str], None],
        now_s: Callable[[], float] = lease_now_s,
    ) -> None:
        self._folder = folder
        self._every_s = every_s
        self._identity = identity
        self._interruption = interruption
        self._say = say
        self._now_s = now_s
        self._due_s = now_s() + every_s
        self._last_step: int | None = None
        self._stretched = False
        sweep_unfinished(folder)

    def after_step(self, run: TrainingRun) -> None:
        """Writes a checkpoint when it is time to, or when the run was asked to end.

        Raises Interrupted when it was asked to end.
        """
        if self._interruption.asked:
            self._write(run)
            raise Interrupted(
                f"ended on request after step {run.step} of {run.steps}; "
                + (
                    "no checkpoint of it could be written"
                    if self._last_step is None
                    else f"it can go on from step {self._last_step}"
                )
            )
        if self._now_s() >= self._due_s:
            self._write(run)

    def _write(self, run: TrainingRun) -> None:
        started_s = self._now_s()
        tensors, state = take(run)
        try:
            write_checkpoint(
                self._folder, run.step, tensors, msgspec.json.encode(_Saved(self._identity, state))
            )
        except OSError as error:
            # The training itself is well, and may end well before there is room again.
            self._say(f"the checkpoint of step {run.step} can't be written: {error}")
        else:
            self._last_step = run.step
        now_s = self._now_s()
        took_s = now_s - started_s
        wait_s = max(self._every_s, took_s / COST_SHARE_MAX - took_s)
        self._due_s = now_s + wait_s
        if wait_s > self._every_s and not self._stretched:
            self._stretched = True
            self._say(
                f"a checkpoint takes {took_s:.2f} s to write: there is one each {wait_s:.1f} s, "
                f"not each {self._every_s:.1f} s, so that they cost {COST_SHARE_MAX:.0%} at most"
            )


def resume(
    run: TrainingRun, folder: Path, identity: RunIdentity, say: Callable[[str], None]
) -> None:
    """Goes on from the last checkpoint of a folder that is whole.

    Where none can be used, the log says why, and the run begins anew.

    Args:
        run: just made.
        folder: with checkpoints, or a checkpoint itself.
        identity: of the run.
        say: tells the log.

    Raises:
        RecipeMismatchError: a checkpoint is of another configuration.
    """
    for path in found_in(folder):
        try:
            tensors, described = read_checkpoint(path)
            saved = _decode(path, described)
            _check_identity(saved.identity, identity, path)
            give_back(run, tensors, saved.run)
        except ArtifactError as error:
            say(f"checkpoint {path.name} can't be used: {error}")
            continue
        say(f"goes on from step {run.step} of {run.steps}{_made_elsewhere(saved.run, run)}")
        return
    say(f"no checkpoint in {folder} can be used: begins anew, at step 0")


_saved_decoder = msgspec.json.Decoder(_Saved)


def _decode(path: Path, described: bytes) -> _Saved:
    try:
        return _saved_decoder.decode(described)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} was written by another release: {error}") from None


def _check_identity(found: RunIdentity, wanted: RunIdentity, path: Path) -> None:
    if (found.config_digest, found.recipe_hash) != (wanted.config_digest, wanted.recipe_hash):
        raise RecipeMismatchError(
            f"{path} is a checkpoint of another run: {_differences(found, wanted)}. "
            "A run goes on from its own checkpoints alone: submit the job again."
        )
    if found.trainer_version != wanted.trainer_version:
        raise ArtifactError(
            f"trainer version {found.trainer_version} made it, and this is version "
            f"{wanted.trainer_version}"
        )
    if found.base_digest != wanted.base_digest:
        raise ArtifactError("the base was trained anew since, and has other weights")


def _differences(found: RunIdentity, wanted: RunIdentity) -> str:
    keys = sorted(found.config.keys() | wanted.config.keys())
    told = [
        f"{key} was {found.config.get(key)!r}, and is {wanted.config.get(key)!r}"
        for key in keys
        if key != "recipe" and found.config.get(key) != wanted.config.get(key)
    ]
    if not told:
        told = [f"its recipe was {found.recipe_hash}, and is {wanted.recipe_hash}"]
    return "; ".join(told[:DIFFERENCES_SHOWN_MAX])


def _made_elsewhere(state: RunState, run: TrainingRun) -> str:
    """What may make the run differ in the last bits from one that wasn't interrupted."""
    told = []
    if state.torch != torch.__version__:
        told.append(f"torch {state.torch}, this is {torch.__version__}")
    if state.device != device_name(run.device):
        told.append(f"{state.device}, this is {device_name(run.device)}")
    return f" (made on {'; '.join(told)})" if told else ""
