"""A listening port that ZeroMQ sockets come and go behind.

The port stays ours while the sockets behind it are made anew: nobody else can
take it in between, and who connects meanwhile waits instead of being refused.
ZeroMQ gets a duplicate of the descriptor (ZMQ_USE_FD) and closes that with its
socket.

http://api.zeromq.org/4-3:zmq-setsockopt (ZMQ_USE_FD)
"""

from __future__ import annotations

import errno
import os
import socket as network

import zmq

from meshtrain.errors import SettingsError
from meshtrain.net.address import endpoint
from meshtrain.net.sockets import Socket

CONNECTIONS_WAITING_MAX = 512


class ListeningPort:
    """Listens on a numeric address; port 0 is any free one, `port` is the real one.

    `name` says which port it is, as an error tells it. Raises SettingsError when
    it can't be bound.
    """

    def __init__(self, address: str, port: int, name: str) -> None:
        self._address = address
        family = network.AF_INET6 if ":" in address else network.AF_INET
        self._socket = network.socket(family, network.SOCK_STREAM)
        try:
            self._socket.setsockopt(network.SOL_SOCKET, network.SO_REUSEADDR, 1)
            if family == network.AF_INET6:
                self._socket.setsockopt(network.IPPROTO_IPV6, network.IPV6_V6ONLY, 0)
            # ZeroMQ accepts only after it was told that somebody is there, but who
            # was there may be gone, or taken by the socket that is just being closed.
            self._socket.setblocking(False)
            self._socket.bind((address, port))
            self._socket.listen(CONNECTIONS_WAITING_MAX)
        except OSError as error:
            self._socket.close()
            raise _bind_error(address, port, name, error) from error
        self.port = int(self._socket.getsockname()[1])

    def bind(self, socket: Socket) -> None:
        """Have a ZeroMQ socket accept what connects."""
        fd = os.dup(self._socket.fileno())
        try:
            socket.setsockopt(zmq.USE_FD, fd)
            socket.bind(endpoint(self._address, self.port))
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Let go of the port, once the sockets behind it are closed."""
        self._socket.close()


def _bind_error(address: str, port: int, name: str, error: OSError) -> SettingsError:
    where = f"the {name} port {port} on {address}"
    if error.errno == errno.EADDRINUSE:
        return SettingsError(
            f"{where} is taken: another master may run there; stop it, or choose another port"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return SettingsError(
            f"{where} can't be bound: this host has no such address; see `ip address`"
        )
    return SettingsError(f"{where} can't be bound: {error.strerror or error}; choose another port")
