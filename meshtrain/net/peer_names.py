"""The names that ZeroMQ's ROUTER knows the links of members by."""

from __future__ import annotations

import os
from typing import Final

from meshtrain.core.member import Member, MemberKind

_SECRET_BYTES: Final = 16


def peer_prefix(member: Member) -> bytes:
    """What the peer name of each of a member's links begins with; no other member's does."""
    if member.kind is MemberKind.NODE:
        return f"{member.name}/".encode()
    return f"{member.kind.value}@{member.name}/".encode()


def peer_name(member: Member, life: str = "") -> bytes:
    """A fresh name for a link of a member.

    It ends in a secret between the member and the master: the ROUTER hands a
    name over to whoever comes with it last, so no other member may know it.
    """
    middle = f"{life}/" if life else ""
    return peer_prefix(member) + f"{middle}{os.urandom(_SECRET_BYTES).hex()}".encode()


def person_of(peer: bytes) -> str:
    """The person whose link has this name; "" where it is no person's."""
    kind, _, rest = peer.partition(b"@")
    name, slash, _ = rest.partition(b"/")
    return name.decode("ascii", "replace") if kind == b"person" and slash else ""
