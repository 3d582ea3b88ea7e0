"""All that determines how a training goes on: taken from a run, and given back to one."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import torch

from meshtrain.errors import ArtifactError
from meshtrain.training.batches import PoolState, SamplerState
from meshtrain.training.loop import EpochRecord, TrainingRun, device_name
from meshtrain.training.model_file import load_weights

MODEL = "model."
OPTIMIZER = "optimizer."

Tensors = dict[str, torch.Tensor]


class PoolNumbers(msgspec.Struct, frozen=True):
    """A `PoolState` without its order, which is a tensor."""

    state: str
    increment: str
    has_half: int
    half: int


class PythonNumbers(msgspec.Struct, frozen=True):
    """The random numbers of Python and of numpy that have no generator of their own."""

    python_version: int
    python_words: tuple[int, ...]
    python_gauss: float | None
    numpy_words: tuple[int, ...]
    numpy_position: int
    numpy_has_gauss: int
    numpy_gauss: float


class RunState(msgspec.Struct, frozen=True):
    """What isn't a tensor of a run's state."""

    step: int
    steps: int
    seconds: float
    epoch_seconds: float
    epochs: tuple[EpochRecord, ...]
    batches: int
    target_given: int
    target_pool: PoolNumbers
    base_pool: PoolNumbers
    numbers: PythonNumbers
    optimizer_values: dict[str, dict[str, Any]]
    """What of the optimizer's state is no tensor: parameter's number → key → value."""
    device: str
    torch: str
    """The version that made it."""


def take(run: TrainingRun) -> tuple[Tensors, RunState]:
    """The whole state of a run, its tensors on the CPU.

    Args:
        run: between two steps.
    """
    sampler = run.sampler.state()
    tensors: Tensors = {
        MODEL + name: _on_cpu(tensor) for name, tensor in run.model.state_dict().items()
    }
    values: dict[str, dict[str, Any]] = {}
    for number, state in run.optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{OPTIMIZER}{number}.{key}"] = _on_cpu(value)
            else:
                values.setdefault(str(number), {})[key] = value
    tensors["sums.loss"] = _on_cpu(run.loss_sum)
    tensors["sums.right"] = _on_cpu(run.right)
    tensors["order.target"] = torch.from_numpy(sampler.target.left)
    tensors["order.base"] = torch.from_numpy(sampler.base.left)
    tensors["random.augmentation"] = run.noise.get_state()
    tensors["random.torch"] = torch.get_rng_state()
    if run.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(run.device)
    return tensors, RunState(
        step=run.step,
        steps=run.steps,
        seconds=run.seconds,
        epoch_seconds=run.epoch_seconds,
        epochs=tuple(run.epochs),
        batches=sampler.batches,
        target_given=sampler.target_given,
        target_pool=_pool_numbers(sampler.target),
        base_pool=_pool_numbers(sampler.base),
        numbers=_take_numbers(),
        optimizer_values=values,
        device=device_name(run.device),
        torch=str(torch.__version__),
    )


def give_back(run: TrainingRun, tensors: Tensors, state: RunState) -> None:
    """Puts a run where another one of the same configuration stood.

    Args:
        run: just made. When this fails, it is as it was before.
        tensors: as `take` gave them; they come to the run's device.
        state: as `take` gave it.

    Raises:
        ArtifactError: they don't fit the run.
    """
    now_tensors, now = take(run)
    kept = {name: tensor.clone() for name, tensor in now_tensors.items()}
    try:
        _give_back(run, tensors, state)
    except (KeyError, ValueError, RuntimeError, TypeError, IndexError, ArtifactError) as error:
        _give_back(run, kept, now)
        told = error if isinstance(error, ArtifactError) else f"{type(error).__name__}: {error}"
        raise ArtifactError(f"the checkpoint doesn't fit this run: {told}") from None


def _give_back(run: TrainingRun, tensors: Tensors, state: RunState) -> None:
    epochs_over, _ = divmod(state.step, run.epoch_steps)
    if state.steps != run.steps or not 0 <= state.step <= run.steps:
        raise ValueError(f"step {state.step} of {state.steps}, and this run has {run.steps}")
    if len(state.epochs) != epochs_over:
        raise ValueError(f"{len(state.epochs)} epochs after {state.step} steps")
    load_weights(run.model, _below(MODEL, tensors), "the checkpoint")
    run.optimizer.load_state_dict(
        {
            "state": _optimizer_state(run, tensors, state),
            # The configuration's, which is the same, and each step sets its own learning rate.
            "param_groups": run.optimizer.state_dict()["param_groups"],
        }
    )
    run.sampler.restore(
        SamplerState(
            batches=state.batches,
            target_given=state.target_given,
            target=_pool_state(state.target_pool, tensors["order.target"]),
            base=_pool_state(state.base_pool, tensors["order.base"]),
        )
    )
    run.loss_sum.copy_(tensors["sums.loss"])
    run.right.copy_(tensors["sums.right"])
    run.noise.set_state(tensors["random.augmentation"])
    torch.set_rng_state(tensors["random.torch"])
    if run.device.type == "cuda" and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], run.device)
    _give_back_numbers(state.numbers)
    run.step = state.step
    run.epochs[:] = state.epochs
    run.resume_clocks(seconds=state.seconds, epoch_seconds=state.epoch_seconds)


def _optimizer_state(
    run: TrainingRun, tensors: Tensors, state: RunState
) -> dict[int, dict[str, Any]]:
    shapes = [
        parameter.shape for group in run.optimizer.param_groups for parameter in group["params"]
    ]
    found: dict[int, dict[str, Any]] = {
        int(number): dict(values) for number, values in state.optimizer_values.items()
    }
    for name, tensor in _below(OPTIMIZER, tensors).items():
        number, _, key = name.partition(".")
        if tensor.ndim > 0 and tensor.shape != shapes[int(number)]:
            raise ValueError(f"{OPTIMIZER}{name} has the shape {list(tensor.shape)}")
        found.setdefault(int(number), {})[key] = tensor
    if state.step > 0 and set(found) != set(range(len(shapes))):
        raise ValueError(f"the optimizer's state of {len(found)} of {len(shapes)} parameters")
    return found


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu").contiguous()


def _below(prefix: str, tensors: Tensors) -> Tensors:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _pool_numbers(pool: PoolState) -> PoolNumbers:
    return PoolNumbers(pool.state, pool.increment, pool.has_half, pool.half)


def _pool_state(numbers: PoolNumbers, left: torch.Tensor) -> PoolState:
    return PoolState(
        left.numpy().astype(np.int64),
        numbers.state,
        numbers.increment,
        numbers.has_half,
        numbers.half,
    )


def _take_numbers() -> PythonNumbers:
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    return PythonNumbers(
        python_version=version,
        python_words=words,
        python_gauss=gauss,
        numpy_words=tuple(int(word) for word in numpy_state["state"]["key"]),
        numpy_position=int(numpy_state["state"]["pos"]),
        numpy_has_gauss=int(numpy_state["has_gauss"]),
        numpy_gauss=float(numpy_state["gauss"]),
    )


def _give_back_numbers(numbers: PythonNumbers) -> None:
    random.setstate((numbers.python_version, numbers.python_words, numbers.python_gauss))
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {
                "key": np.array(numbers.numpy_words, dtype=np.uint32),
                "pos": numbers.numpy_position,
            },
            "has_gauss": numbers.numpy_has_gauss,
            "gauss": numbers.numpy_gauss,
        }
    )
