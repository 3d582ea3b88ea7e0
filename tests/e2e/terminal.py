"""A terminal that a test types into and reads from: a real one (tmux), or a pty with an emulator.

What runs in it is started by a shell, as a person would: the screen holds a line from
before it, and says afterwards how it ended. What a program leaves switched on in the
terminal is seen then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import shutil
import signal
import struct
import subprocess
import termios
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

import pyte

from meshtrain.ids import new_id

WAIT_S = 40.0
"""How long something may take to be on the screen; machines that test are busy."""
POLL_S = 0.03
READ_BYTES = 1 << 16
BEFORE, ENDED = "a line from before", "ended with"
SHELL = f'echo "{BEFORE}"; "$@"; echo "{ENDED} $?"; exec cat'
KEYS = {
    "Enter": "\r",
    "Escape": "\x1b",
    "Space": " ",
    "BSpace": "\x7f",
    "Up": "\x1b[A",
    "Down": "\x1b[B",
    "Right": "\x1b[C",
    "Left": "\x1b[D",
    "Home": "\x1b[H",
    "End": "\x1b[F",
}
"""Keys that have no letter, as tmux names them, and what a terminal sends for each."""

T = TypeVar("T")


class Terminal(ABC):
    """A terminal with a program in it. `close` ends both."""

    #: why there can't be one on this machine; "" where there can
    absent = ""

    @abstractmethod
    def __init__(
        self, command: Sequence[str], columns: int, rows: int, environment: Mapping[str, str]
    ) -> None:
        """Open it, and start the command in it."""

    @abstractmethod
    def keys(self, *keys: str) -> None:
        """Press keys: names of `KEYS`, or text that is typed."""

    @abstractmethod
    def text(self) -> str:
        """What is on the screen now, a line for each row."""

    @abstractmethod
    def resize(self, columns: int, rows: int) -> None:
        """Give the window another size, as somebody who pulls at its corner."""

    @abstractmethod
    def left_on(self) -> set[str]:
        """What a program has switched on in the terminal: its own screen, the mouse, ..."""

    @abstractmethod
    def close(self) -> None:
        """End what runs in it."""

    def until(self, condition: Callable[[str], T], what: str = "") -> T:
        """Wait until the condition is true of the screen's text, and return what it gave."""
        deadline_s = time.monotonic() + WAIT_S
        while not (reached := condition(text := self.text())):
            if time.monotonic() > deadline_s:
                raise AssertionError(f"never on the screen: {what or 'that'}; it shows:\n{text}")
            self._wait()
        return reached

    def sees(self, *words: str) -> None:
        """Wait until all of these are on the screen at once."""
        self.until(lambda text: all(word in text for word in words), " and ".join(words))

    def sees_no(self, words: str) -> None:
        """Wait until these are not on the screen."""
        self.until(lambda text: words not in text, f"that {words!r} is gone")

    def ended(self) -> int:
        """Wait until the program has ended; its exit code, as the shell has told it."""
        self.sees(f"{ENDED} ")
        (line,) = [line for line in self.text().splitlines() if ENDED in line]
        return int(line.removeprefix(ENDED))

    def _wait(self) -> None:
        """Until something may have changed."""
        time.sleep(POLL_S)


class TmuxTerminal(Terminal):
    """A window of a tmux server of its own, that has no settings."""

    absent = "" if shutil.which("tmux") else "tmux is not installed"

    def __init__(
        self, command: Sequence[str], columns: int, rows: int, environment: Mapping[str, str]
    ) -> None:
        self._server = ["tmux", "-u", "-L", new_id("meshtrain"), "-f", os.devnull]
        self._environment = dict(environment)
        size = ["-x", str(columns), "-y", str(rows)]
        self._tmux("new-session", "-d", "-s", "main", *size, "sh", "-c", SHELL, "sh", *command)
        self._socket = Path(self._tmux("display-message", "-p", "#{socket_path}").strip())

    def _tmux(self, *words: str) -> str:
        told = subprocess.run(
            [*self._server, *words], env=self._environment, capture_output=True, check=True
        )
        return told.stdout.decode()

    def keys(self, *keys: str) -> None:
        for key in keys:
            literal = [] if key in KEYS else ["-l"]
            self._tmux("send-keys", *literal, "--", key)

    def text(self) -> str:
        return self._tmux("capture-pane", "-p")

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def left_on(self) -> set[str]:
        told = self._tmux(
            "display-message", "-p", "#{alternate_on} #{mouse_any_flag} #{cursor_flag}"
        )
        own_screen, mouse, cursor = told.split()
        found = {"its own screen": own_screen == "1", "the mouse": mouse == "1"}
        found["no cursor"] = cursor == "0"
        return {name for name, is_on in found.items() if is_on}

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self._tmux("kill-server")
        # Some versions leave it.
        self._socket.unlink(missing_ok=True)


