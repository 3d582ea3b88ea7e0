"""ZeroMQ sockets as this mesh sets them up, and sends that never wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import zmq

from meshtrain.net.base import SocketLimits
from meshtrain.net.socket_reader import NOBLOCK, SNDMORE

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


def open_socket(
    context: Context,
    kind: int,
    limits: SocketLimits,
    *,
    message_bytes_max: int,
    queued_max: int,
) -> Socket:
    """A socket that drops what is unsent when it is closed and refuses oversize frames.

    The link's own pings go out every `heartbeat_ms`; they are answered by ZeroMQ's
    thread, so that a busy process isn't taken for a dead one.
    """
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, message_bytes_max)
    socket.setsockopt(zmq.SNDHWM, queued_max)
    socket.setsockopt(zmq.RCVHWM, queued_max)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.HEARTBEAT_IVL, limits.heartbeat_ms)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, limits.heartbeat_timeout_ms)
    socket.setsockopt(zmq.HEARTBEAT_TTL, limits.heartbeat_timeout_ms)
    socket.setsockopt(zmq.RECONNECT_IVL, limits.reconnect_min_ms)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, limits.reconnect_max_ms)
    return socket


def open_dealer(
    context: Context,
    limits: SocketLimits,
    *,
    message_bytes_max: int,
    queued_max: int,
    identity: bytes = b"",
    queue_while_away: bool = False,
) -> Socket:
    """A DEALER that takes messages only while it is connected.

    Nothing is queued for a master that is away: what is old by the time it is
    back would be noise, and what matters is repeated by its sender. But when such
    a link ends, ZeroMQ also drops what had come over it and wasn't read yet. Who
    waits for an answer that nobody repeats asks to `queue_while_away`, and sends
    only once its LinkMonitor says that the link is up.
    """
    socket = open_socket(
        context, zmq.DEALER, limits, message_bytes_max=message_bytes_max, queued_max=queued_max
    )
    socket.setsockopt(zmq.IMMEDIATE, 0 if queue_while_away else 1)
    if identity:
        socket.setsockopt(zmq.ROUTING_ID, identity)
    return socket


def send_frames(socket: Socket, frames: Sequence[bytes]) -> None:
    """Send one multipart without waiting.

    Raises zmq.Again when the queue is full, and zmq.ZMQError with EHOSTUNREACH
    when a ROUTER knows no such peer; both before anything was sent.
    """
    send = socket.send
    for frame in frames[:-1]:
        send(frame, NOBLOCK | SNDMORE)
    send(frames[-1], NOBLOCK)


def split(frames: list[bytes], count_max: int) -> Iterator[list[bytes]]:
    """The frames in runs of at most `count_max`."""
    if len(frames) <= count_max:
        yield frames
        return
    for start in range(0, len(frames), count_max):
        yield frames[start : start + count_max]
