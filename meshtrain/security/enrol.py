"""How somebody becomes a member: a token's secret against a place on the list."""

from __future__ import annotations

import hashlib

import msgspec

from meshtrain.core.member import Member, Members
from meshtrain.security.membership import MembersFile
from meshtrain.security.tokens import TokensFile


def enrol(
    members: MembersFile, tokens: TokensFile, secret: bytes, member: Member, now_s: float
) -> Members:
    """Take `member` into the mesh for one use of the token; the list that it is on.

    Who asks again, since the answer was lost or the master died over it, is answered
    again and uses up nothing. A refusal uses up nothing either. `now_s` is seconds since 1970.

    Raises TokenError for the token, MembershipError for the name or the keys.
    """
    # The token first: who has none learns nothing of names that are taken.
    tokens.require_known(secret, now_s)
    if not members.has(member):
        members.require_addable(member)
        tokens.redeem(secret, member.kind, now_s, _standing_for(member))
        members.add(member)
        tokens.settle(secret, now_s)
    return members.members


def _standing_for(member: Member) -> str:
    return hashlib.sha256(msgspec.msgpack.encode(member)).hexdigest()
