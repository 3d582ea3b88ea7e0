"""Why a node does not take a job, as data; and the one place that puts it into words."""

from __future__ import annotations

from enum import StrEnum

import msgspec

GIB = 1 << 30


class Because(StrEnum):
    """What keeps a job from a node. The first ones hold for an idle node too."""

    NO_TRAINER = "no trainer"
    LABEL = "label"
    GPUS = "GPUs"
    GPU_MEMORY = "GPU memory"
    FEW_LARGE = "few large GPUs"
    CPUS = "CPU slots"
    MEMORY = "memory"

    AWAY = "away"
    DRAINED = "drained"
    CLOSED = "closed"
    """It takes no jobs by its own word."""
    DISK_FULL = "disk full"
    HELD_ALONE = "held alone"
    """One job has it to itself."""
    NOT_ALONE = "not alone"
    """The job needs it to itself, and others run there."""
    MEMORY_TAKEN = "memory taken"
    GPUS_TAKEN = "GPUs taken"
    CPUS_TAKEN = "CPU slots taken"
    NO_CREDIT = "no credit"
    """It allows no more assignments at the moment."""
    SHARE = "share"
    """It lacks a share that the job reads."""
    KEPT = "kept"
    """It is kept free for a job that needs much of it, and waits for longer."""
    ELSEWHERE = "elsewhere"
    """The job starts sooner on a busy node that holds its base than this one could fetch it."""
    AHEAD = "ahead"
    """It has room, which jobs before this one in the queue take."""


LASTING = frozenset(
    {
        Because.NO_TRAINER,
        Because.LABEL,
        Because.GPUS,
        Because.GPU_MEMORY,
        Because.FEW_LARGE,
        Because.CPUS,
        Because.MEMORY,
    }
)


class Refusal(msgspec.Struct, frozen=True):
    """Why a node does not take a job. Sizes are in bytes, all else is counted."""

    because: Because
    has: int = 0
    """What it has of what is asked for, or what of it is free."""
    needs: int = 0
    of: int = 0
    """What it has in all, where `has` is what is free."""
    smaller: int = 0
    """Free GPUs that have less memory than is asked for."""
    smaller_bytes: int = 0
    """The memory of the largest of these."""
    gpu_memory_bytes: int = 0
    """The memory that is asked for of each GPU."""
    out: int = 0
    """GPUs out of use after faults."""
    foreign: int = 0
    """GPUs that somebody else uses."""
    note: str = ""
    """The node's own words; a label; the name of a job."""

    @property
    def is_lasting(self) -> bool:
        """Whether an idle node would refuse it too."""
        return self.because in LASTING


def text_of(refusal: Refusal) -> str:
    """A refusal as people read it, after the node's name."""
    match refusal.because:
        case Because.NO_TRAINER:
            return "has no built-in training: install meshtrain[train] there"
        case Because.LABEL:
            return f"has no label {refusal.note}"
        case Because.GPUS:
            return f"has {_count(refusal.has, 'GPU')}, needs {refusal.needs}"
        case Because.GPU_MEMORY:
            return f"its GPUs have {_gib(refusal.has)} at most, needs {_gib(refusal.needs)}"
        case Because.FEW_LARGE:
            large = f"{_count(refusal.has, 'GPU')} of {_gib(refusal.gpu_memory_bytes)} or more"
            return f"has {large}, needs {refusal.needs}"
        case Because.CPUS:
            return f"has {_count(refusal.has, 'CPU slot')}, needs {refusal.needs}"
        case Because.MEMORY:
            return f"has {_gib(refusal.has)} of memory, needs {_gib(refusal.needs)}"
        case Because.AWAY:
            return "away"
        case Because.DRAINED:
            return "drained"
        case Because.CLOSED:
            return refusal.note or "takes no jobs"
        case Because.DISK_FULL:
            return "its disk was full a moment ago"
        case Because.HELD_ALONE:
            return "one job has it to itself, after running out of memory"
        case Because.NOT_ALONE:
            return f"runs {_count(refusal.has, 'job')}, and this one needs it to itself"
        case Because.MEMORY_TAKEN:
            return (
                f"its free memory is too small: {_gib(refusal.has)} of {_gib(refusal.of)}, "
                f"needs {_gib(refusal.needs)}"
            )
        case Because.GPUS_TAKEN:
            return _gpus_taken(refusal)
        case Because.CPUS_TAKEN:
            return f"{_count(refusal.has, 'CPU slot')} free, needs {refusal.needs}"
        case Because.NO_CREDIT:
            return "takes no more jobs at the moment"
        case Because.SHARE:
            return f"lacks what the job reads: {refusal.note}"
        case Because.KEPT:
            return f"kept free for {refusal.note}, which waits for longer"
        case Because.ELSEWHERE:
            return "its base would take longer to fetch than to wait for a node that holds it"
        case Because.AHEAD:
            return "has room, which jobs before this one take"


def _gpus_taken(refusal: Refusal) -> str:
    asked = f" of {_gib(refusal.gpu_memory_bytes)}" if refusal.gpu_memory_bytes else ""
    told = []
    if refusal.smaller:
        told.append(f"{refusal.smaller} more with {_gib(refusal.smaller_bytes)}")
    if refusal.out:
        told.append(f"{refusal.out} out of use after faults")
    if refusal.foreign:
        told.append(f"{refusal.foreign} used by somebody else")
    beside = f" ({', '.join(told)})" if told else ""
    return f"{_count(refusal.has, 'GPU')}{asked} free, needs {refusal.needs}{beside}"


def _gib(size_bytes: int) -> str:
    amount = size_bytes / GIB
    return f"{amount:.1f} GiB" if amount < 10 and amount != round(amount) else f"{amount:.0f} GiB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
