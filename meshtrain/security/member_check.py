"""What a member's record must be, wherever it comes from: a file, a message, a request to join."""

from __future__ import annotations

import re
from typing import Final

from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.core.node import MASTER_NODE_ID

MEMBERS_MAX: Final = 10_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
"""The same as the names of nodes in settings; `/` and `@` part names from the rest."""
_CURVE_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}\Z")
"""The letters of Z85, https://rfc.zeromq.org/spec/32/"""
_HEX = re.compile(r"[0-9a-f]{64}\Z")


def problem_of_name(name: str, kind: MemberKind) -> str:
    """What is wrong with a member's name; "" when nothing is."""
    if not _NAME.match(name):
        return (
            f"'{name[:80]}' is no name for a member: 1 to 64 letters, digits, '.', '_' "
            "or '-', the first one a letter or a digit"
        )
    if kind is MemberKind.NODE and name == MASTER_NODE_ID:
        return f"'{MASTER_NODE_ID}' is the master's own name: give the node another"
    return ""


def problem_of(member: Member) -> str:
    """What is wrong with a member's record; "" when nothing is."""
    if problem := problem_of_name(member.name, member.kind):
        return problem
    who = f"{member.kind.value} '{member.name}'"
    if not _CURVE_KEY.match(member.curve_key):
        return f"the CURVE key of {who} is no key: expected 40 letters of Z85"
    if not _HEX.match(member.sign_key):
        return f"the signing key of {who} is no key: expected 64 hexadecimal digits"
    if not _HEX.match(member.cert_sha256):
        return f"the certificate of {who} is no SHA-256: expected 64 hexadecimal digits"
    return ""


def problem_of_all(members: Members) -> str:
    """What is wrong with a list of members; "" when nothing is."""
    if members.version < 0:
        return f"its version is {members.version}"
    if len(members.members) > MEMBERS_MAX:
        return f"it has {len(members.members)} members, the limit is {MEMBERS_MAX}"
    seen: set[str] = set()
    for member in members.members:
        if problem := problem_of(member):
            return problem
        for what in _unique(member):
            if what in seen:
                return f"{what} is in it twice"
            seen.add(what)
    return ""


def _unique(member: Member) -> tuple[str, ...]:
    return (
        f"{member.kind.value} '{member.name}'",
        f"the CURVE key {member.curve_key}",
        f"the signing key {member.sign_key}",
        f"the certificate {member.cert_sha256}",
    )
