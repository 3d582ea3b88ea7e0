"""A member's standing on its own host: its keys, the members it knows, and where its master is.

    FOLDER/keys/          its keys
    FOLDER/members.json   the last list of members that it was given
    FOLDER/mesh.json      the master's control address

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
from meshtrain.security.membership import MembersFile
from meshtrain.security.private_file import read_private, write_private

KEYS_FOLDER: Final = "keys"
PERSON_FOLDER: Final = "person"
MEMBERS_FILE: Final = "members.json"
MESH_FILE: Final = "mesh.json"
ADMIN: Final = "admin"
"""The person that commands on the master's own host are known as."""
_MESH_BYTES_MAX: Final = 4096


class _Mesh(msgspec.Struct, frozen=True):
    master: str


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

    Raises SettingsError, which names the file and the mend, when it is damaged,
    readable by others, or of another kind of member.
    """
    keys = folder / KEYS_FOLDER
    if not keys.exists() and not keys.is_symlink():
        return None
    if not (folder / MESH_FILE).exists():
        # Keys were made, and the mesh has not taken them: joining goes on from there.
        return None
    identity = Identity.load(keys)
    if identity.member.kind is not kind:
        raise SettingsError(
            f"{keys} holds the keys of {identity!r}, and a {kind.value} is needed here: "
            "use another home"
        )
    members = MembersFile(folder / MEMBERS_FILE)
    return Standing(identity, members, _read_mesh(folder / MESH_FILE))


def keep_standing(folder: Path, members: Members, master_address: str) -> None:
    """Write down who belongs to the mesh and where its master is, beside the keys."""
    MembersFile(folder / MEMBERS_FILE).replace(members)
    data = msgspec.json.encode(_Mesh(master_address)) + b"\n"
    write_private(folder / MESH_FILE, data)


_mesh_decoder = msgspec.json.Decoder(_Mesh)


def _read_mesh(path: Path) -> str:
    try:
        return _mesh_decoder.decode(read_private(path, _MESH_BYTES_MAX)).master
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} is damaged ({error}): remove it, and join the mesh again with a new token"
        ) from error
