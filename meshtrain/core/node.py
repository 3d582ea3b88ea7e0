"""What a node is, what it holds and what of it is free."""

from __future__ import annotations

from collections import deque
from typing import Annotated

import msgspec

from meshtrain.core.commands import Command, EndAttempt, ForgetAttempt, PreemptAttempt
from meshtrain.core.inventory import CacheUse, RoomWanted
from meshtrain.core.job import Placement
from meshtrain.core.session import granted_name

MASTER_NODE_ID = "master"
"""The master is one holder of artifacts among others, under this name."""

NodeName = Annotated[
    str, msgspec.Meta(pattern=rf"\A(?!{MASTER_NODE_ID}\Z)[A-Za-z0-9][A-Za-z0-9._-]{{0,63}}\Z")
]
"""As the settings take it; nobody else may be called what the master is."""
Bytes = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
GpuIndex = Annotated[int, msgspec.Meta(ge=0, le=1023)]
Slots = Annotated[int, msgspec.Meta(ge=0, le=65_536)]


class Gpu(msgspec.Struct, frozen=True):
    index: GpuIndex
    model: str
    memory_bytes: Bytes


Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class GpuUse(msgspec.Struct, frozen=True):
    """How much of a GPU is in use, by whomever. What the driver doesn't tell is None."""

    index: GpuIndex
    used: Share | None = None
    """Share of the last moments in which something computed on it."""
    memory_used_bytes: Bytes = 0
    memory_bytes: Bytes = 0
    temperature_c: Annotated[int, msgspec.Meta(ge=-100, le=1000)] | None = None


class HostUse(msgspec.Struct, frozen=True):
    """How busy a host is, all its processes together: for people, nothing is decided by it."""

    cpu: Share | None = None
    """Share of its CPUs; None where the system doesn't tell."""
    memory_used_bytes: Bytes = 0
    gpus: Annotated[tuple[GpuUse, ...], msgspec.Meta(max_length=1024)] = ()
    """Of those that the mesh may use."""


AHEAD_PER_SLOT = 1
"""Short jobs that a node gets beyond each CPU slot: they wait there, so that no slot waits
for the master between two of them. The node itself never runs more than it has slots."""


class NodeSpec(msgspec.Struct, frozen=True):
    """What a node says it is when it says hello.

    A hello that breaks these limits is refused where it is decoded.
    """

    node_id: NodeName
    http_url: str
    """Where its artifacts are served."""
    cpu_slots: Slots
    memory_bytes: Bytes = 0
    gpus: tuple[Gpu, ...] = ()
    labels: dict[str, str] = {}
    version: str = ""
    trains: bool = True
    """Whether the built-in training is installed there."""
    price_per_gpu_hour: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    """What an hour of one of its GPUs costs; 0 where it doesn't say."""

    def __post_init__(self) -> None:
        # A GPU that is listed twice would be given out twice.
        if len({gpu.index for gpu in self.gpus}) < len(self.gpus):
            raise ValueError("a GPU is listed twice; each index once")


class GpuFaults(msgspec.Struct, frozen=True):
    """What is remembered of a GPU whose jobs failed by its fault."""

    node_id: str
    gpu: int
    faults: int
    """Since a job last ended well on it."""
    out_of_use: bool = False
    """No job is given to it until somebody releases it."""


