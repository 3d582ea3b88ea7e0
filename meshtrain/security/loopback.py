"""The rule that holds until nodes can prove membership: nothing but loopback."""

from __future__ import annotations

import ipaddress
import socket

from meshtrain.errors import SettingsError


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
            f"{what} refuses to {verb} {host or 'every address'}: nothing but loopback until "
            "nodes can prove membership, since anybody could reach it there without a key; "
            "use 127.0.0.1, ::1 or localhost (from another machine: through an ssh tunnel)"
        )
    return min(addresses, key=lambda address: ":" in address)


def _addresses(host: str, what: str) -> list[str]:
    if host in ("", "*"):
        return []
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError) as error:
        raise SettingsError(
            f"{what} can't use the host '{host}': it names no address ({error}); "
            "use 127.0.0.1, ::1 or localhost"
        ) from error
    return [str(address[0]) for *_, address in found]


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
