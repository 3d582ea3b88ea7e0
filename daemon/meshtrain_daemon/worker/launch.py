"""What the worker daemon asks its runner for, and what it hears back."""

from __future__ import annotations

import math
import os
import re
from enum import StrEnum
from pathlib import Path

import msgspec

from meshtrain.errors import UserError
from meshtrain_daemon.worker import frames
from meshtrain_daemon.worker.plain_file import open_plain

KILL_GRACE_S_DEFAULT = 10.0
"""From SIGTERM to SIGKILL."""
GPU_LOCK_WAIT_S_DEFAULT = 10.0
"""How long a job waits for a GPU that another one is just leaving."""

_ATTEMPT_ID = re.compile(rf"[A-Za-z0-9._:@+-]{{1,{frames.ATTEMPT_ID_LEN_MAX}}}")
_VARIABLE = re.compile(r"[^=\0]+")
_EXIT_BYTES_MAX = 64 * 1024


class LaunchError(UserError):
    """Raised when a launch can't be carried out as it is written."""


class Account(msgspec.Struct, frozen=True):
    """A user of this host, as the kernel knows one."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


class Launch(msgspec.Struct, frozen=True):
    """One attempt's process: a command (`argv`) or an argument for the preloaded module (`call`).

    `folder` exists and takes `started.json` and `exit.json`; all paths are absolute.
    `env` is added to what the runner's jobs inherit; the attempt's mark is added too.
    """

    attempt_id: str
    folder: str
    log_path: str
    cwd: str
    argv: tuple[str, ...] = ()
    call: str | None = None
    env: dict[str, str] = {}
    timeout_s: float | None = None
    kill_grace_s: float = KILL_GRACE_S_DEFAULT
    gpu_locks: tuple[str, ...] = ()
    """Files that are locked for as long as anything of the attempt lives."""
    gpu_lock_wait_s: float = GPU_LOCK_WAIT_S_DEFAULT
    cgroup: str | None = None
    """The cgroup to make for it, below one that the daemon may write to."""
    account: Account | None = None
    """Whom the job runs as; None is the daemon's own user."""


class EndCause(StrEnum):
    """Why a job's process ended."""

    FINISHED = "finished"
    """It ended by itself, or by a signal that the mesh didn't send."""
    TIMED_OUT = "timed_out"
    REQUESTED = "requested"
    """`Runner.end` was called, by this daemon or by one before it."""
    LOST = "lost"
    """Its shim was killed: how it ended isn't known, but nothing of it is left."""


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The process runs; `start_ticks` (since the boot `boot_id`) tells it from a later one."""

    attempt_id: str
    pid: int
    shim_pid: int
    start_ticks: int
    boot_id: str
    started_at_s: float
    shim_start_ticks: int = 0
    """When its shim started: with the boot it tells it from a later process of that id."""


class Exited(msgspec.Struct, frozen=True, tag="exited"):
    """The process has ended, and no process of the attempt is left.

    One of `code` and `signal` is set, unless `cause` is LOST. CPU and memory are
    those of the whole tree (the greatest single process, for memory).
    """

    attempt_id: str
    cause: EndCause
    code: int | None = None
    signal: int | None = None
    started_at_s: float = 0.0
    ended_at_s: float = 0.0
    duration_s: float = 0.0
    user_cpu_s: float = 0.0
    system_cpu_s: float = 0.0
    rss_bytes_max: int = 0
    leftovers_ended: int = 0
    """Processes that outlived a main process that ended by itself, and were ended."""

    @property
    def lost(self) -> bool:
        """True when it isn't known how the process ended."""
        return self.cause is EndCause.LOST


class LaunchFailed(msgspec.Struct, frozen=True, tag="launch_failed"):
    """The process never ran; `reason` says why and what to mend."""

    attempt_id: str
    reason: str


Outcome = Exited | LaunchFailed
Event = Started | Exited | LaunchFailed

_outcome_decoder = msgspec.json.Decoder(Outcome)
_started_decoder = msgspec.json.Decoder(Started)


