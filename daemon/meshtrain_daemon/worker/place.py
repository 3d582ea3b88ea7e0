"""A node's place in the mesh: its name, where its master is, and by which keys each is known."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from meshtrain.core.member import MemberKind
from meshtrain.errors import SettingsError
from meshtrain.net.address import split_address
from meshtrain.net.curve import ClientSecurity, client_security
from meshtrain.security.loopback import (
    NetworkAwayError,
    is_any_address,
    is_passing,
    require_loopback,
)
from meshtrain.security.membership import MembersFile
from meshtrain.security.signing import HttpSecurity
from meshtrain.security.standing import load_standing
from meshtrain.spec.settings import WorkerSettings

MASTER_DEFAULT = "127.0.0.1:7470"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands. Without keys all of it is on loopback."""

    name: str
    master: str
    """The master's control address."""
    http_host: str
    """Where its artifacts are served."""
    net: ClientSecurity | None = None
    http: HttpSecurity | None = None
    members: MembersFile | None = None

    def reached_at(self, http_url: str) -> str:
        """The URL that others reach this node's server at, which serves at `http_url`."""
        if not is_any_address(self.http_host):
            return http_url
        parts = urlsplit(http_url)
        host = _address_towards(self.master)
        return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port}"

    @property
    def members_version(self) -> int:
        """Of the list of members that it has; 0 without one."""
        return self.members.version if self.members is not None else 0


def find_place(settings: WorkerSettings) -> Place:
    """The place of the node whose home the settings name.

    Raises SettingsError when its keys are damaged, readable by others, or another
    node's, and when it has none and is to leave loopback; NetworkAwayError when the
    network is not up yet.
    """
    standing = load_standing(settings.home, MemberKind.NODE)
    if standing is None and settings.secure:
        raise SettingsError(
            f"secure is set, and {settings.home} has no keys: this host has not joined a mesh; ask "
            "for a token (`meshtrain token` where the master runs), then "
            "`meshtrain join --node TOKEN` as this user and with this home"
        )
    if standing is None:
        master = settings.master or MASTER_DEFAULT
        host = require_loopback(settings.http_host or "127.0.0.1", "the worker")
        return Place(settings.node_name, master, host)
    name = standing.identity.name
    if "node_name" in settings.model_fields_set and settings.node_name != name:
        raise SettingsError(
            f"this node joined the mesh as '{name}', and its settings name it "
            f"'{settings.node_name}': use the name that it joined with, or give it another home "
            "and join anew"
        )
    master = settings.master or standing.master_address
    return Place(
        name=name,
        master=master,
        http_host=settings.http_host or _address_towards(master),
        net=client_security(standing),
        http=HttpSecurity(standing.identity, standing.members.roll, settings.encrypt_artifacts),
        members=standing.members,
    )


def _address_towards(master: str) -> str:
    """This host's address on the way to the master; nothing is sent to find it."""
    host, port = split_address(master)
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(where)
            return str(probe.getsockname()[0])
    except OSError as error:
        told = (
            f"no way leads to the master at {master}: {error.strerror or error}. Check the "
            "address, or say with http_host where this node is reached"
        )
        if is_passing(error):
            raise NetworkAwayError(told) from error
        raise SettingsError(told) from error
