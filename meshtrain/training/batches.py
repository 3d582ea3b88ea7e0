"""Which samples make up each batch: a held mix of the target's and the base's.

Counts are exact, not drawn. After k batches of B samples with the share s,
round(k·s·B) target samples have been given out, so the running total is at
most half a sample away from the exact share, in every prefix of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from meshtrain.errors import UserError
from meshtrain.ids import digest

STEPS_PER_EPOCH_MIN = 200
"""Steps that an epoch has at least.

A pass over ten samples would be one step, and four such epochs no training at
all. Small sets are therefore passed over several times in an epoch, with
another order (and other augmentation) each time.
"""

Indices = npt.NDArray[np.int64]


def derived_seed(seed: int, use: str) -> int:
    """A seed for one use of randomness, so that the uses don't share a stream.

    Args:
        seed: the seed of the run.
        use: what the numbers are for, such as `batches`.
    """
    return int(digest(f"{seed}/{use}".encode())[:15], 16)


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """How many batches one epoch has.

    One pass over all samples of the run (the target's and the base's together,
    whatever their mix), and at least `STEPS_PER_EPOCH_MIN`. The share of the
    target doesn't change it, so runs with different shares train equally long.

    Args:
        samples: how many samples the run trains on, of both kinds.
        batch_size: samples per batch.
    """
    return max(STEPS_PER_EPOCH_MIN, -(-samples // batch_size))


def target_counts_until(batches: int, batch_size: int, share: Fraction) -> int:
    """How many target samples the first `batches` batches hold together.

    Args:
        batches: how many batches.
        batch_size: samples per batch.
        share: the target's share of each batch, 0 to 1.
    """
    return int(batches * batch_size * share + Fraction(1, 2))


class Batch(NamedTuple):
    """The samples of one batch, as positions in the target's and the base's arrays."""

    target: Indices
    base: Indices


@dataclass(frozen=True, slots=True)
class PoolState:
    """Where a pool stands."""

    left: Indices
    """What it gives out next."""
    state: str
    increment: str
    """Of its PCG64, in hexadecimal digits."""
    has_half: int
    half: int
    """Whether half of a drawn number is still to be used, and that half."""


@dataclass(frozen=True, slots=True)
class SamplerState:
    """Where the batches of a run stand."""

    batches: int
    target_given: int
    target: PoolState
    base: PoolState


class ShuffledPool:
    """Gives out positions 0…size-1 in random order, each once before any comes again."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._order: Indices = np.empty(0, dtype=np.int64)

    def state(self) -> PoolState:
        """Where it stands: what it has left, and its random numbers."""
        inner = self._random.bit_generator.state
        return PoolState(
            left=self._order.copy(),
            # 128 bits each, which JSON readers don't keep as numbers.
            state=f"{inner['state']['state']:032x}",
            increment=f"{inner['state']['inc']:032x}",
            has_half=int(inner["has_uint32"]),
            half=int(inner["uinteger"]),
        )

    def restore(self, state: PoolState) -> None:
        """Goes on where `state` was taken.

        Raises ValueError when it is none of a pool of this size.
        """
        if state.left.ndim != 1 or state.left.size > self._size or not self._holds(state.left):
            raise ValueError(f"{state.left.shape} positions are none of a pool of {self._size}")
        self._random.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": int(state.state, 16), "inc": int(state.increment, 16)},
            "has_uint32": state.has_half,
            "uinteger": state.half,
        }
        self._order = state.left.astype(np.int64)

    def _holds(self, positions: Indices) -> bool:
        return positions.size == 0 or bool(positions.min() >= 0 and positions.max() < self._size)

    def draw(self, count: int) -> Indices:
        """The next `count` positions; reshuffles as often as the pool runs out."""
        parts: list[Indices] = []
        while count > 0:
            if self._order.size == 0:
                self._order = self._random.permutation(self._size).astype(np.int64)
            parts.append(self._order[:count])
            self._order = self._order[count:]
            count -= parts[-1].size
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


class BatchSampler:
    """Composes the batches of one run.

    Args:
        target_samples: how many samples of the target there are.
        base_samples: how many samples of the base's participants there are.
        batch_size: samples per batch; every batch is full.
        target_share: the target's share of each batch, 0 to 1.
        seed: the run's seed; the same seed gives the same batches.

    Raises:
        UserError: a kind of samples is asked for of which there is none.
    """

    def __init__(
        self,
        *,
        target_samples: int,
        base_samples: int,
        batch_size: int,
        target_share: float,
        seed: int,
    ) -> None:
        # The decimal that was written, not the binary fraction next to it.
        self._share = Fraction(repr(float(target_share)))
        if not 0 <= self._share <= 1:
            raise UserError(
                f"target_batch_pct is {target_share}: a share lies between 0 and 1. "
                "Write 0.25 for a quarter."
            )
        if self._share > 0 and target_samples == 0:
            raise UserError(
                f"target_batch_pct is {target_share}, but the target has no training samples. "
                "Raise target_data_pct, or give the target more data."
            )
        if self._share < 1 and base_samples == 0:
            raise UserError(
                f"target_batch_pct is {target_share}, but the base's participants have no "
                "training samples to fill the rest. Give them data, or use 1."
            )
        self._batch_size = batch_size
        self._target = ShuffledPool(target_samples, derived_seed(seed, "target order"))
        self._base = ShuffledPool(base_samples, derived_seed(seed, "base order"))
        self._batches = 0
        self._target_given = 0

    def state(self) -> SamplerState:
        """Where it stands."""
        return SamplerState(
            self._batches, self._target_given, self._target.state(), self._base.state()
        )

    def restore(self, state: SamplerState) -> None:
        """Goes on where `state` was taken, by a sampler of the same arguments.

        Raises ValueError when it was taken by another.
        """
        given = target_counts_until(state.batches, self._batch_size, self._share)
        if state.target_given != given:
            raise ValueError(f"{state.target_given} target samples were given out, not {given}")
        self._target.restore(state.target)
        self._base.restore(state.base)
        self._batches, self._target_given = state.batches, state.target_given

    def next_batch(self) -> Batch:
        """The next batch."""
        self._batches += 1
        until = target_counts_until(self._batches, self._batch_size, self._share)
        target_count = until - self._target_given
        self._target_given = until
        return Batch(
            target=self._target.draw(target_count),
            base=self._base.draw(self._batch_size - target_count),
        )
