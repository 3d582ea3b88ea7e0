"""Addresses as people write them: `127.0.0.1:7470`, `localhost:7470`, `[::1]:7470`."""

from __future__ import annotations

from meshtrain.errors import SettingsError

PORT_MAX = 65535


def split_address(address: str) -> tuple[str, int]:
    """The host and the port in an address.

    Raises SettingsError when it is no `HOST:PORT`.
    """
    host, colon, port_text = address.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    is_port = port_text.isascii() and port_text.isdigit() and 1 <= int(port_text[:6]) <= PORT_MAX
    if not colon or not host or not is_port or (":" in host and not bracketed):
        raise SettingsError(
            f"'{address}' is no address of a master: write HOST:PORT, such as 127.0.0.1:7470 "
            f"or [::1]:7470, with a port from 1 to {PORT_MAX}"
        )
    return host, int(port_text)


def endpoint(host: str, port: int) -> str:
    """How ZeroMQ writes a numeric host and a port; port 0 is any free one."""
    return f"tcp://{f'[{host}]' if ':' in host else host}:{port or '*'}"
