"""Data sets that were published under a name, and their versions."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from meshtrain.spec.jobs import InputData


class NamedInput(msgspec.Struct, frozen=True):
    """One version of a data set; versions count from 1, and each is other bytes."""

    name: str
    version: int
    artifact_id: str
    size_bytes: int = 0
    files_count: int = 0
    published_by: str = ""
    published_wall_s: float = 0.0

    @property
    def reference(self) -> str:
        """`pascal5i@2`."""
        return f"{self.name}@{self.version}"

    @property
    def data(self) -> InputData:
        """What jobs are told of it."""
        return InputData(
            source=self.reference,
            digest=self.artifact_id,
            size_bytes=self.size_bytes,
            files_count=self.files_count,
        )


Versions = tuple[NamedInput, ...]
"""All of one name, the oldest first."""


def version_of(known: Mapping[str, Versions], name: str, version: int | None) -> NamedInput | None:
    """A version of a data set; None asks for the newest. None where there is none."""
    versions = known.get(name, ())
    if version is None:
        return versions[-1] if versions else None
    return next((one for one in versions if one.version == version), None)
