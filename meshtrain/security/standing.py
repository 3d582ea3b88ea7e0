"""A member's standing on its own host: its keys, the members it knows, and where its master is.

    FOLDER/keys/          its keys
    FOLDER/members.json   the last list of members that it was given
    FOLDER/mesh.json      the master's control address, and which token was used

The folder is a worker's home, or `person/` below the home of whoever gives commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.errors import SettingsError
from meshtrain.security.keys import Identity
from meshtrain.security.membership import MembersFile, Roll
from meshtrain.security.private_file import read_private, require_unshared, write_private
from meshtrain.security.where import PERSON_FOLDER as PERSON_FOLDER

KEYS_FOLDER: Final = "keys"
MEMBERS_FILE: Final = "members.json"
MESH_FILE: Final = "mesh.json"
ADMIN: Final = "admin"
"""The person that commands on the master's own host are known as."""
_MESH_BYTES_MAX: Final = 4096


class _Mesh(msgspec.Struct, frozen=True):
    master: str
    token_sha256: str = ""
    """Of the word that was used to join: it needn't be used again."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What makes this host, or this person, a member."""

    identity: Identity
    members: MembersFile
    master_address: str

    @property
    def master(self) -> Member:
        """The master, by whose keys it is known.

        Raises SettingsError when the list names none.
        """
        master = self.members.roll.master
        if master is None:
            raise SettingsError(
                "the list of members here names no master: join the mesh again with a new token "
                "(`meshtrain token` where the master runs)"
            )
        return master


def load_standing(folder: Path, kind: MemberKind) -> Standing | None:
    """The membership that lies in `folder`; None where there is none.

    A node that has only a part of it is refused: without keys it would take orders
    from whoever listens on this host.

    Raises SettingsError, which names the file and the mend, when it is damaged, not
    whole, readable by others, or of another kind of member, and when others may
    write to the folder.
    """
    keys, mesh = folder / KEYS_FOLDER, folder / MESH_FILE
    has_keys, has_mesh = (path.exists() or path.is_symlink() for path in (keys, mesh))
    if not has_keys and not has_mesh:
        return None
    if not has_keys:
        raise SettingsError(
            f"{keys} is missing, and {mesh} says that this was a member: restore the keys from a "
            f"backup, or remove {mesh.name} and join the mesh again with a new token"
        )
    require_unshared(folder)
    if not has_mesh and kind is MemberKind.PERSON:
        # Keys were made, and the mesh has not taken them: joining goes on from there.
        return None
    identity = Identity.load(keys)
    require_kind(identity, kind, folder)
    if not has_mesh:
        raise SettingsError(
            f"{keys} was made to join a mesh, and that was not finished: join again, with the "
            "same token or a new one (`meshtrain token` where the master runs)"
        )
    members = MembersFile(folder / MEMBERS_FILE)
    return Standing(identity, members, _read_mesh(mesh).master)


def require_kind(identity: Identity, kind: MemberKind, folder: Path) -> None:
    """Raises SettingsError when the keys in a folder are those of another kind of member."""
    if identity.member.kind is not kind:
        raise SettingsError(
            f"{folder} is the home of {identity.member.kind.value} '{identity.name}', and a "
            f"{kind.value} needs one of its own: name another with --home or MESHTRAIN_HOME"
        )


def keep_standing(
    folder: Path, members: Members, master_address: str, token_sha256: str = ""
) -> None:
    """Write down who belongs to the mesh and where its master is, beside the keys.

    Nothing is written that is there already. A list of another master's mesh makes
    way for this one, whatever their versions are.
    """
    kept = MembersFile(folder / MEMBERS_FILE)
    former, master = kept.roll.master, Roll(members).master
    kept.replace(members, anew=former is not None and former != master)
    mesh = _Mesh(master_address, token_sha256)
    path = folder / MESH_FILE
    if not path.exists() or _read_mesh(path) != mesh:
        write_private(path, msgspec.json.encode(mesh) + b"\n")


def has_used(folder: Path, token_sha256: str) -> bool:
    """Whether the member in a folder joined with this very token."""
    path = folder / MESH_FILE
    return path.exists() and _read_mesh(path).token_sha256 == token_sha256


_mesh_decoder = msgspec.json.Decoder(_Mesh)


def _read_mesh(path: Path) -> _Mesh:
    try:
        return _mesh_decoder.decode(read_private(path, _MESH_BYTES_MAX))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} is damaged ({error}): remove it, and join the mesh again with a new token"
        ) from error
