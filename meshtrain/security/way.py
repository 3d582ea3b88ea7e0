"""The way to the master for whoever gives commands: its address, and the keys to show there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from meshtrain.core.member import MemberKind
from meshtrain.security.loopback import own_address
from meshtrain.security.private_file import require_unshared
from meshtrain.security.standing import PERSON_FOLDER, Standing, load_standing

ADDRESS_DEFAULT: Final = "127.0.0.1:7470"
PORTS_FILE: Final = "master.json"
"""Below its home; a running master says there where it listens."""
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


@dataclass(frozen=True, slots=True)
class Way:
    """Where the master is, and as whom it is asked; None where it lets everybody in."""

    address: str
    standing: Standing | None = None


class _Told(msgspec.Struct, frozen=True):
    """What a running master says in its home of where it listens."""

    host: str
    control: int
    secure: bool = False

    @property
    def address(self) -> str:
        host = own_address(self.host)
        return f"[{host}]:{self.control}" if ":" in host else f"{host}:{self.control}"


def find_way(master: str | None, home: Path) -> Way:
    """The way to `master`, or else to the master of this home, or of the mesh that was joined.

    A master on this host says in its home whether it wants keys. Any other is
    shown those of the mesh that was joined, but on loopback only where that is
    the very mesh.

    Raises SettingsError when the keys are damaged, or others may read them.
    """
    told = _told_in(home)
    if told is not None and master in (None, told.address):
        return Way(told.address, _membership(home) if told.secure else None)
    standing = _membership(home)
    if standing is None:
        return Way(master or ADDRESS_DEFAULT)
    if master in (None, standing.master_address):
        return Way(standing.master_address, standing)
    assert master is not None
    is_loopback = master.rpartition(":")[0] in _LOOPBACK
    return Way(master, None if is_loopback else standing)


def _membership(home: Path) -> Standing | None:
    if (home / PERSON_FOLDER).exists():
        # Whoever may write here could take the keys away, and listen where none are shown.
        require_unshared(home)
    return load_standing(home / PERSON_FOLDER, MemberKind.PERSON)


_told_decoder = msgspec.json.Decoder(_Told)


def _told_in(home: Path) -> _Told | None:
    try:
        return _told_decoder.decode((home / PORTS_FILE).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