class Node:
    """A node as the scheduler sees it; it changes in place."""

    __slots__ = (
        "accepting",
        "alone",
        "asked",
        "assign_seqs",
        "assigned_count",
        "beat",
        "cache",
        "connected",
        "cpus_used",
        "drained",
        "evicting",
        "fetching",
        "gpu_faults",
        "gpus_busy",
        "gpus_out",
        "gpus_used",
        "grant",
        "heard_s",
        "holds",
        "inventory",
        "left",
        "lists_attempts",
        "live",
        "long",
        "long_cpus",
        "memory_used_bytes",
        "note",
        "outbox",
        "paused",
        "pending",
        "prefetch",
        "room",
        "seen_seq",
        "seq",
        "session",
        "spec",
    )

    def __init__(self, spec: NodeSpec, asked: str, now_s: float, master_life: str = "") -> None:
        self.spec = spec
        #: The session that its hello asked for, and what both call it since.
        self.asked = asked
        self.session = granted_name(asked, master_life)
        self.connected = True
        #: It said goodbye: what comes late of this session doesn't bring it back.
        self.left = False
        self.drained = False
        self.accepting = True
        #: Why it takes no jobs, in its own words.
        self.note = ""
        self.heard_s = now_s
        #: Number of the last heartbeat; older ones that come late are ignored.
        self.beat = -1
        #: How many assignments of this session it allows in all, and has got.
        self.grant = 0
        self.assigned_count = 0
        #: Commands that the node has not said to have seen: (seq, command).
        self.seq = 0
        self.seen_seq = 0
        self.outbox: deque[tuple[int, Command]] = deque()
        #: Those of them that end or forget an attempt: none needs to be sent twice.
        self.pending: set[Command] = set()
        #: Which command gave it an attempt.
        self.assign_seqs: dict[str, int] = {}
        #: What it holds; changed by the directory alone.
        self.holds: set[str] = set()
        self.fetching: set[str] = set()
        #: Number of the last change of what it holds that was taken.
        self.inventory = 0
        #: The artifact that it was granted to remove, and has not answered for.
        self.evicting: str | None = None
        self.cache = CacheUse()
        #: What it asked for last, and did not get.
        self.room: RoomWanted | None = None
        #: The artifact that it was told to fetch ahead, and the number of that command.
        self.prefetch: tuple[str, int] | None = None
        #: Whether it named any attempt when it was last heard.
        self.lists_attempts = True
        self.cpus_used = 0
        self.memory_used_bytes = 0
        self.gpus_used: set[int] = set()
        #: GPUs that somebody else uses; those out of use; and how often each failed lately
        self.gpus_busy: frozenset[int] = frozenset()
        self.gpus_out: set[int] = set()
        self.gpu_faults: dict[int, int] = {}
        #: the attempt that has the node to itself
        self.alone: str | None = None
        #: Its disk was full a moment ago: new jobs would only meet that again.
        self.paused = False
        #: attempt ids that hold a part of it
        self.live: set[str] = set()
        #: Of these, the ones that may run for long, and the CPU slots that they hold.
        self.long: set[str] = set()
        self.long_cpus = 0

    @property
    def node_id(self) -> str:
        return self.spec.node_id

    @property
    def takes_jobs(self) -> bool:
        return (
            self.connected
            and not self.drained
            and self.accepting
            and not self.paused
            and self.alone is None
            and self.assigned_count < self.grant
        )

    def trim_outbox(self, seen_seq: int) -> None:
        """Drop the commands that the node says to have seen; it can't have seen later ones."""
        self.seen_seq = max(self.seen_seq, min(seen_seq, self.seq))
        while self.outbox and self.outbox[0][0] <= self.seen_seq:
            _, command = self.outbox.popleft()
            if isinstance(command, EndAttempt | ForgetAttempt | PreemptAttempt):
                self.pending.discard(command)

    def cpus_max(self, *, ahead: bool) -> int:
        """How many CPU slots may be given out: its own, and for short jobs some to wait.

        Those wait for a slot that is soon free: not for one whose job may take days.
        """
        slots = self.spec.cpu_slots
        return slots + AHEAD_PER_SLOT * max(0, slots - self.long_cpus) if ahead else slots

    def has_room(self, *, ahead: bool) -> bool:
        """Whether anything of it could be given out."""
        return self.cpus_used < self.cpus_max(ahead=ahead) or len(self.gpus_used) < len(
            self.spec.gpus
        )

    def has_free(self, placement: Placement) -> bool:
        """Whether a part of the node is there and not taken."""
        return (
            self.gpus_used.isdisjoint(placement.gpus)
            and {gpu.index for gpu in self.spec.gpus}.issuperset(placement.gpus)
            and self.cpus_used + placement.cpus <= self.cpus_most
        )

    @property
    def cpus_most(self) -> int:
        """CPU slots that can be given out at all, those that wait included."""
        return self.spec.cpu_slots * (1 + AHEAD_PER_SLOT)

    def occupy(self, attempt_id: str, placement: Placement, *, short: bool = False) -> None:
        """Give a part of the node to an attempt.

        Args:
            short: it is over in no time, as those of its sweep were.

        Raises AssertionError when a GPU is taken already: it must never be
        given out twice.
        """
        if attempt_id in self.live:
            return
        assert self.gpus_used.isdisjoint(placement.gpus), "a GPU given out twice"
        self.live.add(attempt_id)
        if not short:
            self.long.add(attempt_id)
            self.long_cpus += placement.cpus
        self.gpus_used.update(placement.gpus)
        self.cpus_used += placement.cpus
        self.memory_used_bytes += placement.memory_bytes
        if placement.alone:
            self.alone = attempt_id

    def release(self, attempt_id: str, placement: Placement) -> None:
        """Take back what an attempt held; harmless when it held nothing."""
        if attempt_id not in self.live:
            return
        self.live.discard(attempt_id)
        if attempt_id in self.long:
            self.long.discard(attempt_id)
            self.long_cpus -= placement.cpus
        self.gpus_used.difference_update(placement.gpus)
        self.cpus_used -= placement.cpus
        self.memory_used_bytes -= placement.memory_bytes
        if self.alone == attempt_id:
            self.alone = None
