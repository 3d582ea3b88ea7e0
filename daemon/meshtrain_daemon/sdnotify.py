"""What a daemon tells systemd: ready, how it goes, still alive, stopping.

The protocol is sd_notify(3): datagrams of NAME=value lines to the socket that
NOTIFY_SOCKET names. A daemon that nobody supervises has none, and all of this
costs nothing. The variables are taken out of the environment at once: a job
that inherited them could speak in its daemon's name.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping

SUPERVISOR_VARIABLES = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "MAINPID",
    "MANAGERPID",
    "SYSTEMD_EXEC_PID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "CREDENTIALS_DIRECTORY",
    "FDSTORE",
)
"""What systemd tells one process by its environment; it is no business of the jobs."""
STATUS_EVERY_S = 5.0
"""Between looks at whether the status line has changed."""
STATUS_LETTERS_MAX = 400
STOP_EXTENDED_S = 20.0
"""How long a daemon that stops may be silent once it has outlived the unit's own patience."""
_SOCKET_PATH_BYTES_MAX = 108
_WATCHDOG_USEC_MAX = 10**15


def without_supervisor(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a job may inherit: all but those meant for the daemon alone."""
    return {name: text for name, text in environment.items() if name not in SUPERVISOR_VARIABLES}


class Supervisor:
    """Whoever started this daemon, if it wants to hear of it.

    Args:
        address: where its datagram socket is: a path, or an abstract name after
            an `@`; empty when nobody wants to hear.
        watchdog_s: a daemon that is silent for so long is killed and started
            again; None when nobody watches.
    """

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self._address = _socket_address(address)
        self._watchdog_s = watchdog_s if self._address else None
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._status = ""
        self._stopping = False

    @classmethod
    def take_from(cls, environment: MutableMapping[str, str]) -> Supervisor:
        """The supervisor that the environment names; its variables are removed from there."""
        address = environment.get("NOTIFY_SOCKET", "")
        watchdog_s = _watchdog_s(environment)
        for name in SUPERVISOR_VARIABLES:
            environment.pop(name, None)
        return cls(address, watchdog_s)

    @property
    def beat_s(self) -> float:
        """Seconds between two signs of life: half of what the watchdog allows."""
        if self._watchdog_s is None:
            return STATUS_EVERY_S
        return min(self._watchdog_s / 2, STATUS_EVERY_S)

    def ready(self, status: Callable[[], str]) -> None:
        """Says that the daemon serves, and from now on that its event loop still turns.

        A loop that is stuck gives no sign of life, and that is the point: no
        thread does this. Called from the running loop.

        Args:
            status: how it goes, in a line that `systemctl status` shows; asked for
                now and again, so it must be quick.
        """
        if not self._address:
            return
        self._status = _one_line(status())
        self._tell("READY=1", f"STATUS={self._status}", *self._alive())
        loop = asyncio.get_running_loop()

        def beat() -> None:
            self._beat(status)
            self._timer = loop.call_later(self.beat_s, beat)

        self._timer = loop.call_later(self.beat_s, beat)

    def stopping(self) -> None:
        """Says that the daemon ends on purpose; it may take its time as long as it beats."""
        self._stopping = True
        self._tell("STOPPING=1", *self._alive())

    def close(self) -> None:
        """Gives no more signs of life; harmless when done twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _beat(self, status: Callable[[], str]) -> None:
        lines = list(self._alive())
        if self._stopping:
            lines.append(f"EXTEND_TIMEOUT_USEC={int(STOP_EXTENDED_S * 1e6)}")
        text = _one_line(status())
        if self._stopping:
            text = f"stopping: {text}"
        if text != self._status:
            self._status = text
            lines.append(f"STATUS={text}")
        self._tell(*lines)

    def _alive(self) -> tuple[str, ...]:
        return () if self._watchdog_s is None else ("WATCHDOG=1",)

    def _tell(self, *lines: str) -> None:
        if not self._address or not lines:
            return
        try:
            if self._socket is None:
                kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
                self._socket = socket.socket(socket.AF_UNIX, kind)
                self._socket.setblocking(False)
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            # A supervisor that can't hear just now must not end what it watches over:
            # the next beat comes soon, and the watchdog allows for two.
            return


def _socket_address(address: str) -> bytes:
    if not address.startswith(("/", "@")) or len(address) < 2:
        return b""
    name = os.fsencode(address)
    if len(name) > _SOCKET_PATH_BYTES_MAX or b"\0" in name:
        return b""
    return b"\0" + name[1:] if name.startswith(b"@") else name


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """The watchdog's patience, if it is meant for this process."""
    written = environment.get("WATCHDOG_USEC", "")
    pid = environment.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    if not written.isascii() or not written.isdigit() or len(written) > 16:
        return None
    usec = int(written)
    return usec / 1e6 if 0 < usec <= _WATCHDOG_USEC_MAX else None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:STATUS_LETTERS_MAX]
