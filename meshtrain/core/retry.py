"""What follows a failure: one rule a class."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from meshtrain.core.job import FailureClass

LOSSES_MAX = 20
"""After so many losses to infrastructure in one generation a job is given up:
it may itself be what takes its hosts down."""

DELAY_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Wait before the n-th rerun after a loss; the last holds for all later ones."""


class Rule(msgspec.Struct, frozen=True):
    reruns: bool
    """Whether the job is run again at all."""
    blames_job: bool
    """Whether it costs one of the job's own retries."""
    counts: bool = True
    """Whether it is one of the losses after which a job is given up."""
    delayed: bool = False
    wants_more_memory: bool = False


RULES: Mapping[FailureClass, Rule] = MappingProxyType(
    {
        FailureClass.USER_ERROR: Rule(reruns=False, blames_job=True),
        FailureClass.TIMEOUT: Rule(reruns=False, blames_job=True),
        FailureClass.OUT_OF_MEMORY: Rule(reruns=True, blames_job=True, wants_more_memory=True),
        FailureClass.BAD_GPU: Rule(reruns=True, blames_job=False),
        FailureClass.HOST_LOST: Rule(reruns=True, blames_job=False),
        FailureClass.PREEMPTED: Rule(reruns=True, blames_job=False, counts=False),
        FailureClass.DISK: Rule(reruns=True, blames_job=False, delayed=True),
        FailureClass.NETWORK: Rule(reruns=True, blames_job=False, delayed=True),
        # Another node may have it; core/shares.py ends it where none has.
        FailureClass.INPUT: Rule(reruns=True, blames_job=False, counts=False),
        FailureClass.BASE_FAILED: Rule(reruns=False, blames_job=False),
    }
)


class RetryDecision(msgspec.Struct, frozen=True):
    rerun: bool
    delay_s: float = 0.0
    blames_job: bool = False
    wants_more_memory: bool = False
    counts: bool = True


def decide(
    failure_class: FailureClass, *, retries_used: int, retries_max: int, losses: int
) -> RetryDecision:
    """Whether, and when, a job runs again.

    Args:
        failure_class: why the attempt ended.
        retries_used: reruns so far that the job was to blame for.
        retries_max: how many of those it may have.
        losses: attempts lost to infrastructure so far, this one not counted.
    """
    rule = RULES[failure_class]
    if not rule.reruns:
        return RetryDecision(rerun=False, blames_job=rule.blames_job)
    if rule.blames_job:
        return RetryDecision(
            rerun=retries_used < retries_max,
            blames_job=True,
            wants_more_memory=rule.wants_more_memory,
        )
    if not rule.counts:
        return RetryDecision(rerun=True, counts=False)
    if losses + 1 >= LOSSES_MAX:
        return RetryDecision(rerun=False)
    # The first rerun after a lost host starts at once; a job that keeps losing
    # its hosts, or a full disk, is given time.
    step = losses + 1 if rule.delayed else losses
    return RetryDecision(rerun=True, delay_s=DELAY_S[min(step, len(DELAY_S) - 1)])
