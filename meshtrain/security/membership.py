"""The list of members on disk, and the roll: who is on it, looked up by key or by name.

The master's list is the one that counts. It changes by `add` and `revoke`, each
time under a higher version, and is on the disk before anybody hears of it.
Every node keeps a replica, which takes only a higher version, so that it can
tell members from others while the master is away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from meshtrain.clock import wall_now_s
from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.errors import NotFoundError, SettingsError, UserError
from meshtrain.security.member_check import MEMBERS_MAX, problem_of, problem_of_all
from meshtrain.security.private_file import read_private, remove_leftovers, write_private
from meshtrain.security.revoked_keys import REVOKED_FILE, REVOKED_MAX, RevokedKeys

NOBODY: Final = Members(0, ())
_FILE_BYTES_MAX: Final = 8 << 20


class MembershipError(UserError):
    """Raised when a membership can't be given or ended as it was asked."""


class _Tables(NamedTuple):
    master: Member | None
    by_curve_key: dict[str, Member]
    by_sign_key: dict[str, Member]
    by_name: dict[tuple[MemberKind, str], Member]


class Roll:
    """Who belongs to the mesh now, for lookups on hot paths. Revoked members aren't found.

    `update` replaces it whole, in one step, also while other threads look.
    """

    def __init__(self, members: Members = NOBODY) -> None:
        self.update(members)

    def update(self, members: Members) -> None:
        """Take a list in place of the former one."""
        valid = [member for member in members.members if not member.revoked]
        self._tables = _Tables(
            next((m for m in valid if m.kind is MemberKind.MASTER), None),
            {member.curve_key: member for member in valid},
            {member.sign_key: member for member in valid},
            {(member.kind, member.name): member for member in valid},
        )

    @property
    def master(self) -> Member | None:
        """The master, whose keys the others pin."""
        return self._tables.master

    def by_curve_key(self, curve_key: str) -> Member | None:
        """The member with this CURVE public key, in Z85."""
        return self._tables.by_curve_key.get(curve_key)

    def by_sign_key(self, sign_key: str) -> Member | None:
        """The member with this Ed25519 public key, in hex."""
        return self._tables.by_sign_key.get(sign_key)

    def by_name(self, kind: MemberKind, name: str) -> Member | None:
        """The member of this name."""
        return self._tables.by_name.get((kind, name))


