"""One question to the master, on a link of its own, within a moment: for shells that wait.

Imports what it needs and no more. Answers are plain data: nothing is held against
the classes of the wire, and nothing is told of what goes wrong but that it did.
"""

from __future__ import annotations

import socket as connection
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from meshtrain.errors import ProtocolError
from meshtrain.net.address import endpoint, split_address
from meshtrain.net.peer_names import peer_name
from meshtrain.security.curve_keys import CurveKeys
from meshtrain.security.loopback import permitted_address

_ANSWER_BYTES_MAX: Final = 1 << 20
_ROWS_MAX: Final = 1000


def ask_quickly(
    address: str,
    what: str,
    names: Sequence[str],
    *,
    within_s: float,
    keys: CurveKeys | None = None,
) -> list[Any]:
    """The rows that answer a query; none where no answer comes in time.

    Args:
        address: HOST:PORT of the master's control socket.
        within_s: the patience with all of it, connecting included.

    Raises SettingsError when the address is malformed, or not loopback without keys,
    ProtocolError when the master refuses or answers with nonsense.
    """
    deadline_s = time.monotonic() + within_s
    host, port = split_address(address)
    host = permitted_address(host, "meshtrain", "connect to", with_keys=keys is not None)
    try:
        # ZeroMQ would try again and again where nobody listens.
        connection.create_connection((host, port), within_s).close()
    except OSError:
        return []
    # Only here: loading it takes longer than all the rest.
    import zmq

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    try:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, _ANSWER_BYTES_MAX)
        if keys is not None:
            socket.setsockopt(zmq.ROUTING_ID, peer_name(keys.member))
            socket.setsockopt(zmq.CURVE_SERVERKEY, keys.master_key)
            socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.member.curve_key.encode())
            socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.connect(endpoint(host, port))
        question = {
            "type": "query",
            "request_id": "quick",
            "what": what,
            "names": list(names),
            "offset": 0,
            "limit": _ROWS_MAX,
        }
        socket.send(msgspec.msgpack.encode(question))
        left_ms = max(int((deadline_s - time.monotonic()) * 1000), 1)
        if not socket.poll(left_ms):
            return []
        return _rows(socket.recv())
    finally:
        socket.close(0)
        context.term()


def _rows(data: bytes) -> list[Any]:
    try:
        answer = msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"the master's answer can't be read: {error}") from error
    if not isinstance(answer, dict) or answer.get("error"):
        error_text = answer.get("error") if isinstance(answer, dict) else "no map"
        raise ProtocolError(f"the master doesn't answer the question: {error_text}")
    rows = answer.get("rows", [])
    return rows if isinstance(rows, list) else []
