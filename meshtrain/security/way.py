"""The way to the master for whoever gives commands: its address, and the keys to show there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meshtrain.core.member import MemberKind
from meshtrain.security.standing import Standing, load_standing
from meshtrain.security.where import ADDRESS_DEFAULT as ADDRESS_DEFAULT
from meshtrain.security.where import PORTS_FILE as PORTS_FILE
from meshtrain.security.where import where


@dataclass(frozen=True, slots=True)
class Way:
    """Where the master is, and as whom it is asked; None where it lets everybody in."""

    address: str
    standing: Standing | None = None


def find_way(master: str | None, home: Path) -> Way:
    """The way to `master`, or else to the master of this home, or of the mesh that was joined.

    Raises SettingsError when the keys are damaged, or others may read them.
    """
    return Way(*where(master, home, lambda folder: load_standing(folder, MemberKind.PERSON)))
