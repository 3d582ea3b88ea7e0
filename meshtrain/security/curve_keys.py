"""The keys of one link alone, of a person who gives commands: read without all that can be wrong.

A shell asks for names while somebody types. For that the CURVE keys do; signing
and TLS keys aren't even read. Whoever wants to know why it fails runs a command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.errors import SettingsError
from meshtrain.security.private_file import (
    read_private,
    require_private_folder,
    require_unshared,
)

_MEMBER_BYTES_MAX: Final = 64 * 1024
_MEMBERS_BYTES_MAX: Final = 8 << 20


class CurveKeys(msgspec.Struct, frozen=True):
    """What a person's link to the master needs."""

    member: Member
    secret: bytes
    master_key: bytes
    """The master's public key, in Z85."""
    master_address: str


class _Mesh(msgspec.Struct, frozen=True):
    master: str


_member_decoder = msgspec.json.Decoder(Member)
_mesh_decoder = msgspec.json.Decoder(_Mesh)
_members_decoder = msgspec.json.Decoder(Members)


def load_curve_keys(folder: Path) -> CurveKeys | None:
    """The keys of the person whose membership lies in `folder`; None where there is none.

    Raises SettingsError when others may touch them, or they are damaged.
    """
    keys = folder / "keys"
    if not (folder / "mesh.json").exists():
        return None
    require_unshared(folder)
    try:
        require_private_folder(keys)
        member = _member_decoder.decode(_read(keys / "member.json"))
        mesh = _mesh_decoder.decode(_read(folder / "mesh.json"))
        members = _members_decoder.decode(read_private(folder / "members.json", _MEMBERS_BYTES_MAX))
        secret = _read(keys / "curve.key").strip()
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"the membership in {folder} can't be read: {error}") from error
    masters = [m for m in members.members if m.kind is MemberKind.MASTER and not m.revoked]
    if not masters or member.kind is not MemberKind.PERSON:
        raise SettingsError(f"the membership in {folder} is not a person's, or has no master")
    return CurveKeys(member, secret, masters[0].curve_key.encode(), mesh.master)


def _read(path: Path) -> bytes:
    return read_private(path, _MEMBER_BYTES_MAX)
