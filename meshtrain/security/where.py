"""Where the master is, and whether keys are shown there: by what is told, and what lies at home.

Imports nothing that takes its time to load: a shell asks while somebody types.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from meshtrain.security.loopback import own_address
from meshtrain.security.private_file import require_unshared

ADDRESS_DEFAULT: Final = "127.0.0.1:7470"
PORTS_FILE: Final = "master.json"
"""Below its home; a running master says there where it listens."""
PERSON_FOLDER: Final = "person"
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})


class _Membership(Protocol):
    @property
    def master_address(self) -> str: ...


MembershipT = TypeVar("MembershipT", bound=_Membership)


class _Told(msgspec.Struct, frozen=True):
    """What a running master says in its home of where it listens."""

    host: str
    control: int
    secure: bool = False

    @property
    def address(self) -> str:
        host = own_address(self.host)
        return f"[{host}]:{self.control}" if ":" in host else f"{host}:{self.control}"


def where(
    master: str | None, home: Path, load: Callable[[Path], MembershipT | None]
) -> tuple[str, MembershipT | None]:
    """The address of `master`, or else of the master of this home, or of the mesh that was joined;
    and the membership to show there.

    A master on this host says in its home whether it wants keys. Any other is
    shown those of the mesh that was joined, but on loopback only where that is
    the very mesh.

    Args:
        load: reads the membership in a folder; None where there is none.

    Raises SettingsError when others may write to the home, and what `load` raises.
    """
    told = _told_in(home)
    if told is not None and master in (None, told.address):
        return told.address, _membership(home, load) if told.secure else None
    membership = _membership(home, load)
    if membership is None:
        return master or ADDRESS_DEFAULT, None
    if master in (None, membership.master_address):
        return membership.master_address, membership
    assert master is not None
    is_loopback = master.rpartition(":")[0] in _LOOPBACK
    return master, None if is_loopback else membership


def _membership(home: Path, load: Callable[[Path], MembershipT | None]) -> MembershipT | None:
    folder = home / PERSON_FOLDER
    if folder.exists():
        # Whoever may write here could take the keys away, and listen where none are shown.
        require_unshared(home)
    return load(folder)


_told_decoder = msgspec.json.Decoder(_Told)


def _told_in(home: Path) -> _Told | None:
    try:
        return _told_decoder.decode((home / PORTS_FILE).read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
