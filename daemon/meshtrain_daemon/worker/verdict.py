"""Why a job's process failed: from its exit, its own word, and the end of its log."""

from __future__ import annotations

import os
import re
import signal

import msgspec

from meshtrain.core.job import Failure, FailureClass
from meshtrain_daemon.worker.attempt_folder import AttemptFolder, open_plain
from meshtrain_daemon.worker.launch import EndCause, Exited, LaunchFailed

TAIL_BYTES = 4096
"""How much of the end of a log is looked at."""
FAILURE_BYTES_MAX = 64 * 1024
MESSAGE_LEN_MAX = 500
SAID_BY_JOBS = (
    FailureClass.USER_ERROR,
    FailureClass.TIMEOUT,
    FailureClass.OUT_OF_MEMORY,
    FailureClass.DISK,
    FailureClass.NETWORK,
)
"""What a job may say of itself; whether a host is lost, or a base, the mesh alone knows."""
NOT_OF_THE_JOB = (
    "can't fork a shim",
    "can't get GPU",
    "can't start the spawner",
    "the spawner ",
    "the runner was closed",
    "ended on request",
)
"""How reasons begin that say nothing about the job: another host, or a later time, may do."""
HOST_IS_FULL = ("the limit on processes is reached (ulimit -u)", "the node is out of memory")
DISK_IS_FULL = "the disk is full"

_OUT_OF_MEMORY = re.compile(
    rb"CUDA out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|"
    rb"DefaultCPUAllocator: can't allocate memory|^MemoryError\b",
    re.MULTILINE,
)
_DISK_FULL = re.compile(rb"No space left on device")
_KILLED_CODE = 128 + signal.SIGKILL


class FailureRecord(msgspec.Struct, frozen=True):
    """What a job may write to `MESHTRAIN_FAILURE` before it exits."""

    failure_class: str = msgspec.field(name="class")
    message: str = ""


_record_decoder = msgspec.json.Decoder(FailureRecord)


def failure_of(folder: AttemptFolder, event: Exited | LaunchFailed, node_id: str) -> Failure | None:
    """The failure of a process that ended, or None when it ended with exit code 0."""
    if isinstance(event, LaunchFailed):
        return Failure(_class_of_launch(event.reason), shown(event.reason), node_id)
    if event.cause is EndCause.FINISHED and event.code == 0:
        return None
    code = event.code if event.code is not None else -(event.signal or 0)
    if event.cause is EndCause.TIMED_OUT:
        limit = folder.assignment.timeout_s
        told = f"it ran longer than its timeout of {limit:g} s" if limit else "it ran too long"
        return Failure(FailureClass.TIMEOUT, told, node_id, code)
    if event.cause is not EndCause.FINISHED:
        return Failure(
            FailureClass.HOST_LOST,
            f"its supervisor on the node went away ({event.cause})",
            node_id,
            code,
        )
    record = _read_record(folder.failure)
    if record is not None:
        return Failure(_class_of(record), shown(record.message), node_id, code)
    tail = _tail(folder.log)
    said = _last_line(tail)
    exited = f"exit code {code}" if event.signal is None else f"killed by signal {event.signal}"
    message = f"{exited}: {said}" if said else exited
    if _DISK_FULL.search(tail):
        return Failure(FailureClass.DISK, message, node_id, code)
    if _OUT_OF_MEMORY.search(tail) or event.signal == signal.SIGKILL or event.code == _KILLED_CODE:
        # Nothing of ours killed it: the kernel does so when memory runs out.
        return Failure(FailureClass.OUT_OF_MEMORY, message, node_id, code)
    return Failure(FailureClass.USER_ERROR, message, node_id, code)


def _class_of_launch(reason: str) -> FailureClass:
    if reason.endswith(DISK_IS_FULL):
        return FailureClass.DISK
    if reason.startswith(NOT_OF_THE_JOB) or reason.endswith(HOST_IS_FULL):
        return FailureClass.HOST_LOST
    return FailureClass.USER_ERROR


def _class_of(record: FailureRecord) -> FailureClass:
    """The class that a job names itself: `user error` and `user_error` are the same."""
    name = record.failure_class.lower().replace("_", " ")
    if name == "disk":
        return FailureClass.DISK
    return next((known for known in SAID_BY_JOBS if known == name), FailureClass.USER_ERROR)


def shown(text: str) -> str:
    """What a job says, as one line that is safe on a terminal and on the wire."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[:MESSAGE_LEN_MAX])
    return line.encode("utf-8", "replace").decode().strip()


def _read_record(path: str) -> FailureRecord | None:
    try:
        with open_plain(path) as file:
            return _record_decoder.decode(file.read(FAILURE_BYTES_MAX))
    except (OSError, msgspec.DecodeError, ValueError, RecursionError):
        return None


def _tail(path: str) -> bytes:
    try:
        with open_plain(path) as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            return file.read()
    except OSError:
        return b""


def _last_line(tail: bytes) -> str:
    for line in reversed(tail.splitlines()):
        text = shown(line.decode("utf-8", "replace"))
        if text:
            return text
    return ""
