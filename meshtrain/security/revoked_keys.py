"""Keys of memberships that were ended, kept on the master when the list needs their place.

The list of members says of a revoked one that it is revoked until its name is
another's, or the list is full. Its keys come here then, and join under no name
again: who has copied them could else come back with the next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from meshtrain.core.member import Member, MemberKind
from meshtrain.errors import SettingsError
from meshtrain.security.private_file import read_private, remove_leftovers, write_private

REVOKED_FILE: Final = "revoked_keys.json"
REVOKED_MAX: Final = 20_000
"""Memberships whose keys are kept: about 5 MB."""
_FILE_BYTES_MAX: Final = 16 << 20


class _Ended(msgspec.Struct, frozen=True, array_like=True):
    kind: MemberKind
    name: str
    curve_key: str
    sign_key: str
    cert_sha256: str

    def its_keys(self) -> tuple[str, str, str]:
        # By what they are: a signing key and a certificate are written alike.
        return f"c{self.curve_key}", f"s{self.sign_key}", f"t{self.cert_sha256}"


class RevokedKeys:
    """A list on disk that only grows, read at start; one process alone may write it.

    Raises SettingsError when the file is damaged or others may touch it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ended = _read(path)
        self._by_key = {key: ended for ended in self._ended for key in ended.its_keys()}

    @property
    def path(self) -> Path:
        return self._path

    def owner_of(self, member: Member) -> str:
        """Whose keys one of these was, in words; "" when none of them was revoked."""
        for key in _ended(member).its_keys():
            if (found := self._by_key.get(key)) is not None:
                return f"{found.kind.value} '{found.name}'"
        return ""

    def has_room_for(self, members: Sequence[Member]) -> bool:
        """Whether `keep` would take these."""
        return len(self._ended) + len(self._new(members)) <= REVOKED_MAX

    def keep(self, members: Sequence[Member]) -> None:
        """Keeps the keys of revoked members for good; on the disk when this returns.

        Raises SettingsError when that can't be written.
        """
        new = self._new(members)
        if not new:
            return
        ended = (*self._ended, *new)
        remove_leftovers(self._path)
        # A line each, so that people can read it.
        lines = b",\n".join(msgspec.json.encode(each) for each in ended)
        write_private(self._path, b"[\n" + lines + b"\n]\n")
        self._ended = ended
        self._by_key.update((key, each) for each in new for key in each.its_keys())

    def _new(self, members: Sequence[Member]) -> list[_Ended]:
        """Without those that a crash kept from leaving the list."""
        known = set(self._ended)
        return [each for each in map(_ended, members) if each not in known]


def _ended(member: Member) -> _Ended:
    return _Ended(member.kind, member.name, member.curve_key, member.sign_key, member.cert_sha256)


_decoder = msgspec.json.Decoder(tuple[_Ended, ...])


def _read(path: Path) -> tuple[_Ended, ...]:
    try:
        data = read_private(path, _FILE_BYTES_MAX)
    except FileNotFoundError:
        return ()
    try:
        ended = _decoder.decode(data)
        problem = "" if len(ended) <= REVOKED_MAX else f"it has {len(ended)} memberships"
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        problem = str(error)
    if problem:
        raise SettingsError(
            f"{path} is damaged ({problem}): restore it from a backup, or move it away; keys that "
            "were revoked and replaced could join again then, with a token"
        )
    return ended
