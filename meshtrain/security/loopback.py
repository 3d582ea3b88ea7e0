"""Where a mesh may be reached: with keys anywhere, without keys on loopback alone."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Final

from meshtrain.errors import MeshtrainError, SettingsError


class NetworkAwayError(MeshtrainError):
    """Raised when a host's name or a way to it can't be found for now: the network isn't up."""


_PASSING: Final = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}
)


def is_passing(error: OSError) -> bool:
    """Whether an error is one of a network that isn't up, as just after a boot."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return error.errno in _PASSING


def require_loopback(host: str, what: str, verb: str = "bind") -> str:
    """The numeric address of `host`, which must lead to this machine alone.

    `what` says who wants it, as an error tells it: `the master`; `verb` says
    what for (`bind`, `connect to`). IPv4 is preferred where a name has both.
    Raises SettingsError when the host names no address, or any address that is
    not loopback (127.0.0.0/8, ::1).
    """
    addresses = _addresses(host, what)
    if not addresses or not all(_is_loopback(address) for address in addresses):
        raise SettingsError(
            f"{what} refuses to {verb} {host or 'every address'}: nothing but loopback without "
            "keys, since anybody could reach it there; make this host a member of a mesh with "
            "keys, or use 127.0.0.1, ::1 or localhost (from another machine: through an ssh "
            "tunnel)"
        )
    return min(addresses, key=_family)


def permitted_address(host: str, what: str, verb: str = "bind", *, with_keys: bool) -> str:
    """The numeric address of `host`; any address with keys, without them only loopback.

    Raises SettingsError as `require_loopback` does, and when the host names no address.
    """
    if not with_keys:
        return require_loopback(host, what, verb)
    addresses = _addresses(host, what)
    if not addresses:
        raise SettingsError(
            f"{what} can't {verb} '{host}': name one address of this host, or :: for all of them"
        )
    return min(addresses, key=_family)


def is_any_address(host: str) -> bool:
    """Whether `host` stands for all addresses of this host."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def is_own_name(host: str) -> bool:
    """Whether a request's Host header asks for this host under a name of its own.

    A web page can make a browser look its own name up as 127.0.0.1, and so ask what
    listens there; it can't make it say another name.
    """
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.casefold() == "localhost" or _is_loopback(name)


def own_address(host: str) -> str:
    """Where a program on this host reaches what listens on `host`."""
    if not is_any_address(host):
        return host
    return "::1" if ":" in host else "127.0.0.1"


def _family(address: str) -> bool:
    return ":" in address


def _addresses(host: str, what: str) -> list[str]:
    if host in ("", "*"):
        return []
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError) as error:
        told = (
            f"{what} can't use the host '{host}': it names no address ({error}); "
            "give its name as it is known on the network, or its address"
        )
        if isinstance(error, OSError) and is_passing(error):
            # Not a mistake in the settings: to be tried again.
            raise NetworkAwayError(told) from error
        raise SettingsError(told) from error
    return [str(address[0]) for *_, address in found]


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
