"""Why a job's process failed: from its exit, its own word, and the end of its log.

Three classes are told with care, for they cost the job none of its own retries:

preempted   only the built-in training may say so. A program that could, by an exit code
            or a word, would be run again without end; the mesh itself knows when it
            ended a program to have it run elsewhere.
bad gpu     only where the job had GPUs of the mesh (gpu_words.py), or where the driver
            says so (`blame_gpus`).
network     never read from a log: a download that a program fails at is the program's
            own, and may fail so for ever. A program that knows better says it itself.
"""

from __future__ import annotations

import os
import re
import signal

import msgspec

from meshtrain.core.commands import AssignAttempt
from meshtrain.core.job import Failure, FailureClass
from meshtrain.spec.jobs import CommandWork, TrainingWork
from meshtrain.spec.training_keys import EXIT_INTERRUPTED
from meshtrain_daemon.worker import gpu_words
from meshtrain_daemon.worker.attempt_folder import AttemptFolder, open_plain
from meshtrain_daemon.worker.launch import EndCause, Exited, LaunchFailed
from meshtrain_daemon.worker.prepare_step import FAILED_WORDS

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
    FailureClass.BAD_GPU,
)
"""What a job may say of itself; whether a host is lost, or a base, the mesh alone knows."""
OF_A_GPU_TOO = (FailureClass.USER_ERROR, FailureClass.TIMEOUT)
"""What a program looks like whose GPU fails under it: it crashes, or hangs."""
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
    if event.cause is EndCause.REQUESTED:
        # Where this daemon asked, it knows better. Of itself a job can't have its shim asked.
        told = "it was asked to end, by its host or by a daemon before this one"
        return Failure(FailureClass.PREEMPTED, told, node_id, code)
    if event.cause is not EndCause.FINISHED:
        told = "its supervisor on the node was killed, or the host went down"
        return Failure(FailureClass.HOST_LOST, told, node_id, code)
    assignment = folder.assignment
    record = _read_record(folder.failure)
    trains = isinstance(assignment.work, TrainingWork)
    if trains and (event.code == EXIT_INTERRUPTED or _says_preempted(record)):
        told = shown(record.message) if record is not None else ""
        told = told or "it was asked to end, and can go on elsewhere"
        return Failure(FailureClass.PREEMPTED, told, node_id, code)
    tail = _tail(folder.log)
    has_gpus = _uses_its_gpus(assignment)
    if record is not None:
        said_class = _class_of(record, has_gpus=has_gpus)
        if said_class is FailureClass.USER_ERROR and has_gpus:
            # The training only knows that CUDA raised something.
            evidence = record.message.encode("utf-8", "replace") + b"\n" + tail
            if gpu_words.tell_of_a_fault(evidence):
                said_class = FailureClass.BAD_GPU
        return Failure(said_class, shown(record.message), node_id, code)
    said = _last_line(tail)
    exited = f"exit code {code}" if event.signal is None else f"killed by signal {event.signal}"
    message = f"{exited}: {said}" if said else exited
    if said.startswith(FAILED_WORDS):
        # It tells the exit code itself, and what was said before.
        message = said.removeprefix("meshtrain: ")
    if _DISK_FULL.search(tail):
        return Failure(FailureClass.DISK, message, node_id, code)
    if has_gpus and (fault := gpu_words.tell_of_a_fault(tail)):
        return Failure(FailureClass.BAD_GPU, f"{exited}: {shown(fault)}", node_id, code)
    if _OUT_OF_MEMORY.search(tail) or event.signal == signal.SIGKILL or event.code == _KILLED_CODE:
        # Nothing of ours killed it: the kernel does so when memory runs out.
        return Failure(FailureClass.OUT_OF_MEMORY, message, node_id, code)
    return Failure(FailureClass.USER_ERROR, message, node_id, code)


def blame_gpus(failure: Failure | None, why: str) -> Failure | None:
    """A failure as it is told where the driver says that a GPU of the attempt has failed.

    Args:
        failure: as `failure_of` sees it.
        why: what the driver says; empty when all are well.
    """
    if failure is None or not why or failure.failure_class not in OF_A_GPU_TOO:
        return failure
    message = shown(f"{why}; {failure.message}")
    return Failure(FailureClass.BAD_GPU, message, failure.node_id, failure.exit_code)


def _uses_its_gpus(assignment: AssignAttempt) -> bool:
    """Whether the job was given GPUs, and didn't choose others by itself."""
    match assignment.work:
        case CommandWork(env=env):
            chooses = "CUDA_VISIBLE_DEVICES" in env
        case TrainingWork(config=config):
            chooses = config.get("device") is not None
    return bool(assignment.gpus) and not chooses


def _says_preempted(record: FailureRecord | None) -> bool:
    return record is not None and _name(record) == FailureClass.PREEMPTED


def _class_of_launch(reason: str) -> FailureClass:
    if reason.endswith(DISK_IS_FULL):
        return FailureClass.DISK
    if reason.startswith(NOT_OF_THE_JOB) or reason.endswith(HOST_IS_FULL):
        return FailureClass.HOST_LOST
    return FailureClass.USER_ERROR


def _class_of(record: FailureRecord, *, has_gpus: bool) -> FailureClass:
    """The class that a job names itself."""
    name = _name(record)
    if name == "disk":
        return FailureClass.DISK
    said = next((known for known in SAID_BY_JOBS if known == name), FailureClass.USER_ERROR)
    if said is FailureClass.BAD_GPU and not has_gpus:
        return FailureClass.USER_ERROR
    return said


def _name(record: FailureRecord) -> str:
    """A class as it is named: `user error` and `user_error` are the same."""
    return record.failure_class.lower().replace("_", " ")


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
