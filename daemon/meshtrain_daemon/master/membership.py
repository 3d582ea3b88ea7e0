"""The master's own keys, its list of members, and how that list changes.

HOME/keys/          the master's keys
HOME/members.json   who belongs to the mesh: the list that counts
HOME/tokens.json    join tokens, hashed
HOME/person/        the keys of `admin`, which commands on this host use
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from meshtrain.artifacts.enrol import Enrolment
from meshtrain.clock import wall_now_s
from meshtrain.core.member import Member, MemberKind, Members
from meshtrain.errors import UserError
from meshtrain.net.curve import MasterSecurity
from meshtrain.security.enrol import enrol
from meshtrain.security.keys import Identity
from meshtrain.security.loopback import is_any_address, own_address
from meshtrain.security.membership import MembersFile
from meshtrain.security.signing import HttpSecurity
from meshtrain.security.standing import ADMIN, KEYS_FOLDER, PERSON_FOLDER, keep_standing
from meshtrain.security.tokens import JoinToken, TokensFile
from meshtrain.spec.settings import MasterSettings

MASTER_NAME = "master"


class Membership:
    """Who belongs to this master's mesh.

    Raises SettingsError when its keys or lists are damaged, or others may read them.
    """

    def __init__(self, settings: MasterSettings) -> None:
        home = settings.home
        self._settings = settings
        self._identity = Identity.load_or_create(home / KEYS_FOLDER, MASTER_NAME, MemberKind.MASTER)
        self._members = MembersFile(home / "members.json")
        self._tokens = TokensFile(home / "tokens.json")
        self._members.add(self._identity.member)
        self._admin = Identity.load_or_create(
            home / PERSON_FOLDER / KEYS_FOLDER, ADMIN, MemberKind.PERSON
        )
        self._members.add(self._admin.member)
        self.net = MasterSecurity(self._identity, self._members.roll)
        self.http = HttpSecurity(self._identity, self._members.roll, settings.encrypt_artifacts)
        self.enrolment = Enrolment(self._identity.member, self._admit)

    @property
    def members(self) -> Members:
        return self._members.members

    def follow(self, on_change: Callable[[Members], None]) -> None:
        """Have `on_change` called in this event loop after each change of the list."""
        loop = asyncio.get_running_loop()

        def tell(members: Members) -> None:
            loop.call_soon_threadsafe(on_change, members)

        self._members.on_change(tell)

    def open_to_admin(self, control_port: int) -> None:
        """Let commands on this host find the master, and know it by its keys."""
        folder = self._settings.home / PERSON_FOLDER
        host = own_address(self._settings.host)
        where = f"[{host}]:{control_port}" if ":" in host else f"{host}:{control_port}"
        keep_standing(folder, self.members, where)

    def issue(
        self, kind: MemberKind, ttl_s: float, uses_max: int, *, control_port: int, enrol_port: int
    ) -> str:
        """A new join token, as one word; it is on the disk when this returns."""
        secret = self._tokens.issue(kind, ttl_s, uses_max, wall_now_s())
        token = JoinToken(
            host=self._reached_at(),
            http_port=enrol_port,
            control_port=control_port,
            cert_sha256=self._identity.member.cert_sha256,
            curve_key=self._identity.member.curve_key,
            secret=secret,
        )
        return token.word()

    def revoke(self, kind: MemberKind, name: str) -> bool:
        """End a membership; True when it was one. It is on the disk when this returns."""
        if (kind, name) == (MemberKind.PERSON, ADMIN):
            raise UserError(
                "admin is how commands on the master's own host are known: it can't be revoked. "
                "To renew its keys, see docs/SECURITY.md"
            )
        return self._members.revoke(kind, name)

    def renew(self) -> None:
        """Give the list a higher version than any that was told before."""
        self._members.renew()

    def _admit(self, secret: bytes, member: Member) -> Members:
        return enrol(self._members, self._tokens, secret, member, wall_now_s())

    def _reached_at(self) -> str:
        if self._settings.address is not None:
            return self._settings.address
        host = self._settings.host
        return socket.getfqdn() if is_any_address(host) else host
