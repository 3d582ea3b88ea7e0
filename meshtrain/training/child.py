"""One training run as a process: reads a request, trains, writes results or a failure.

    python -m meshtrain.training.child REQUEST.json

The output folder gets `model.safetensors`, `metrics.json`, `history.json` and
`config.json`; a run that only measures a base leaves no model.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from meshtrain.core.job import FailureClass
from meshtrain.errors import MeshtrainError, RecipeMismatchError, UserError
from meshtrain.spec.training_keys import (
    CHECKPOINT_EVERY_S_DEFAULT,
    EXIT_INTERRUPTED,
    MODES_FROM_BASE,
    Mode,
)
from meshtrain.training.batches import derived_seed
from meshtrain.training.config import TrainingConfig, check_recipe, parse_config
from meshtrain.training.interruption import Interrupted, noting_sigterm
from meshtrain.training.keeper import Keeper, identify, resume
from meshtrain.training.loop import (
    EpochRecord,
    TestMetrics,
    TrainingPlan,
    TrainingRun,
    choose_device,
    device_name,
    measure,
    prepare_torch,
    train,
)
from meshtrain.training.model_file import (
    MODEL_FILE,
    ModelInfo,
    load_model,
    load_weights,
    save_model,
    write_atomically,
)
from meshtrain.training.models import build_model, parameter_count
from meshtrain.training.samples import RunSamples, load_samples

REQUEST_SIZE_BYTES_MAX = 16 * 2**20


class TrainingRequest(msgspec.Struct, frozen=True):
    """What a node asks of the training process."""

    config: dict[str, Any]
    recipe_hash: str | None
    """Of the base to train or to start from."""
    output: str
    """The folder whose content becomes the result."""
    base: str | None
    """The folder of the base artifact; of a base that continues from another: of that one."""
    metrics: str
    """The file to which a line is added after each epoch."""
    failure: str
    """The file for the failure record, should the run fail."""
    checkpoint: str | None = None
    """The folder for checkpoints; None writes none."""
    checkpoint_every_s: float | None = None
    """Seconds between two checkpoints; None takes `CHECKPOINT_EVERY_S_DEFAULT`."""
    resume: str | None = None
    """A folder with checkpoints of an earlier attempt, to go on from."""


class FailureRecord(msgspec.Struct, frozen=True, rename={"failure_class": "class"}):
    """Why a run failed, for the node."""

    failure_class: str
    """The name of a `FailureClass` in lower case: `user_error`, `out_of_memory`, `disk`,
    `preempted`."""
    message: str


class History(msgspec.Struct, frozen=True):
    """How a run went: `history.json`."""

    device: str
    parameters: int
    epochs: list[EpochRecord]


class Metrics(msgspec.Struct, frozen=True):
    """What came out: `metrics.json`, flat and numbers only."""

    accuracy: float
    """On the target's test fold; a base's on the held-out tenth of its participants."""
    loss: float
    macro_f1: float
    n_test: int
    n_train: int
    """Samples trained on, of both kinds."""
    n_train_target: int
    steps: int
    seconds: float
    """Of training, without loading."""


def run(request: TrainingRequest) -> int:
    """Trains as requested and writes the results.

    Args:
        request: what to do and where to write.

    Returns:
        0; 1 when it failed; `EXIT_INTERRUPTED` when SIGTERM ended it and it can go on
        elsewhere. The failure record says why.
    """
    try:
        _run(request)
    except Interrupted as error:
        _note_failure(request, FailureClass.PREEMPTED, str(error))
        _say(f"interrupted: {error}")
        return EXIT_INTERRUPTED
    except MeshtrainError as error:
        return _fail(request, FailureClass.USER_ERROR, str(error))
    except Exception as error:
        failure_class = _failure_class(error)
        if failure_class is FailureClass.USER_ERROR:
            traceback.print_exc()
        return _fail(request, failure_class, f"{type(error).__name__}: {error}")
    return 0


_request_decoder = msgspec.json.Decoder(TrainingRequest)


def run_file(path: Path) -> int:
    """Runs the request in a file.

    Args:
        path: a JSON file with the keys of `TrainingRequest`.

    Returns:
        The exit status, as `run` gives it. Without a readable request there is no failure
        record; stderr tells why.
    """
    try:
        with path.open("rb") as file:
            content = file.read(REQUEST_SIZE_BYTES_MAX + 1)
        if len(content) > REQUEST_SIZE_BYTES_MAX:
            raise UserError(f"above the limit of {REQUEST_SIZE_BYTES_MAX} bytes")
        request = _request_decoder.decode(content)
    except (OSError, msgspec.DecodeError, ValueError, RecursionError, UserError) as error:
        print(f"the training request {path} can't be used: {error}", file=sys.stderr, flush=True)
        return 1
    return run(request)


def _run(request: TrainingRequest) -> None:
    config = parse_config(request.config)
    check_recipe(config, request.recipe_hash)
    _leave_only_device(config.device)
    prepare_torch()
    device = choose_device(config.device)
    samples = load_samples(config)
    model, classes = _starting_model(request, config, samples)
    model.to(device)
    _say(
        f"{config.mode.value} of {config.target or 'a base'}: {config.model}, "
        f"{parameter_count(model):,} parameters, on {device_name(device)}"
    )
    _say(
        f"{samples.target_n} samples of the target, {samples.base_n} of "
        f"{len(config.participants)} participants, {samples.test.y.size} to test on"
    )

    output = Path(request.output)
    output.mkdir(parents=True, exist_ok=True)
    epochs: list[EpochRecord] = []
    steps, seconds = 0, 0.0
    if config.mode is not Mode.BASE_ALONE:
        trained = _train(request, config, samples, model, device)
        epochs, steps, seconds = trained.epochs, trained.step, trained.seconds
    tested = measure(model, samples.test, device)
    _say(f"test: accuracy {tested.accuracy:.4f}  loss {tested.loss:.4f}  n {tested.n_test}")

    if config.mode is not Mode.BASE_ALONE:
        save_model(
            output / MODEL_FILE,
            model,
            ModelInfo(
                model=config.model,
                sample_shape=samples.sample_shape,
                classes=classes,
                recipe_hash=request.recipe_hash,
                config=msgspec.to_builtins(config),
            ),
        )
    _write_json(output / "config.json", config)
    _write_json(
        output / "history.json", History(device_name(device), parameter_count(model), epochs)
    )
    # Last: its presence says that the folder is complete.
    _write_json(output / "metrics.json", _metrics(tested, samples, steps, seconds))


def _train(
    request: TrainingRequest,
    config: TrainingConfig,
    samples: RunSamples,
    model: nn.Module,
    device: torch.device,
) -> TrainingRun:
    plan = TrainingPlan(
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        optimizer=config.optimizer,
        weight_decay=config.weight_decay,
        augmentation=config.augmentation,
        target_share=_target_share(config),
        seed=config.seed,
    )
    run = TrainingRun(model, target=samples.target, base=samples.base, plan=plan, device=device)
    metrics_path = Path(request.metrics)
    metrics_path.parent.mkdir(parents=True, exist_ok=True)
    with metrics_path.open("ab") as lines:

        def note(record: EpochRecord) -> None:
            lines.write(msgspec.json.encode(record) + b"\n")
            lines.flush()
            _say(
                f"epoch {record.epoch}/{plan.epochs}  loss {record.loss:.4f}  "
                f"accuracy {record.accuracy:.4f}  {record.seconds:.2f} s"
            )

        with _kept(request, config, run) as on_step:
            train(run, note, on_step)
    return run


@contextmanager
def _kept(
    request: TrainingRequest, config: TrainingConfig, run: TrainingRun
) -> Iterator[Callable[[TrainingRun], None] | None]:
    """Puts a run where an earlier attempt was, and keeps it from then on, as requested."""
    if request.checkpoint is None and request.resume is None:
        yield None
        return
    base = None if request.base is None else Path(request.base) / MODEL_FILE
    identity = identify(config, request.recipe_hash, base if _continues(config) else None)
    if request.resume is not None:
        resume(run, Path(request.resume), identity, _say)
    if request.checkpoint is None:
        yield None
        return
    with noting_sigterm() as interruption:
        yield Keeper(
            Path(request.checkpoint),
            every_s=request.checkpoint_every_s or CHECKPOINT_EVERY_S_DEFAULT,
            identity=identity,
            interruption=interruption,
            say=_say,
        ).after_step


def _starting_model(
    request: TrainingRequest, config: TrainingConfig, samples: RunSamples
) -> tuple[nn.Module, int]:
    """A fresh model, or that of the base or the parent; and its number of classes."""
    seed = derived_seed(config.seed, "weights")
    if not _continues(config):
        model = build_model(
            config.model, sample_shape=samples.sample_shape, classes=samples.classes, seed=seed
        )
        return model, samples.classes
    if request.base is None:
        raise UserError(f"mode {config.mode.value} starts from a base, but no folder was given.")
    expected_hash = request.recipe_hash if config.parent is None else config.parent.recipe
    path = Path(request.base) / MODEL_FILE
    tensors, info = load_model(path)
    classes = samples.classes
    if info is not None:
        _check_base(info, config, samples, expected_hash, path)
        classes = info.classes
    model = build_model(config.model, sample_shape=samples.sample_shape, classes=classes, seed=seed)
    load_weights(model, tensors, str(path))
    return model, classes


def _continues(config: TrainingConfig) -> bool:
    """Whether it starts from weights that somebody trained."""
    return config.mode in MODES_FROM_BASE or config.parent is not None


def _check_base(
    info: ModelInfo,
    config: TrainingConfig,
    samples: RunSamples,
    expected_hash: str | None,
    path: Path,
) -> None:
    if info.recipe_hash != expected_hash and config.parent is not None:
        raise RecipeMismatchError(
            f"{path} is the base of recipe {info.recipe_hash}, but this base continues from "
            f"recipe {expected_hash}. Give it the folder of that one."
        )
    if info.recipe_hash != expected_hash:
        raise RecipeMismatchError(
            f"{path} is the base of recipe {info.recipe_hash}, but the job starts from recipe "
            f"{expected_hash}. The base it carries: {info.config.get('recipe')}; the one it "
            f"needs: {config.recipe}."
        )
    if info.model != config.model and config.parent is not None:
        raise UserError(
            f"the base's model is {config.model}, its parent's {info.model}: a base continues "
            "with the model of its parent. Name that one."
        )
    if info.model != config.model:
        raise UserError(
            f"the target's model is {config.model}, its base's {info.model}: fine-tuning goes on "
            "with the base's model. Remove model from the target."
        )
    if info.sample_shape != samples.sample_shape:
        raise UserError(
            f"the base takes samples of the shape {list(info.sample_shape)}, the data of this "
            f"run has {list(samples.sample_shape)}. Bring the data into the base's shape."
        )
    if samples.classes > info.classes:
        raise UserError(
            f"the data of this run has classes up to {samples.classes - 1}, but the base knows "
            f"{info.classes}. Train a base with a participant that has all classes."
        )


def _target_share(config: TrainingConfig) -> float:
    if config.mode is Mode.BASE_ONLY:
        return 0.0
    if config.mode is Mode.FULL_FINE_TUNING and config.target_batch_pct is not None:
        return config.target_batch_pct
    return 1.0


def _leave_only_device(device: str | None) -> None:
    if device is not None and device != "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = device.removeprefix("cuda:")


def _metrics(tested: TestMetrics, samples: RunSamples, steps: int, seconds: float) -> Metrics:
    return Metrics(
        accuracy=tested.accuracy,
        loss=tested.loss,
        macro_f1=tested.macro_f1,
        n_test=tested.n_test,
        n_train=samples.target_n + samples.base_n,
        n_train_target=samples.target_n,
        steps=steps,
        seconds=seconds,
    )


def _failure_class(error: Exception) -> FailureClass:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return FailureClass.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return FailureClass.OUT_OF_MEMORY  # what torch raises on the CPU
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FailureClass.DISK
    return FailureClass.USER_ERROR


def _fail(request: TrainingRequest, failure_class: FailureClass, message: str) -> int:
    print(f"failed ({failure_class.value}): {message}", file=sys.stderr, flush=True)
    _note_failure(request, failure_class, message)
    return 1


def _note_failure(request: TrainingRequest, failure_class: FailureClass, message: str) -> None:
    record = FailureRecord(failure_class.name.lower(), message)
    try:
        write_atomically(Path(request.failure), msgspec.json.encode(record))
    except OSError as error:
        # On a full disk the exit status and stderr have to do.
        print(f"{request.failure} can't be written: {error}", file=sys.stderr, flush=True)


def _write_json(path: Path, record: msgspec.Struct) -> None:
    write_atomically(path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")


def _say(line: str) -> None:
    print(line, flush=True)


def main(arguments: list[str]) -> int:
    """Runs the request named on the command line.

    Args:
        arguments: the request file's path, alone.
    """
    if len(arguments) != 1:
        print("usage: python -m meshtrain.training.child REQUEST.json", file=sys.stderr)
        return 2
    return run_file(Path(arguments[0]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
