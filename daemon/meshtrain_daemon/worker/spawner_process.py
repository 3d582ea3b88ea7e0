"""The daemon's side of one spawner program: its process, its socket, its pipe of events."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import msgspec

from meshtrain import failpoints
from meshtrain_daemon.worker import frames
from meshtrain_daemon.worker.call import mark_room
from meshtrain_daemon.worker.launch import Exited, LaunchFailed, Started

_READ_BYTES = 1 << 18
_PIPE_BYTES = 1 << 20
_WRITTEN_AGAIN_S = 0.01
_PACKAGES_FOLDERS = os.pathsep.join(
    dict.fromkeys(
        str(Path(file).resolve().parents[up])
        for file, up in ((__file__, 2), (failpoints.__file__, 1))
    )
)
"""Where this package and the one below it lie; one folder, where they are installed."""
_COLD_START = (
    "import os, sys; sys.path += sys.argv.pop(1).split(os.pathsep); "
    "from meshtrain_daemon.worker.spawner import main; main()"
)
_WARM_START = (
    "import os, sys; sys.path[:] = sys.argv.pop(1).split(os.pathsep); "
    "from meshtrain_daemon.worker.spawner import main; main()"
)


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The spawner takes launches from now on."""

    pid: int


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The spawner can't start, and ends."""

    reason: str


class ShimLost(msgspec.Struct, frozen=True, tag="shim_lost"):
    """A shim was killed; what it left behind has been ended."""

    attempt_id: str


News = Started | Exited | LaunchFailed | ShimLost
_decoder = msgspec.json.Decoder(News | Ready | Refused)


class Owner(Protocol):
    """Who is told what a spawner program does."""

    def hear(self, spawner: SpawnerProcess, news: list[News]) -> None:
        """Takes what its shims and it told, in order."""

    def spawner_died(self, spawner: SpawnerProcess) -> None:
        """Takes note that it takes no more launches; its shims go on with their jobs."""

    def spawner_over(self, spawner: SpawnerProcess) -> None:
        """Takes note that neither it nor any of its shims lives."""


class SpawnerProcess:
    """One spawner program.

    `ready` is set once it takes launches, or has refused to (then `refusal`
    says why); `over` once nothing of it lives, its shims included. Those may
    outlive it by days: they hold the pipe, so that their news still come.
    """

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._events_fd = -1
        self._tail = b""
        self._unsent = bytearray()
        self._finishing = False
        self._ended = False
        self.refusal: str | None = None
        self.ready = asyncio.Event()
        self.over = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Its process id, or None before it was started."""
        return self._process.pid if self._process else None

    @property
    def lost(self) -> bool:
        """Whether it takes no more frames."""
        return self._process is not None and self._socket is None

    def open(self, preload: str | None, environment: dict[str, str] | None) -> None:
        """Starts the program. Raises OSError when the host can't."""
        environment = dict(os.environ if environment is None else environment)
        environment.pop(frames.ATTEMPT_VARIABLE, None)
        if preload is None:
            flags, start, search_path = ["-I", "-S"], _COLD_START, _PACKAGES_FOLDERS
        else:
            flags, start = ["-I"], _WARM_START
            search_path = os.pathsep.join(os.path.abspath(path) for path in sys.path)  # noqa: PTH100
            environment[frames.ATTEMPT_VARIABLE] = mark_room()
        own_socket, its_socket = socket.socketpair()
        self._events_fd, its_events_fd = os.pipe()
        with contextlib.suppress(OSError):  # Past the user's limit the usual size does.
            fcntl.fcntl(self._events_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._socket = own_socket
        try:
            arguments = [str(its_socket.fileno()), str(its_events_fd), *filter(None, [preload])]
            self._process = subprocess.Popen(
                [sys.executable, *flags, "-c", start, search_path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=environment,
                cwd="/",
                pass_fds=(its_socket.fileno(), its_events_fd),
                start_new_session=True,
            )
        except OSError:
            own_socket.close()
            os.close(self._events_fd)
            raise
        finally:
            its_socket.close()
            os.close(its_events_fd)
        own_socket.setblocking(False)
        os.set_blocking(self._events_fd, False)
        self._loop.add_reader(own_socket.fileno(), self._lose)
        self._loop.add_reader(self._events_fd, self._read_events)

    def write(self, data: bytes) -> None:
        """Sends frames now, as far as the socket takes them, and the rest later."""
        if self._socket is None:
            return  # Its attempts are settled once its pipe ends.
        if self._unsent:
            self._unsent += data
            return
        sent = self._send(data)
        if sent < len(data) and self._socket is not None:
            self._unsent += data[sent:]
            self._loop.add_writer(self._socket.fileno(), self._write_rest)

    def finish(self) -> None:
        """Says that no more frames will come: the spawner ends once its jobs have."""
        self._finishing = True
        if not self._unsent and self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    async def leave(self) -> None:
        """Hands over what is written, has the spawner end, and lets its shims go on."""
        if not self._ended:
            self._loop.remove_reader(self._events_fd)
        # What is waited for is a socket, and the loop that empties into it is this one.
        while self._unsent and self._socket is not None:  # noqa: ASYNC110
            await asyncio.sleep(_WRITTEN_AGAIN_S)
        self.finish()
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if not self._ended:
            self._ended = True
            os.close(self._events_fd)

    def kill(self) -> None:
        """Kills a spawner that never got ready."""
        if self._process:
            self._process.kill()

    def _write_rest(self) -> None:
        del self._unsent[: self._send(bytes(self._unsent))]
        if not self._unsent and self._socket is not None:
            self._loop.remove_writer(self._socket.fileno())
            if self._finishing:
                self.finish()

    def _send(self, data: bytes) -> int:
        assert self._socket is not None
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._lose()
            return len(data)

    def _lose(self) -> None:
        """The spawner is gone, though shims go on with their jobs."""
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self._unsent.clear()
        if self._process is not None:
            # Beside: the socket of a process is gone a moment before it is.
            self._loop.run_in_executor(None, self._process.wait)
        # What its shims told before tells which of them is at which job.
        self.read_what_is_told()
        self._owner.spawner_died(self)

    def read_what_is_told(self) -> None:
        """Takes in at once what shims have told so far."""
        while not self._ended and self._read_events():
            pass

    def _read_events(self) -> bool:
        """Takes in some; False when there is nothing more for now."""
        try:
            data = os.read(self._events_fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._end()
            return False
        *lines, self._tail = (self._tail + data).split(b"\n")
        news: list[News] = []
        for line in lines:
            told = _decoder.decode(line)
            if isinstance(told, Ready):
                self.ready.set()
            elif isinstance(told, Refused):
                self.refusal = told.reason
                self.ready.set()
            else:
                news.append(told)
        if news:
            self._owner.hear(self, news)
        return True

    def _end(self) -> None:
        self._ended = True
        self._loop.remove_reader(self._events_fd)
        os.close(self._events_fd)
        self._lose()
        if self._process:
            self._process.wait()
        if not self.ready.is_set():
            self.refusal = "it ended at once; its standard error tells why"
            self.ready.set()
        self._owner.spawner_over(self)
        self.over.set()
