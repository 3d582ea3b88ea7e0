"""Why a process failed: the right class, and a message that is fit to be shown."""

from __future__ import annotations

import inspect
import json
import os
import signal
from pathlib import Path

import pytest
from worker_records import assignment, made_folder

from meshtrain.core.job import Failure, FailureClass
from meshtrain.spec.jobs import CommandWork, TrainingWork
from meshtrain.spec.training_keys import EXIT_INTERRUPTED
from meshtrain_daemon.worker import gpu_lock, program, runner, spawner
from meshtrain_daemon.worker.attempt_folder import AttemptFolder
from meshtrain_daemon.worker.launch import EndCause, Exited, LaunchFailed
from meshtrain_daemon.worker.verdict import (
    DISK_IS_FULL,
    FAILURE_BYTES_MAX,
    HOST_IS_FULL,
    MESSAGE_LEN_MAX,
    NOT_OF_THE_JOB,
    blame_gpus,
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
        (b"", exited(None, cause=EndCause.REQUESTED), FailureClass.PREEMPTED),
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


def test_a_preparation_that_failed_is_told_in_its_own_words(folder: AttemptFolder) -> None:
    last = "the preparation failed with exit code 3: no such archive"
    Path(folder.log).write_text(f"no such archive\nmeshtrain: {last}\n")
    assert verdict(folder, exited(3)) == (FailureClass.USER_ERROR, last)
    Path(folder.log).write_text("tar: No space left on device\nmeshtrain: the preparation failed\n")
    assert verdict(folder, exited(2))[0] is FailureClass.DISK


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


# --- preempted ---------------------------------------------------------------------------


@pytest.fixture
def training(tmp_path: Path) -> AttemptFolder:
    folder = AttemptFolder(tmp_path, assignment("t.1", work=TrainingWork({}), gpus=(0,)))
    folder.make()
    return folder


def test_a_training_that_was_asked_to_end_is_preempted_and_no_failure_of_its_own(
    training: AttemptFolder,
) -> None:
    expected = (FailureClass.PREEMPTED, "it was asked to end, and can go on elsewhere")
    assert verdict(training, exited(EXIT_INTERRUPTED)) == expected
    Path(training.failure).write_text('{"class": "preempted", "message": "after step 7"}')
    for code in (EXIT_INTERRUPTED, 1):
        assert verdict(training, exited(code)) == (FailureClass.PREEMPTED, "after step 7")
    timed_out = exited(EXIT_INTERRUPTED, cause=EndCause.TIMED_OUT)
    assert verdict(training, timed_out)[0] is FailureClass.TIMEOUT


def test_a_program_of_ones_own_can_not_have_itself_run_again_without_end(
    folder: AttemptFolder,
) -> None:
    assert verdict(folder, exited(EXIT_INTERRUPTED))[0] is FailureClass.USER_ERROR
    Path(folder.failure).write_text('{"class": "preempted", "message": "again"}')
    assert verdict(folder, exited(EXIT_INTERRUPTED)) == (FailureClass.USER_ERROR, "again")


# --- GPUs ----------------------------------------------------------------------------------

TORCH_HINTS = b"""
CUDA kernel errors might be asynchronously reported at some other API call.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.

"""


@pytest.fixture
def on_gpu(tmp_path: Path) -> AttemptFolder:
    folder = AttemptFolder(tmp_path, assignment("g.1", gpus=(0,)))
    folder.make()
    return folder


BAD = (
    b"torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered",
    b"RuntimeError: CUDA error: uncorrectable NVLink error detected during the execution",
    b"CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered",
    b"failed: cudaErrorECCUncorrectable",
    b"Unable to determine the device handle for GPU 0000:1B:00.0: GPU is lost.",
    b"pynvml.NVMLError_GpuIsLost: GPU is lost",
    b"NVRM: Xid (PCI:0000:06:00): 79, pid=17, GPU has fallen off the bus.",
    b"NVRM: Xid (PCI:0000:06:00): 48, pid=17, name=python, DBE",
    b"RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable",
    b"RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    b"RuntimeError: CUDA error: no CUDA-capable device is detected",
    b"RuntimeError: CUDA driver initialization failed, you might not have a CUDA gpu.",
    b"RuntimeError: No CUDA GPUs are available",
    b"RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet "
    b"initialized",
)
OWN = (
    b"RuntimeError: CUDA error: an illegal memory access was encountered",
    b"RuntimeError: CUDA error: device-side assert triggered",
    b"RuntimeError: CUDA error: invalid device ordinal",
    b"RuntimeError: CUDA error: unspecified launch failure",
    b"RuntimeError: CUDA error: hardware stack error",
    b"RuntimeError: CUDA error: invalid device function",
    b"The NVIDIA driver on your system is too old (found version 11040).",
    b"AssertionError: Torch not compiled with CUDA enabled",
    b"NVRM: Xid (PCI:0000:06:00): 31, pid=48, name=python, MMU Fault",
    b"NVRM: Xid (PCI:0000:06:00): 13, pid=79, Graphics Exception",
)


@pytest.mark.parametrize("line", BAD)
def test_a_gpu_that_failed_is_known_by_what_cuda_says(on_gpu: AttemptFolder, line: bytes) -> None:
    Path(on_gpu.log).write_bytes(b"step 1\n" + line + TORCH_HINTS)
    failure_class, message = verdict(on_gpu, exited(1))
    assert failure_class is FailureClass.BAD_GPU
    assert message == f"exit code 1: {line.decode()}"


@pytest.mark.parametrize("line", BAD)
def test_a_job_that_has_no_gpu_blames_none(folder: AttemptFolder, line: bytes) -> None:
    Path(folder.log).write_bytes(line + b"\n")
    assert verdict(folder, exited(1))[0] is FailureClass.USER_ERROR
    Path(folder.failure).write_text('{"class": "bad gpu"}')
    assert verdict(folder, exited(1))[0] is FailureClass.USER_ERROR


@pytest.mark.parametrize("line", OWN)
def test_what_a_program_does_to_itself_is_no_fault_of_its_gpu(
    on_gpu: AttemptFolder, line: bytes
) -> None:
    Path(on_gpu.log).write_bytes(line + TORCH_HINTS)
    assert verdict(on_gpu, exited(1))[0] is FailureClass.USER_ERROR


def test_a_gpu_that_could_not_be_used_is_blamed_only_by_what_ended_the_program(
    on_gpu: AttemptFolder,
) -> None:
    warned = b"UserWarning: CUDA initialization: system not yet initialized\nValueError: x\n"
    Path(on_gpu.log).write_bytes(warned)
    assert verdict(on_gpu, exited(1))[0] is FailureClass.USER_ERROR
    Path(on_gpu.log).write_bytes(b"No CUDA GPUs are available\n" + b"goes on\n" * 20)
    assert verdict(on_gpu, exited(1))[0] is FailureClass.USER_ERROR


@pytest.mark.parametrize(
    "work",
    [
        CommandWork("true", env={"CUDA_VISIBLE_DEVICES": "7"}),
        TrainingWork({"device": "7"}),
    ],
)
def test_a_job_that_chose_its_gpu_itself_blames_not_the_one_that_it_was_given(
    tmp_path: Path, work: CommandWork | TrainingWork
) -> None:
    folder = AttemptFolder(tmp_path, assignment("c.1", work=work, gpus=(0,)))
    folder.make()
    Path(folder.log).write_bytes(BAD[0])
    assert verdict(folder, exited(1))[0] is FailureClass.USER_ERROR


def test_a_job_may_say_itself_that_its_gpu_is_bad(on_gpu: AttemptFolder) -> None:
    Path(on_gpu.failure).write_text('{"class": "bad_gpu", "message": "wrong sums"}')
    assert verdict(on_gpu, exited(1)) == (FailureClass.BAD_GPU, "wrong sums")


def test_a_training_that_only_knows_of_an_error_is_not_blamed_for_its_gpu(
    training: AttemptFolder,
) -> None:
    said = {"class": "user_error", "message": f"AcceleratorError: {BAD[0].decode()}"}
    Path(training.failure).write_text(json.dumps(said))
    assert verdict(training, exited(1)) == (FailureClass.BAD_GPU, said["message"])


def test_the_log_is_not_asked_about_the_network(folder: AttemptFolder) -> None:
    Path(folder.log).write_bytes(b"ConnectionError: HTTPSConnectionPool: Max retries exceeded\n")
    assert verdict(folder, exited(1))[0] is FailureClass.USER_ERROR


@pytest.mark.parametrize("failure_class", FailureClass)
def test_the_driver_s_word_tells_why_a_program_crashed_or_hung(failure_class: FailureClass) -> None:
    failure = Failure(failure_class, "exit code 1", "n1", 1)
    assert blame_gpus(failure, "") is failure
    blamed = blame_gpus(failure, "GPU 0: GPU is lost")
    if failure_class in (FailureClass.USER_ERROR, FailureClass.TIMEOUT):
        told = "GPU 0: GPU is lost; exit code 1"
        assert blamed == Failure(FailureClass.BAD_GPU, told, "n1", 1)
    else:
        assert blamed is failure
    assert blame_gpus(None, "GPU 0: GPU is lost") is None
