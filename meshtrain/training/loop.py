"""The training loop, and the measuring of what it trained.

One process trains on one device with one CPU thread. On the CPU the same
configuration gives the same weights, bit for bit, on the same machine and
build of torch, whatever else runs beside it. On a GPU it gives nearly the same.

Shape suffixes: B batch, N samples, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import nn

from meshtrain.clock import lease_now_s, wall_now_s
from meshtrain.errors import UserError
from meshtrain.training.augment import augment
from meshtrain.training.batches import BatchSampler, derived_seed, steps_per_epoch
from meshtrain.training.data import Labels, Samples

TEST_BATCH = 1024
SGD_MOMENTUM = 0.9


@dataclass(frozen=True, slots=True)
class Pool:
    """Labelled samples as arrays."""

    x: Samples
    y: Labels


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How to train; the settings are those of the job file."""

    epochs: int
    batch_size: int
    lr: float
    optimizer: str
    weight_decay: float
    augmentation: str
    target_share: float
    seed: int


class EpochRecord(msgspec.Struct, frozen=True):
    """One line of the live metrics: the state after one epoch."""

    step: int
    epoch: int
    loss: float
    """Mean over the epoch's (augmented) training samples."""
    accuracy: float
    """On the epoch's (augmented) training samples, while they were trained on."""
    time: float
    """Seconds since 1970."""
    seconds: float
    """Of this epoch."""
    device: str


class TestMetrics(msgspec.Struct, frozen=True):
    """What a model does on samples it wasn't trained on."""

    __test__ = False  # the name makes pytest take it for a test class

    accuracy: float
    loss: float
    macro_f1: float
    """The unweighted mean of F1 over the classes that occur or were predicted."""
    n_test: int


def prepare_torch() -> None:
    """Makes torch repeat itself exactly: one thread, deterministic algorithms.

    On a GPU an operation without a deterministic form warns and goes on.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)


def choose_device(wanted: str | None) -> torch.device:
    """The device to train on: a visible GPU if there is one, else the CPU.

    Args:
        wanted: `cpu`, or nothing between the quotes, keeps a run off the GPU; anything
            else, and None, takes the first GPU that CUDA_VISIBLE_DEVICES leaves visible.
    """
    if wanted in ("", "cpu") or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", 0)


def device_name(device: torch.device) -> str:
    """A device as people know it: `cpu`, or the GPU's product name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


