"""Why a process failed: the right class, and a message that is fit to be shown."""

from __future__ import annotations

import inspect
import json
import os
import signal
from pathlib import Path

import pytest
from worker_records import assignment, made_folder

from meshtrain.core.job import FailureClass
from meshtrain_daemon.worker import gpu_lock, program, runner, spawner
from meshtrain_daemon.worker.attempt_folder import AttemptFolder
from meshtrain_daemon.worker.launch import EndCause, Exited, LaunchFailed
from meshtrain_daemon.worker.verdict import (
    DISK_IS_FULL,
    FAILURE_BYTES_MAX,
    HOST_IS_FULL,
    MESSAGE_LEN_MAX,
    NOT_OF_THE_JOB,
    failure_of,
)


@pytest.fixture
def folder(tmp_path: Path) -> AttemptFolder:
    return made_folder(tmp_path)


def exited(code: int | None = 1, **fields: object) -> Exited:
    return Exited("j.1", fields.pop("cause", EndCause.FINISHED), code, **fields)  # type: ignore[arg-type]


def verdict(folder: AttemptFolder, event: Exited | LaunchFailed) -> tuple[FailureClass, str]:
    failure = failure_of(folder, event, "n1")
    assert failure is not None and failure.node_id == "n1"
    return failure.failure_class, failure.message


def test_exit_code_0_is_no_failure_whatever_was_printed(folder: AttemptFolder) -> None:
    Path(folder.log).write_text("CUDA out of memory\n")
    Path(folder.failure).write_text('{"class": "disk"}')
    assert failure_of(folder, exited(0), "n1") is None


@pytest.mark.parametrize(
    ("log", "event", "expected"),
    [
        (b"KeyError: 'x'\n", exited(1), FailureClass.USER_ERROR),
        (b"torch.OutOfMemoryError: CUDA out of memory.\n", exited(1), FailureClass.OUT_OF_MEMORY),
        (b"Traceback\nMemoryError\n", exited(1), FailureClass.OUT_OF_MEMORY),
        (b"", exited(None, signal=signal.SIGKILL), FailureClass.OUT_OF_MEMORY),
        (b"Killed\n", exited(137), FailureClass.OUT_OF_MEMORY),
        (b"OSError: [Errno 28] No space left on device\n", exited(1), FailureClass.DISK),
        (b"", exited(None, signal=signal.SIGSEGV), FailureClass.USER_ERROR),
        (b"", exited(None, cause=EndCause.TIMED_OUT, signal=15), FailureClass.TIMEOUT),
        (b"", exited(None, cause=EndCause.LOST), FailureClass.HOST_LOST),
        (b"", exited(None, cause=EndCause.REQUESTED), FailureClass.HOST_LOST),
    ],
)
def test_the_class_comes_from_the_exit_and_the_end_of_the_log(
    folder: AttemptFolder, log: bytes, event: Exited, expected: FailureClass
) -> None:
    Path(folder.log).write_bytes(log)
    assert verdict(folder, event)[0] is expected


def test_the_message_has_the_exit_code_and_the_last_line(folder: AttemptFolder) -> None:
    Path(folder.log).write_bytes(b"x" * 10_000 + b"\nValueError: no such split\n\n  \n")
    assert verdict(folder, exited(3))[1] == "exit code 3: ValueError: no such split"


def test_the_last_line_is_safe_on_a_terminal(folder: AttemptFolder) -> None:
    Path(folder.log).write_bytes(b"\x1b[2J\x1b]0;owned\x07 \xff bad \xe2\x80\xae\n")
    message = verdict(folder, exited(1))[1]
    assert message.isprintable()
    assert "owned" in message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("out of memory", FailureClass.OUT_OF_MEMORY),
        ("OUT_OF_MEMORY", FailureClass.OUT_OF_MEMORY),
        ("disk", FailureClass.DISK),
        ("disk full", FailureClass.DISK),
        ("network", FailureClass.NETWORK),
        ("host lost", FailureClass.USER_ERROR),
        ("preempted", FailureClass.USER_ERROR),
        ("base failed", FailureClass.USER_ERROR),
        ("nonsense", FailureClass.USER_ERROR),
    ],
)
def test_a_job_may_name_its_own_failure_but_not_the_meshs(
    folder: AttemptFolder, name: str, expected: FailureClass
) -> None:
    Path(folder.failure).write_text(json.dumps({"class": name, "message": "so\nit\x07 is"}))
    assert verdict(folder, exited(1)) == (expected, "so it  is")


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"not json",
        b'{"class": 3}',
        b"[]",
        b'{"class": "disk", "message": "' + b"x" * FAILURE_BYTES_MAX + b'"}',
        b"\xff\xfe",
    ],
)
def test_a_record_that_can_not_be_read_counts_as_none(folder: AttemptFolder, record: bytes) -> None:
    Path(folder.failure).write_bytes(record)
    Path(folder.log).write_bytes(b"the log says\n")
    assert verdict(folder, exited(1)) == (FailureClass.USER_ERROR, "exit code 1: the log says")


def test_a_long_message_is_cut(folder: AttemptFolder) -> None:
    Path(folder.failure).write_text(json.dumps({"class": "network", "message": "y" * 5000}))
    assert len(verdict(folder, exited(1))[1]) == MESSAGE_LEN_MAX


def test_pipes_and_folders_in_place_of_files_neither_block_nor_raise(folder: AttemptFolder) -> None:
    os.mkfifo(folder.failure)
    Path(folder.log).mkdir()
    assert verdict(folder, exited(2)) == (FailureClass.USER_ERROR, "exit code 2")


def test_the_timeout_is_told(tmp_path: Path) -> None:
    folder = AttemptFolder(tmp_path, assignment(timeout_s=90.0))
    event = exited(None, cause=EndCause.TIMED_OUT, signal=15)
    assert "timeout of 90 s" in verdict(folder, event)[1]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("command not found: pyhton; install it on this node", FailureClass.USER_ERROR),
        ("can't get GPU 0: after 10 s it was still held by attempt a.1", FailureClass.HOST_LOST),
        ("can't fork a shim: no; too many processes or too little memory", FailureClass.HOST_LOST),
        ("the spawner was not ready after 120 s; its", FailureClass.HOST_LOST),
        ("the runner was closed", FailureClass.HOST_LOST),
        (f"can't open /a/log: No space left on device; {DISK_IS_FULL}", FailureClass.DISK),
        (f"can't run /bin/x: no; {HOST_IS_FULL[1]}", FailureClass.HOST_LOST),
    ],
)
def test_what_keeps_a_process_from_starting_is_not_always_the_jobs_fault(
    folder: AttemptFolder, reason: str, expected: FailureClass
) -> None:
    assert verdict(folder, LaunchFailed("j.1", reason)) == (expected, reason)


def test_the_reasons_known_by_their_words_are_still_worded_so() -> None:
    source = "".join(inspect.getsource(module) for module in (program, runner, spawner, gpu_lock))
    for words in (*NOT_OF_THE_JOB, *HOST_IS_FULL, DISK_IS_FULL):
        assert words in source, words