class MembersFile:
    """A list of members on disk, read at start; one process alone may write it, any may read.

    `roll` follows each change; so do listeners, which are called one change after
    the other by the thread that made it, after the list is on the disk.
    Versions are at least milliseconds since 1970, so that a list restored from a
    backup outruns at its next change (or `renew`) what was told before.

    Keys that were revoked and left the list are kept in a file beside it.

    Raises SettingsError when a file is damaged or others may touch it.
    """

    def __init__(self, path: Path, *, now_s: Callable[[], float] = wall_now_s) -> None:
        self._path = path
        self._tidied = False
        self._now_s = now_s
        self._lock = threading.RLock()
        self._listeners: list[Callable[[Members], None]] = []
        self._members = _read(path)
        self._revoked = RevokedKeys(path.with_name(REVOKED_FILE))
        self.roll = Roll(self._members)

    @property
    def members(self) -> Members:
        return self._members

    @property
    def version(self) -> int:
        return self._members.version

    def on_change(self, listener: Callable[[Members], None]) -> None:
        """Have `listener` called with the new list after each change."""
        with self._lock:
            self._listeners.append(listener)

    def has(self, member: Member) -> bool:
        """Whether this very member, with these keys, is on the list and not revoked."""
        return self.roll.by_name(member.kind, member.name) == member

    def require_addable(self, member: Member) -> None:
        """Raises MembershipError when `add` would refuse this member."""
        if problem := problem_of(member):
            raise MembershipError(f"this member can't be taken: {problem}")
        if member.revoked:
            raise MembershipError("this member can't be taken: it is marked as revoked")
        if owner := self._revoked.owner_of(member):
            raise _revoked_before(owner)
        for other in self._members.members:
            same_name = (other.kind, other.name) == (member.kind, member.name)
            same_key = (
                other.curve_key == member.curve_key
                or other.sign_key == member.sign_key
                or other.cert_sha256 == member.cert_sha256
            )
            if same_key and other.revoked:
                raise _revoked_before(_words(other))
            if same_key and not same_name:
                raise MembershipError(
                    f"these keys are those of {_words(other)} already: each member needs keys of "
                    "its own; don't copy them"
                )
            if same_name and not other.revoked and other != member:
                raise MembershipError(
                    f"the name of {_words(other)} is taken, by other keys: choose another name, "
                    f"or end that membership first (`meshtrain nodes revoke {other.name}`)"
                )
        others = [other for other in self._members.members if not other.revoked]
        if len(others) >= MEMBERS_MAX and not self.has(member):
            raise MembershipError(
                f"the mesh has {MEMBERS_MAX} members, which is the limit: revoke some first"
            )
        if not self._revoked.has_room_for(self._parted(member)[1]):
            raise MembershipError(
                f"the keys of {REVOKED_MAX:,} memberships were revoked and replaced, which is the "
                f"limit: no more can be replaced. Where none of them can be in wrong hands, move "
                f"{self._revoked.path} away and start the master again"
            )

    def add(self, member: Member) -> bool:
        """Take a member; True when the list changed, False when it was on it already.

        A revoked member of the same name is replaced; its keys stay revoked. Raises
        MembershipError when the name or a key is taken, the key was revoked, or the
        record is no good.
        """
        with self._lock:
            if self.has(member):
                return False
            self.require_addable(member)
            kept, leaving = self._parted(member)
            # First, so that no crash between the two forgets them.
            self._revoked.keep(leaving)
            self._change((*kept, member))
            return True

    def _parted(self, member: Member) -> tuple[list[Member], list[Member]]:
        """Who stays on the list beside a new member, and which revoked ones leave it."""
        kept: list[Member] = []
        leaving: list[Member] = []
        for other in self._members.members:
            same_name = (other.kind, other.name) == (member.kind, member.name)
            (leaving if same_name and other.revoked else kept).append(other)
        for other in [other for other in kept if other.revoked]:
            if len(kept) < MEMBERS_MAX:
                break
            # An unknown key is refused as a revoked one is.
            kept.remove(other)
            leaving.append(other)
        return kept, leaving

    def revoke(self, kind: MemberKind, name: str) -> bool:
        """End a membership; True when the list changed, False when it was revoked already.

        Raises NotFoundError when there is no such member, and MembershipError for
        the master itself.
        """
        if kind is MemberKind.MASTER:
            raise MembershipError(
                "the master can't be revoked: to end a mesh, stop its master; to renew the "
                "master's keys, see docs/SECURITY.md"
            )
        with self._lock:
            found = [m for m in self._members.members if (m.kind, m.name) == (kind, name)]
            if not found:
                raise NotFoundError(
                    f"no {kind.value} named '{name[:80]}' is a member of this mesh"
                    f"{self._hint(kind, name)}; `meshtrain nodes members` lists all"
                )
            if found[0].revoked:
                return False
            revoked = msgspec.structs.replace(found[0], revoked=True)
            self._change(tuple(revoked if m is found[0] else m for m in self._members.members))
            return True

    def renew(self, above: int = 0) -> None:
        """Give the same list a higher version, so that every node takes it anew.

        For a master whose list was restored from a backup. `above` is a version that
        somebody has already.
        """
        with self._lock:
            self._change(self._members.members, above)

    def replace(self, members: Members, *, anew: bool = False) -> bool:
        """Take the master's list in a replica; False when its version is not higher.

        A list that can't be written counts all the same, until this process ends: who
        was revoked is not served because a disk is full. `version` stays that on the disk.

        Args:
            anew: the list is that of a mesh which was joined just now: it counts
                whatever its version is.

        Raises MembershipError when the list is no good; nothing is changed then.
        Raises SettingsError when it can't be written.
        """
        with self._lock:
            if members.version <= self._members.version and not anew:
                return False
            problem = problem_of_all(members)
            if not problem and Roll(members).master is None:
                problem = "it has no master"
            if problem:
                raise MembershipError(
                    f"the list of members, version {members.version}, was not taken: {problem}; "
                    "see that the master and this host run the same version"
                )
            self.roll.update(members)
            self._put(members)
            return True

    def _change(self, members: tuple[Member, ...], above: int = 0) -> None:
        version = max(self._members.version + 1, int(self._now_s() * 1000), above + 1)
        self._put(Members(version, members))

    def _hint(self, kind: MemberKind, name: str) -> str:
        for other in MemberKind:
            if other is not kind and self.roll.by_name(other, name) is not None:
                flag = ", say --person" if other is MemberKind.PERSON else ""
                return f", but a {other.value} is{flag}"
        return ""

    def _put(self, members: Members) -> None:
        data = msgspec.json.format(msgspec.json.encode(members)) + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._tidied:
            # Not at the reading: others read too, while the one that writes is at it.
            remove_leftovers(self._path)
            self._tidied = True
        write_private(self._path, data)
        self._members = members
        self.roll.update(members)
        for listener in self._listeners:
            listener(members)


_members_decoder = msgspec.json.Decoder(Members)


def _read(path: Path) -> Members:
    try:
        data = read_private(path, _FILE_BYTES_MAX)
    except FileNotFoundError:
        return NOBODY
    try:
        members = _members_decoder.decode(data)
        problem = problem_of_all(members)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        problem = str(error)
    if problem:
        raise SettingsError(
            f"{path} is damaged ({problem}): on the master, restore it from a backup; on another "
            "host, move it away and join the mesh anew. Nobody is let in meanwhile"
        )
    return members


def _revoked_before(owner: str) -> MembershipError:
    return MembershipError(
        f"these keys were revoked (they were those of {owner}): move the folder of keys away, so "
        "that new ones are made, and join again"
    )


def _words(member: Member) -> str:
    return f"{member.kind.value} '{member.name}'"