class TrainingRun:
    """One training under way: step by step, so that it can be kept and gone on with.

    The learning rate falls from `plan.lr` to 0 along half a cosine.

    Args:
        model: on `device`; it is trained in place.
        target: the target's training samples, or None.
        base: the training samples of the base's participants, or None.
        plan: how to train.
        device: where the samples are put.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        target: Pool | None,
        base: Pool | None,
        plan: TrainingPlan,
        device: torch.device,
    ) -> None:
        self.model = model
        self.plan = plan
        self.device = device
        self._target_n = 0 if target is None else int(target.y.size)
        base_n = 0 if base is None else int(base.y.size)
        pools = [kind for kind in (target, base) if kind is not None]
        self._x_all = torch.from_numpy(np.concatenate([kind.x for kind in pools])).to(device)
        self._y_all_N = torch.from_numpy(np.concatenate([kind.y for kind in pools])).to(device)
        self.sampler = BatchSampler(
            target_samples=self._target_n,
            base_samples=base_n,
            batch_size=plan.batch_size,
            target_share=plan.target_share,
            seed=plan.seed,
        )
        self.noise = torch.Generator().manual_seed(derived_seed(plan.seed, "augmentation"))
        self.optimizer = _optimizer(model, plan)
        self.epoch_steps = steps_per_epoch(self._target_n + base_n, plan.batch_size)
        self.steps = plan.epochs * self.epoch_steps
        """How many there are in all."""
        self.step = 0
        """How many were made."""
        self.epochs: list[EpochRecord] = []
        """Those that are over."""
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.right = torch.zeros((), dtype=torch.int64, device=device)
        self._seconds_before = self._epoch_seconds_before = 0.0
        self._started_s = self._epoch_started_s = lease_now_s()
        model.train()

    @property
    def seconds(self) -> float:
        """What was spent on it so far, in all attempts."""
        return self._seconds_before + lease_now_s() - self._started_s

    @property
    def epoch_seconds(self) -> float:
        """What was spent on the epoch that it is in."""
        return self._epoch_seconds_before + lease_now_s() - self._epoch_started_s

    def resume_clocks(self, *, seconds: float, epoch_seconds: float) -> None:
        """Counts on from what attempts before this one spent, in seconds."""
        self._seconds_before, self._epoch_seconds_before = seconds, epoch_seconds
        self._started_s = self._epoch_started_s = lease_now_s()

    def make_step(self) -> EpochRecord | None:
        """Makes one step; returns the epoch that it ended, if it ended one.

        Raises UserError when the loss stopped being a number.
        """
        plan = self.plan
        for group in self.optimizer.param_groups:
            group["lr"] = plan.lr * (1 + math.cos(math.pi * self.step / self.steps)) / 2
        batch = self.sampler.next_batch()
        chosen_B = torch.from_numpy(np.concatenate([batch.target, batch.base + self._target_n]))
        chosen_B = chosen_B.to(self.device)
        y_B = self._y_all_N[chosen_B]
        logits_BK = self.model(augment(self._x_all[chosen_B], plan.augmentation, self.noise))
        loss = nn.functional.cross_entropy(logits_BK, y_B)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.step += 1
        self.loss_sum += loss.detach()
        self.right += (logits_BK.argmax(dim=1) == y_B).sum()
        return self._end_epoch() if self.step % self.epoch_steps == 0 else None

    def _end_epoch(self) -> EpochRecord:
        epoch = self.step // self.epoch_steps
        mean_loss = self.loss_sum.item() / self.epoch_steps
        if not math.isfinite(mean_loss):
            raise UserError(
                f"the loss is no longer a number in epoch {epoch}: the training diverged. "
                f"Lower lr (it is {self.plan.lr})."
            )
        record = EpochRecord(
            step=self.step,
            epoch=epoch,
            loss=mean_loss,
            accuracy=self.right.item() / (self.epoch_steps * self.plan.batch_size),
            time=wall_now_s(),
            seconds=self.epoch_seconds,
            device=device_name(self.device),
        )
        self.epochs.append(record)
        self.loss_sum.zero_()
        self.right.zero_()
        self._epoch_seconds_before, self._epoch_started_s = 0.0, lease_now_s()
        return record


def train(
    run: TrainingRun,
    on_epoch: Callable[[EpochRecord], None],
    on_step: Callable[[TrainingRun], None] | None = None,
) -> None:
    """Trains until the last step.

    Args:
        run: at its first step, or at a later one.
        on_epoch: called after each epoch.
        on_step: called after each step, and after `on_epoch`.

    Raises:
        UserError: the loss stopped being a number.
    """
    while run.step < run.steps:
        record = run.make_step()
        if record is not None:
            on_epoch(record)
        if on_step is not None:
            on_step(run)


def measure(model: nn.Module, test: Pool, device: torch.device) -> TestMetrics:
    """Tests a model.

    Args:
        model: on `device`.
        test: samples that it wasn't trained on.
        device: where the samples are put.
    """
    model.eval()
    loss_sum = 0.0
    predicted: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = []
    with torch.inference_mode():
        for start in range(0, test.y.size, TEST_BATCH):
            y_B = torch.from_numpy(test.y[start : start + TEST_BATCH]).to(device)
            logits_BK = model(torch.from_numpy(test.x[start : start + TEST_BATCH]).to(device))
            loss_sum += nn.functional.cross_entropy(logits_BK, y_B, reduction="sum").item()
            predicted.append(logits_BK.argmax(dim=1).cpu().numpy())
    guesses = np.concatenate(predicted)
    return TestMetrics(
        accuracy=float((guesses == test.y).mean()),
        loss=loss_sum / test.y.size,
        macro_f1=macro_f1(test.y, guesses),
        n_test=int(test.y.size),
    )


def macro_f1(truth: Labels, guesses: Labels) -> float:
    """The unweighted mean of the classes' F1, over classes that occur or were guessed.

    Args:
        truth: (N,) classes.
        guesses: (N,) classes.
    """
    scores = []
    for label in np.union1d(truth, guesses):
        both = int(((truth == label) & (guesses == label)).sum())
        either = int((truth == label).sum()) + int((guesses == label).sum())
        scores.append(2 * both / either)
    return float(np.mean(scores))


def _optimizer(model: nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    if plan.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=plan.lr,
            momentum=SGD_MOMENTUM,
            weight_decay=plan.weight_decay,
        )
    if plan.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=plan.lr, weight_decay=plan.weight_decay)
    raise UserError(f"there is no optimizer {plan.optimizer!r}; use adam or sgd.")
