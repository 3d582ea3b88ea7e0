"""Members with real keys, made once for all tests, and lists of them."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import msgspec

from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.security.keys import Identity
from meshtrain.security.membership import Roll
from meshtrain.security.signing import HttpSecurity

_FOLDER = tempfile.TemporaryDirectory(prefix="meshtrain-keys-")


@functools.cache
def identity(kind: MemberKind, name: str, copy: int = 0) -> Identity:
    """A member's keys; `copy` makes other keys under the same name."""
    folder = Path(_FOLDER.name) / f"{kind.value}-{name}-{copy}"
    return Identity.load_or_create(folder, name, kind)


MASTER = identity(MemberKind.MASTER, "master")
NODE = identity(MemberKind.NODE, "gpu1")
OTHER_NODE = identity(MemberKind.NODE, "gpu2")
PERSON = identity(MemberKind.PERSON, "ada")
STRANGER = identity(MemberKind.PERSON, "mallory")
"""On no list."""
IMPOSTOR = identity(MemberKind.PERSON, "ada", 1)
"""Calls itself what somebody else is."""
ALL = (MASTER, NODE, OTHER_NODE, PERSON)


def members(*identities: Identity, revoked: tuple[Identity, ...] = (), version: int = 1) -> Members:
    return Members(
        version,
        (
            *(each.member for each in identities),
            *(msgspec.structs.replace(each.member, revoked=True) for each in revoked),
        ),
    )


def roll(*identities: Identity) -> Roll:
    return Roll(members(*(identities or ALL)))


def security(of: Identity, of_roll: Roll | None = None, *, encrypt: bool = True) -> HttpSecurity:
    return HttpSecurity(of, of_roll or roll(), encrypt)


def revoke(of_roll: Roll, gone: Member) -> None:
    """Takes a member off a roll, as an update from the master does."""
    left = tuple(each for each in ALL if each.member != gone)
    of_roll.update(Members(2, (*(each.member for each in left), _revoked(gone))))


def _revoked(member: Member) -> Member:
    return msgspec.structs.replace(member, revoked=True)