def read_outcome(folder: Path | str, attempt_id: str) -> Outcome | None:
    """The outcome that a shim left in an attempt's folder, or None when there is none.

    A file of another attempt, or one that can't be read, counts as none.
    """
    try:
        with open_plain(f"{folder}/{frames.EXIT_FILE}") as file:
            outcome = _outcome_decoder.decode(file.read(_EXIT_BYTES_MAX))
    except (OSError, msgspec.DecodeError, ValueError, RecursionError):
        return None
    return outcome if outcome.attempt_id == attempt_id else None


def read_started(folder: Path | str, attempt_id: str) -> Started | None:
    """The start that a shim recorded in an attempt's folder, or None when there is none.

    A file of another attempt, or one that can't be read, counts as none.
    """
    try:
        with open_plain(f"{folder}/{frames.STARTED_FILE}") as file:
            started = _started_decoder.decode(file.read(_EXIT_BYTES_MAX))
    except (OSError, msgspec.DecodeError, ValueError, RecursionError):
        return None
    return started if started.attempt_id == attempt_id else None


def encode_launch(launch: Launch, mark_prefix: str = "") -> bytes:
    """The message of a launch, whose processes are marked with `mark_prefix` and the attempt's id.

    Raises LaunchError when it names no absolute path where one is needed, holds
    a NUL, is too long, or has neither or both of a command and a call.
    """
    if not _ATTEMPT_ID.fullmatch(launch.attempt_id):
        raise LaunchError(
            f"attempt id {launch.attempt_id[:64]!r} isn't made of 1 to "
            f"{frames.ATTEMPT_ID_LEN_MAX} letters, digits and ._:@+-"
        )
    for name, path in (
        ("folder", launch.folder),
        ("log path", launch.log_path),
        ("working folder", launch.cwd),
        *[("GPU's lock", path) for path in launch.gpu_locks],
        *([("cgroup", launch.cgroup)] if launch.cgroup is not None else ()),
    ):
        if not path.startswith("/"):
            raise LaunchError(f"the {name} {path!r} isn't absolute; give its full path")
    if bool(launch.argv) == (launch.call is not None):
        raise LaunchError("give a command or a call, and not both")
    if not (math.isfinite(launch.kill_grace_s) and launch.kill_grace_s >= 0):
        raise LaunchError(f"a kill grace of {launch.kill_grace_s} s isn't a time; give 0 or more")
    if launch.timeout_s is not None and not (
        math.isfinite(launch.timeout_s) and launch.timeout_s > 0
    ):
        raise LaunchError(f"a timeout of {launch.timeout_s} s isn't a time; give more than 0")
    for name in launch.env:
        if not _VARIABLE.fullmatch(name):
            raise LaunchError(f"{name!r} can't be a variable's name; leave out = and NUL")
    mode = frames.EXEC if launch.call is None else frames.CALL
    arguments = launch.argv if launch.call is None else (launch.call,)
    fields = (
        launch.attempt_id,
        mode.decode(),
        launch.folder,
        launch.log_path,
        launch.cwd,
        "" if launch.timeout_s is None else repr(float(launch.timeout_s)),
        repr(float(launch.kill_grace_s)),
        _account_field(launch.account),
        launch.cgroup or "",
        repr(float(launch.gpu_lock_wait_s)),
        str(len(launch.gpu_locks)),
        *launch.gpu_locks,
        str(len(arguments)),
        *arguments,
        *[f"{name}={value}" for name, value in launch.env.items()],
        f"{frames.ATTEMPT_VARIABLE}={mark_prefix}{launch.attempt_id}",
    )
    text = "\0".join(fields)
    if text.count("\0") != len(fields) - 1:
        raise LaunchError("an argument, path or variable holds a NUL, which no process can get")
    try:
        message = bytes((frames.LAUNCH,)) + os.fsencode(text)
    except UnicodeEncodeError as error:
        raise LaunchError(f"text that no process can get: {error}") from error
    if len(message) > frames.MESSAGE_BYTES_MAX:
        raise LaunchError(
            f"the command and its variables take {len(message)} bytes, and the limit is "
            f"{frames.MESSAGE_BYTES_MAX}; hand the long ones over in a file"
        )
    return message


def _account_field(account: Account | None) -> str:
    if account is None:
        return ""
    groups = ",".join(str(group) for group in account.groups)
    return f"{account.uid}:{account.gid}:{groups}"
