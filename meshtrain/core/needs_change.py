"""What somebody asks for in place of what a job's file said that it needs."""

from __future__ import annotations

from typing import Annotated

import msgspec

from meshtrain.spec.jobs import Resources

Slots = Annotated[int, msgspec.Meta(ge=0, le=65_536)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 60)]


class NeedsChange(msgspec.Struct, frozen=True):
    """New values of some needs; None leaves one as it is."""

    gpus: Slots | None = None
    gpu_memory_bytes: Bytes | None = None
    cpus: Annotated[int, msgspec.Meta(ge=1, le=65_536)] | None = None
    memory_bytes: Bytes | None = None
    labels_dropped: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    """Names of labels that the node need not have."""

    @property
    def is_empty(self) -> bool:
        """Whether all stays as it is."""
        return self == NeedsChange()

    def applied_to(self, needs: Resources) -> Resources:
        """The needs with these values in place."""
        values = {
            name: value
            for name in ("gpus", "gpu_memory_bytes", "cpus", "memory_bytes")
            if (value := getattr(self, name)) is not None
        }
        if self.labels_dropped:
            values["labels"] = tuple(
                (name, text) for name, text in needs.labels if name not in self.labels_dropped
            )
        return msgspec.structs.replace(needs, **values)
