"""The folder of an attempt on its node: what the job finds there, and what it leaves.

attempts/<attempt id>/
    output/          {output}: becomes the result
    base/            {base}: the base artifact, a copy of its own
    code/            {code}: the snapshot, where the command runs
    log              all that the job prints
    metrics.jsonl    a line for each measurement, streamed to the master
    failure.json     why it failed, as the job itself says
    request.json     what the built-in training is to do
    exit.json        how it ended, written by its shim
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

import msgspec

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core.commands import AssignAttempt
from meshtrain.errors import ProtocolError
from meshtrain.spec.jobs import CommandWork, TrainingWork
from meshtrain.spec.placeholders import fill_on_node
from meshtrain_daemon.worker.command_line import argv_of
from meshtrain_daemon.worker.frames import EXIT_FILE, RECORD_BYTES, STARTED_FILE
from meshtrain_daemon.worker.launch import Launch

_ATTEMPT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,199}")


def open_plain(path: str) -> BinaryIO:
    """A file that a job may have replaced by anything: a pipe would block, a link lead elsewhere.

    Raises OSError for all that is no plain file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is no plain file")
    return open(fd, "rb")  # noqa: PTH123


_LEFT_BY_EVERY_JOB = {"output", "log", STARTED_FILE, EXIT_FILE}


class AttemptFolder:
    """The paths of one attempt.

    Args:
        attempts: the folder that holds those of all attempts.
        assignment: what is to be run.

    Raises ProtocolError for an attempt whose id is no name: it becomes a path.
    """

    __slots__ = ("assignment", "path")

    def __init__(self, attempts: Path, assignment: AssignAttempt) -> None:
        if not _ATTEMPT_ID.fullmatch(assignment.attempt_id):
            raise ProtocolError(
                f"the attempt id {assignment.attempt_id[:64]!r} is no name; see that the master "
                "and this node run the same version"
            )
        self.assignment = assignment
        self.path = f"{attempts}/{assignment.attempt_id}"

    @property
    def output(self) -> str:
        return f"{self.path}/output"

    @property
    def log(self) -> str:
        return f"{self.path}/log"

    @property
    def metrics(self) -> str:
        return f"{self.path}/metrics.jsonl"

    @property
    def failure(self) -> str:
        return f"{self.path}/failure.json"

    @property
    def base(self) -> str | None:
        return f"{self.path}/base" if self.assignment.base is not None else None

    @property
    def code(self) -> str | None:
        return f"{self.path}/code" if self.assignment.code is not None else None

    def make(self, spare: str | None = None) -> None:
        """Make the folder with an empty output; what a former daemon left under the name goes.

        Args:
            spare: the folder of an attempt that is over, found to be `is_spare`, to be used again.
        """
        # Plain calls: a Path costs as much as what is done with it, and this runs for each job.
        try:
            if spare is not None:
                os.rename(spare, self.path)  # noqa: PTH104
                return
            os.mkdir(self.path)  # noqa: PTH102
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT):
                raise
            shutil.rmtree(self.path, ignore_errors=True)
            os.mkdir(self.path)  # noqa: PTH102
        os.mkdir(self.output)  # noqa: PTH102

    @property
    def needs_copies(self) -> bool:
        """Whether artifacts are to be laid out, which takes time."""
        return self.assignment.base is not None or self.assignment.code is not None

    def lay_out(self, store: ArtifactStore) -> None:
        """Give the job copies of its own of what it starts from.

        Raises ArtifactError when an artifact is gone or the disk is full.
        """
        if self.assignment.base is not None:
            store.materialise(self.assignment.base.artifact_id, Path(f"{self.path}/base"))
        if self.assignment.code is not None:
            store.materialise(self.assignment.code.artifact_id, Path(f"{self.path}/code"))

    def launch(self, kill_grace_s: float) -> Launch:
        """What the runner is to start; for training, also writes its request."""
        assignment = self.assignment
        env = {
            "MESHTRAIN_JOB": assignment.job_id,
            "MESHTRAIN_NAME": assignment.name,
            "MESHTRAIN_OUTPUT": self.output,
            "MESHTRAIN_METRICS": self.metrics,
            "MESHTRAIN_FAILURE": self.failure,
            # As NVML counts them; CUDA by itself would put the fastest first.
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": ",".join(str(index) for index in assignment.gpus),
        }
        if self.base is not None:
            env["MESHTRAIN_BASE"] = self.base
        work = assignment.work
        argv: tuple[str, ...] = ()
        call = None
        match work:
            case CommandWork():
                for name, value in work.env.items():
                    env[name] = self.fill(value, for_shell=False)
                argv = argv_of(self.fill(work.command, for_shell=True))
            case TrainingWork():
                device = work.config.get("device")
                if device is not None:
                    env["CUDA_VISIBLE_DEVICES"] = str(device)
                call = self._write_request(work)
        return Launch(
            attempt_id=assignment.attempt_id,
            folder=self.path,
            log_path=self.log,
            cwd=self.code or self.output,
            argv=argv,
            call=call,
            env=env,
            timeout_s=assignment.timeout_s,
            kill_grace_s=kill_grace_s,
        )

    def fill(self, template: str, *, for_shell: bool) -> str:
        """The text with this attempt's folders in place of {output}, {base} and {code}."""
        if "{" not in template and "}" not in template:
            return template
        folders = {"output": self.output, "base": self.base or "", "code": self.code or ""}
        return fill_on_node(template, folders, for_shell=for_shell)

    def _write_request(self, work: TrainingWork) -> str:
        path = f"{self.path}/request.json"
        request = {
            "config": work.config,
            "recipe_hash": self.assignment.recipe_hash,
            "output": self.output,
            "base": self.base,
            "metrics": self.metrics,
            "failure": self.failure,
        }
        Path(path).write_bytes(msgspec.json.encode(request))
        return path

    def is_spare(self) -> bool:
        """Whether the attempt left nothing at all: then its folder is as good as a new one."""
        try:
            if set(os.listdir(self.path)) != _LEFT_BY_EVERY_JOB or os.listdir(self.output):  # noqa: PTH208
                return False
            return (
                os.path.getsize(self.log) == 0  # noqa: PTH202
                and os.path.getsize(f"{self.path}/{STARTED_FILE}") == RECORD_BYTES  # noqa: PTH202
                and os.path.getsize(f"{self.path}/{EXIT_FILE}") == RECORD_BYTES  # noqa: PTH202
                and not os.path.islink(self.output)  # noqa: PTH114
            )
        except OSError:
            return False

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
