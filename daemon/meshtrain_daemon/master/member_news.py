"""Tells the nodes who belongs to the mesh: at once who was revoked, soon who joined.

Each node says with its hello and its heartbeats which list it has, so that one
that missed the news is told again, at most once in `AGAIN_S`: a node that asks for
the list in a loop doesn't fill the master's memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from meshtrain.clock import lease_now_s, wall_now_s
from meshtrain.core.member import MemberKind, Members
from meshtrain.errors import MeshtrainError
from meshtrain.net.base import MasterTransport
from meshtrain.wire import messages as msg
from meshtrain_daemon.master.membership import Membership

AGAIN_S = 1.0
"""How long a list that was sent may be on its way."""
TOGETHER_S = 0.2
"""Those who join within this time are told of together."""
MEMBER_BYTES = 320
"""About what a member takes in a list on its way."""
PUSHED_BYTES_MAX = 64 << 20
"""More than this for all nodes together is not sent at once, but at each node's heartbeat."""
OUTRANKED_EVERY_S = 10.0
AHEAD_MAX_S = 366 * 86400
"""How far from the present the version of a node's list may lie and be believed."""
ANSWERED_WITHIN_S = 0.05

Revoked = frozenset[tuple[MemberKind, str]]


class MemberNews:
    """What nodes know of the list of members, and the way of news to them.

    Args:
        peers: node id → its connection, of those that are there.
        end: called with the name of each node that was revoked; it is no peer after that.
        spawn: runs something beside.
        note: shows a line to everybody who looks.
    """

    def __init__(
        self,
        membership: Membership,
        sockets: MasterTransport,
        peers: Mapping[str, bytes],
        *,
        end: Callable[[str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        note: Callable[[str], None],
    ) -> None:
        self._membership = membership
        self._sockets = sockets
        self._peers = peers
        self._end = end
        self._spawn = spawn
        self._note = note
        self._revoked = _revoked(membership.members)
        #: node id → the connection that a list was sent to, its version, and when
        self._told: dict[str, tuple[bytes, int, float]] = {}
        self._pushing: asyncio.TimerHandle | None = None
        self._pushed_s = float("-inf")
        self._outranked_s = float("-inf")
        self._closed = False
        membership.follow(self._changed)

    @property
    def revoked_nodes(self) -> set[str]:
        """The nodes whose membership was ended."""
        return {name for kind, name in self._revoked if kind is MemberKind.NODE}

    def heard(self, node_id: str, peer: bytes, version: int) -> None:
        """A node says which version of the list it has."""
        now = self._membership.members.version
        if version < now:
            told = self._told.get(node_id)
            is_on_its_way = told is not None and told[:2] == (peer, now)
            if told is None or not is_on_its_way or lease_now_s() - told[2] > AGAIN_S:
                self._tell(node_id, peer)
        elif version > now:
            self._outrank(node_id, version)

    def close(self) -> None:
        """Cut no links any more."""
        self._closed = True
        if self._pushing is not None:
            self._pushing.cancel()

    def _changed(self, members: Members) -> None:
        former, self._revoked = self._revoked, _revoked(members)
        ended = self._revoked - former
        for kind, name in sorted(ended):
            if kind is MemberKind.NODE:
                self._told.pop(name, None)
                self._end(name)
        if ended:
            self._push()
            # What they send is refused from now on. Who asked for it is answered before all
            # links are cut, so that nothing more reaches those who were revoked.
            asyncio.get_running_loop().call_later(ANSWERED_WITHIN_S, self._cut_links)
        elif self._pushing is None and not self._closed:
            due_s = max(0.0, self._pushed_s + TOGETHER_S - lease_now_s())
            self._pushing = asyncio.get_running_loop().call_later(due_s, self._push)

    def _push(self) -> None:
        if self._pushing is not None:
            self._pushing.cancel()
            self._pushing = None
        self._pushed_s = lease_now_s()
        size_bytes = len(self._membership.members.members) * MEMBER_BYTES
        if size_bytes * len(self._peers) <= PUSHED_BYTES_MAX:
            for node_id, peer in list(self._peers.items()):
                self._tell(node_id, peer)

    def _tell(self, node_id: str, peer: bytes) -> None:
        members = self._membership.members
        self._told[node_id] = (peer, members.version, lease_now_s())
        self._sockets.send_control(peer, [msg.MembersChanged(members)])

    def _cut_links(self) -> None:
        if not self._closed:
            self._sockets.rebind()

    def _outrank(self, node_id: str, version: int) -> None:
        """A node has a later list than the master: nothing would reach it for long.

        So it is where the master's came from a backup, or its clock went back.
        """
        now_s = lease_now_s()
        is_sane = version <= (wall_now_s() + AHEAD_MAX_S) * 1000
        if is_sane and now_s - self._outranked_s >= OUTRANKED_EVERY_S:
            self._outranked_s = now_s
            self._spawn(self._renew(node_id, version))

    async def _renew(self, node_id: str, version: int) -> None:
        try:
            await asyncio.to_thread(self._membership.renew, version)
        except (MeshtrainError, OSError) as error:
            self._note(f"the list of members can't be renewed: {error}")
            return
        self._note(
            f"{node_id} had a later list of members than the master, as after a restore or when "
            "a clock went back: all nodes take the master's. See that nobody is on it who was "
            "revoked since: meshtrain nodes members"
        )


def _revoked(members: Members) -> Revoked:
    return frozenset((m.kind, m.name) for m in members.members if m.revoked)
