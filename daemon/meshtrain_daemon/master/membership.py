"""The master's own keys, its list of members, and how that list changes.

HOME/keys/          the master's keys
HOME/members.json   who belongs to the mesh: the list that counts
HOME/revoked_keys.json  keys that were revoked and replaced
HOME/tokens.json    join tokens, hashed
HOME/read_tokens.json   tokens by which programs read, hashed
HOME/person/        the keys of `admin`, which commands on this host use
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from meshtrain.artifacts.enrol import Enrolment
from meshtrain.clock import wall_now_s
from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.errors import MeshtrainError, SettingsError, UserError
from meshtrain.net.curve import MasterSecurity
from meshtrain.security.enrol import enrol
from meshtrain.security.keys import Identity
from meshtrain.security.loopback import is_any_address, own_address
from meshtrain.security.membership import MembersFile
from meshtrain.security.private_file import make_private_home, require_unshared_inbox
from meshtrain.security.read_tokens import Readers
from meshtrain.security.signing import HttpSecurity
from meshtrain.security.standing import (
    ADMIN,
    KEYS_FOLDER,
    MEMBERS_FILE,
    PERSON_FOLDER,
    keep_standing,
)
from meshtrain.security.tokens import JoinToken, TokensFile
from meshtrain.spec.settings import MasterSettings

MASTER_NAME = "master"
THREADS_MAX = 4
"""Changes of members and tokens at a time: a token may wait for a name to be looked up."""

P = ParamSpec("P")
T = TypeVar("T")


def membership_of(settings: MasterSettings) -> Membership | None:
    """The membership that the settings ask for; that of the home, where they don't say.

    None lets everybody on this host in. Raises as `Membership` does.
    """
    secure = settings.secure
    if secure is None:
        secure = os.path.lexists(settings.home / MEMBERS_FILE)
    return Membership(settings) if secure else None


class Membership:
    """Who belongs to this master's mesh.

    Raises SettingsError when its keys or lists are damaged, when others may read them,
    and when others may write where the master's state lies.
    """

    def __init__(self, settings: MasterSettings) -> None:
        home = settings.home
        self._settings = settings
        make_private_home(home)
        require_unshared_inbox(settings.inbox_folder)
        self._identity = Identity.load_or_create(home / KEYS_FOLDER, MASTER_NAME, MemberKind.MASTER)
        self._members = MembersFile(home / MEMBERS_FILE)
        self._tokens = TokensFile(home / "tokens.json")
        self.readers = Readers(home / "read_tokens.json")
        self._threads = ThreadPoolExecutor(THREADS_MAX, "members")
        #: held while a token is made, and while a person's end with the membership
        self._issuing = threading.Lock()
        self._take_master()
        self._take_admin(home / PERSON_FOLDER)
        self.net = MasterSecurity(self._identity, self._members.roll)
        self.http = HttpSecurity(self._identity, self._members.roll, settings.encrypt_artifacts)
        self.enrolment = Enrolment(self._identity.member, self._admit)

    @property
    def members(self) -> Members:
        return self._members.members

    async def beside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What some work on these lists comes to.

        It has threads of its own: no number of slow job files, or of shares that hang,
        puts off a revocation.
        """
        done = partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, done)

    def follow(self, on_change: Callable[[Members], None]) -> None:
        """Have `on_change` called in this event loop after each change of the list."""
        loop = asyncio.get_running_loop()

        def tell(members: Members) -> None:
            loop.call_soon_threadsafe(on_change, members)

        self._members.on_change(tell)

    def open_to_admin(self, control_port: int, say: Callable[[str], None]) -> None:
        """Let commands on this host find the master, and know it by its keys.

        Args:
            say: told when that can't be written: a full disk stops no master.
        """
        folder = self._settings.home / PERSON_FOLDER
        host = own_address(self._settings.host)
        where = f"[{host}]:{control_port}" if ":" in host else f"{host}:{control_port}"
        try:
            keep_standing(folder, self.members, where)
        except MeshtrainError as error:
            say(f"commands on this host may not find the master: {error}")

    def issue(
        self,
        kind: MemberKind,
        ttl_s: float,
        uses_max: int,
        *,
        issuer: str,
        control_port: int,
        enrol_port: int,
    ) -> str:
        """A new join token, as one word; it is on the disk when this returns.

        `issuer` is the person who asks for it: it ends with that person's membership.

        Raises UserError when that has ended meanwhile.
        """
        host = self._reached_at()
        with self._issuing:
            self._demand_member(issuer)
            secret = self._tokens.issue(kind, ttl_s, uses_max, wall_now_s(), issuer)
        token = JoinToken(
            host=host,
            http_port=enrol_port,
            control_port=control_port,
            cert_sha256=self._identity.member.cert_sha256,
            curve_key=self._identity.member.curve_key,
            secret=secret,
        )
        return token.word()

    def issue_reader(self, name: str, ttl_s: float, *, issuer: str) -> str:
        """A new read token, as one word; as `issue` makes those to join with."""
        with self._issuing:
            self._demand_member(issuer)
            return self.readers.issue(name, ttl_s, wall_now_s(), issuer)

    def revoke(self, kind: MemberKind, name: str) -> bool:
        """End a membership; True when it was one. It is on the disk when this returns.

        The tokens that a person made end first: by one of those it could come back, or read on.
        """
        if (kind, name) == (MemberKind.PERSON, ADMIN):
            raise UserError(
                "admin is how commands on the master's own host are known: it can't be revoked. "
                "To renew its keys, stop the master, move HOME/person away, and start it again"
            )
        with self._issuing:
            if kind is MemberKind.PERSON:
                self._tokens.close_those_of(name, wall_now_s())
                self.readers.end_those_of(name)
            return self._members.revoke(kind, name)

    def renew(self, above: int = 0) -> None:
        """Give the list a higher version than any that was told before, and than `above`."""
        self._members.renew(above)

    def _demand_member(self, issuer: str) -> None:
        """Who was revoked since the request came gets no token: it would outlive that.

        Who asks with the master's own keys is no person, and has no name here.
        """
        if issuer and self._members.roll.by_name(MemberKind.PERSON, issuer) is None:
            raise UserError(f"{issuer} is no member of this mesh any more: no token was made")

    def _admit(self, secret: bytes, member: Member) -> Members:
        return enrol(self._members, self._tokens, secret, member, wall_now_s())

    def _take_master(self) -> None:
        listed = self._members.roll.master
        if listed is not None and listed != self._identity.member:
            home = self._settings.home
            raise SettingsError(
                f"{home / MEMBERS_FILE} is the list of a mesh whose master has other keys than "
                f"those in {home / KEYS_FOLDER}: restore both from one backup; or, to begin anew, "
                "move both away and have everybody join again (docs/SECURITY.md)"
            )
        self._members.add(self._identity.member)

    def _take_admin(self, folder: Path) -> None:
        """Who may write the master's home may be its admin: keys that are new there count."""
        self._admin = Identity.load_or_create(folder / KEYS_FOLDER, ADMIN, MemberKind.PERSON)
        listed = self._members.roll.by_name(MemberKind.PERSON, ADMIN)
        if listed is not None and listed != self._admin.member:
            self._members.revoke(MemberKind.PERSON, ADMIN)
        self._members.add(self._admin.member)

    def _reached_at(self) -> str:
        if self._settings.address is not None:
            return self._settings.address
        host = self._settings.host
        if not is_any_address(host):
            return host
        name = socket.getfqdn()
        if name.partition(".")[0] in ("localhost", "ip6-localhost"):
            raise UserError(
                f"this host calls itself {name}, by which no other host finds it: start the "
                "master with --address and the name or address that others know it by"
            )
        return name
