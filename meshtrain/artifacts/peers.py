"""The members whose HTTP servers this host asks: what each is known by, and who signs for it."""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from dataclasses import dataclass, field

from meshtrain.core.member import Member, MemberKind
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.security.signing import HttpSecurity, Signer
from meshtrain.security.tls import pinned_context

PEERS_KEPT_MAX = 2048
"""Of each the nonce and the connections are kept."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One member's server, and this host's standing with it."""

    member: Member
    signer: Signer
    tls: ssl.SSLContext
    """Takes no other certificate than the member's."""
    encrypt: bool
    """Whether it may be asked by TLS only."""
    learning: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while its nonce is being learnt, so that one request does that for all."""


class Peers:
    """All that this host asks, by their names; follows the roll."""

    def __init__(self, security: HttpSecurity) -> None:
        self._security = security
        self._peers: OrderedDict[tuple[MemberKind, str], Peer] = OrderedDict()

    def of(self, node_id: str) -> Peer | None:
        """The server of a node or of the master; None when it is no member (any more)."""
        roll = self._security.roll
        if node_id == MASTER_NODE_ID:
            member = roll.master
        else:
            member = roll.by_name(MemberKind.NODE, node_id)
        if member is None:
            return None
        key = (member.kind, member.name)
        peer = self._peers.get(key)
        if peer is None or peer.member != member:
            # New, or back with other keys: another server altogether.
            peer = self._peers[key] = Peer(
                member=member,
                signer=Signer(self._security.identity, member),
                tls=pinned_context(member.cert_sha256),
                encrypt=self._security.encrypt,
            )
        self._peers.move_to_end(key)
        if len(self._peers) > PEERS_KEPT_MAX:
            self._peers.popitem(last=False)
        return peer
