"""The nodes that a sweep ran on, as records and reports tell of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from meshtrain.core.job import Job
from meshtrain.core.node import Node


class Machine(msgspec.Struct, frozen=True):
    """A node, as far as a report tells of it."""

    node: str
    version: str = ""
    """Of meshtrain."""
    cpu_slots: int = 0
    gpus: tuple[str, ...] = ()
    """The models of its GPUs."""
    memory_bytes: int = 0


def machines_that_ran(jobs: Iterable[Job], nodes: Mapping[str, Node]) -> tuple[Machine, ...]:
    """The nodes that jobs last ran on, as far as they are still known."""
    ran_on = {job.attempt.node_id for job in jobs if job.attempt is not None}
    return tuple(
        Machine(
            node=node_id,
            version=nodes[node_id].spec.version,
            cpu_slots=nodes[node_id].spec.cpu_slots,
            gpus=tuple(gpu.model for gpu in nodes[node_id].spec.gpus),
            memory_bytes=nodes[node_id].spec.memory_bytes,
        )
        for node_id in sorted(ran_on)
        if node_id in nodes
    )