class _Screen(pyte.Screen):
    """A screen that has another one for programs that fill it, as terminals do."""

    OWN_SCREEN = 1049
    SWITCHES: Mapping[int, str] = {
        OWN_SCREEN: "its own screen",
        1000: "the mouse",
        1003: "the mouse",
        1004: "the focus",
        2004: "pasting",
    }

    def __init__(self, columns: int, lines: int) -> None:
        self.switched: set[int] = set()
        self._kept: tuple[Any, pyte.screens.Cursor] | None = None
        super().__init__(columns, lines)

    def set_mode(self, *modes: int, **kwargs: Any) -> None:
        super().set_mode(*modes, **kwargs)
        if not kwargs.get("private"):
            return
        self.switched.update(modes)
        if self.OWN_SCREEN in modes and self._kept is None:
            self._kept = self.buffer, copy(self.cursor)
            self.buffer = type(self)(self.columns, self.lines).buffer

    def reset_mode(self, *modes: int, **kwargs: Any) -> None:
        super().reset_mode(*modes, **kwargs)
        if not kwargs.get("private"):
            return
        self.switched.difference_update(modes)
        if self.OWN_SCREEN in modes and self._kept is not None:
            self.buffer, before = self._kept
            self._kept = None
            self.cursor_position(before.y + 1, before.x + 1)


class PtyTerminal(Terminal):
    """A pty of the kernel, and an emulator that draws what comes out of it."""

    UNKNOWN = b"\x1b[<u"
    """Ends a way to tell keys apart; the emulator would draw half of it."""

    def __init__(
        self, command: Sequence[str], columns: int, rows: int, environment: Mapping[str, str]
    ) -> None:
        self._screen = _Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._news = threading.Condition()
        self._ours, self._theirs = pty.openpty()
        self._tell_size(columns, rows)
        # The first terminal that a session opens is the one that its signals come from.
        self._shell = subprocess.Popen(
            ["sh", "-c", f': <"$0"; {SHELL}', os.ttyname(self._theirs), *command],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**environment, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="terminal", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        held = b""
        # An error: whoever had the other end open has ended.
        with contextlib.suppress(OSError):
            while data := os.read(self._ours, READ_BYTES):
                data = (held + data).replace(self.UNKNOWN, b"")
                held = self._begun(data)
                with self._news:
                    self._stream.feed(data[: len(data) - len(held)])
                    self._news.notify_all()

    def _begun(self, data: bytes) -> bytes:
        """The end of what was read, where the rest of `UNKNOWN` may be on its way."""
        for length in range(len(self.UNKNOWN) - 1, 0, -1):
            if data.endswith(self.UNKNOWN[:length]):
                return self.UNKNOWN[:length]
        return b""

    def _tell_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def keys(self, *keys: str) -> None:
        for key in keys:
            os.write(self._ours, KEYS.get(key, key).encode())

    def text(self) -> str:
        with self._news:
            return "\n".join(line.rstrip() for line in self._screen.display)

    def resize(self, columns: int, rows: int) -> None:
        with self._news:
            self._screen.resize(rows, columns)
        self._tell_size(columns, rows)

    def left_on(self) -> set[str]:
        with self._news:
            found = {
                name
                for mode, name in self._screen.SWITCHES.items()
                if mode in self._screen.switched
            }
            return found | ({"no cursor"} if self._screen.cursor.hidden else set())

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()
        os.close(self._theirs)
        self._reader.join()
        os.close(self._ours)

    def _wait(self) -> None:
        with self._news:
            self._news.wait(POLL_S)


@contextlib.contextmanager
def terminal(
    kind: type[Terminal], command: Sequence[str], folder: Path, *, size: tuple[int, int]
) -> Iterator[Terminal]:
    """A terminal with this command in it; both are ended at the end.

    Args:
        folder: where it looks for settings of its user: none of this machine's count.
        size: columns and rows.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        # A size there would count for more than the terminal's own.
        if not name.startswith(("MESHTRAIN_", "TEXTUAL", "TMUX", "COLUMNS", "LINES"))
    }
    environment = {
        **inherited,
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    window = kind(command, *size, environment)
    try:
        yield window
    finally:
        window.close()
