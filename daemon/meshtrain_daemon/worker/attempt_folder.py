"""The folder of an attempt on its node: what the job finds there, and what it leaves.

attempts/<attempt id>/
    output/          {output}: becomes the result
    base/            {base}, {from}: the base artifact, or a base's parent, a copy of its own
    code/            {code}: the snapshot, where the command runs
    checkpoint/      where the job puts its checkpoints, if it is to make any
    resume/          the checkpoint that it goes on from
    log              all that the job prints
    log.spool        what of the log was given back to the disk, see the spool module
    metrics.jsonl    a line for each measurement, streamed to the master
    failure.json     why it failed, as the job itself says
    request.json     what the built-in training is to do
    prepare.json     what is prepared in front of the job, see prepare_step.py
    assignment       what it is, for a daemon that takes it over
    started.json     which processes are its own, written by its shim
    exit.json        how it ended, written by its shim
    stored.json      what its output has become, or is about to
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core.commands import AssignAttempt
from meshtrain.errors import ProtocolError
from meshtrain.spec.inputs import PREPARED_VARIABLE, variable_of
from meshtrain.spec.jobs import CommandWork, TrainingWork
from meshtrain.spec.placeholders import INPUTS, fill_on_node
from meshtrain_daemon.worker import cgroup
from meshtrain_daemon.worker.assignment_record import (
    ASSIGNMENT_FILE,
    mark_forgotten,
    write_assignment,
)
from meshtrain_daemon.worker.command_line import argv_of
from meshtrain_daemon.worker.frames import EXIT_FILE, RECORD_BYTES, STARTED_FILE
from meshtrain_daemon.worker.job_users import JobUser, is_own_user
from meshtrain_daemon.worker.launch import KILL_GRACE_S_DEFAULT, Launch
from meshtrain_daemon.worker.plain_file import open_plain as open_plain
from meshtrain_daemon.worker.preparation import Prepared, key_of, write_request

_ATTEMPT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,199}")


_LEFT_BY_EVERY_JOB = {"output", "log", ASSIGNMENT_FILE, STARTED_FILE, EXIT_FILE}


class HostRules(msgspec.Struct, frozen=True):
    """How this host runs jobs."""

    kill_grace_s: float = KILL_GRACE_S_DEFAULT
    gpu_locks: str = ""
    """The folder of the host's GPU locks; empty locks none."""
    job_users: tuple[str, ...] = ()
    """Accounts that jobs may run as."""
    cgroup: str | None = None
    """The cgroup that those of jobs are made in; None makes none."""


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
    def checkpoints(self) -> str:
        return f"{self.path}/checkpoint"

    @property
    def resume(self) -> str | None:
        return f"{self.path}/resume" if self.assignment.resume is not None else None

    @property
    def base(self) -> str | None:
        return f"{self.path}/base" if self.assignment.base is not None else None

    @property
    def code(self) -> str | None:
        return f"{self.path}/code" if self.assignment.code is not None else None

    def make(self, spare: str | None = None) -> None:
        """Make the folder, with an empty output and its assignment on record.

        What a former daemon left under the name goes.

        Args:
            spare: the folder of an attempt that is over, found to be `is_spare`, to be used again.
        """
        # Plain calls: a Path costs as much as what is done with it, and this runs for each job.
        if not self._take(spare):
            try:
                os.mkdir(self.path)  # noqa: PTH102
            except FileExistsError:
                clear_away(self.path)
                os.mkdir(self.path)  # noqa: PTH102
            os.mkdir(self.output)  # noqa: PTH102
        if self.assignment.checkpoint_every_s is not None:
            os.mkdir(self.checkpoints)  # noqa: PTH102
        write_assignment(self.path, self.assignment)

    def _take(self, spare: str | None) -> bool:
        """Use a spare folder again, if there is one."""
        if spare is None:
            return False
        try:
            os.rename(spare, self.path)  # noqa: PTH104
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT):
                raise
            return False
        return True

    @property
    def needs_copies(self) -> bool:
        """Whether artifacts are to be laid out, which takes time."""
        assignment = self.assignment
        return not (assignment.base is assignment.code is assignment.resume is None)

    def lay_out(self, store: ArtifactStore) -> None:
        """Give the job copies of its own of what it starts from.

        Raises ArtifactError when an artifact is gone or the disk is full.
        """
        assignment = self.assignment
        # Another account can't write to what is ours; it reads its base, and no copy is made.
        is_others = assignment.user is not None and not is_own_user(assignment.user)
        for need, folder, links in (
            (assignment.base, self.base, is_others),
            (assignment.code, self.code, False),
            (assignment.resume, self.resume, is_others),
        ):
            if need is not None and folder is not None:
                store.materialise(need.artifact_id, Path(folder), links=links)

    @property
    def reads_data(self) -> bool:
        """Whether there is data to be looked for, or something to be prepared of it."""
        work = self.assignment.work
        return isinstance(work, CommandWork) and bool(work.inputs or work.prepare)

    def launch(
        self,
        rules: HostRules,
        inputs: Mapping[str, str] = MappingProxyType({}),
        prepared: Prepared | None = None,
    ) -> Launch:
        """What the runner is to start; for training, also writes its request.

        Args:
            rules: how this host runs jobs.
            inputs: name → path of what the job reads.
            prepared: where what it wants prepared lies, or comes to lie.

        Raises JobUserError when it can't run as the account that it names.
        """
        assignment = self.assignment
        user = None
        if assignment.user is not None and not is_own_user(assignment.user):
            user = JobUser(assignment.user, rules.job_users)
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
        if assignment.checkpoint_every_s is not None:
            env["MESHTRAIN_CHECKPOINT"] = self.checkpoints
            env["MESHTRAIN_CHECKPOINT_EVERY_S"] = f"{assignment.checkpoint_every_s:g}"
        if self.resume is not None:
            env["MESHTRAIN_RESUME"] = self.resume
        if user is not None:
            env.update(user.environment)
        work = assignment.work
        argv: tuple[str, ...] = ()
        call = None
        match work:
            case CommandWork():
                places = {INPUTS + name: path for name, path in inputs.items()}
                env.update({variable_of(name): path for name, path in inputs.items()})
                key = key_of(assignment) if prepared is not None else None
                if prepared is not None and key is not None:
                    env[PREPARED_VARIABLE] = places["prepared"] = prepared.tree(key)
                own = {
                    name: self.fill(value, places, for_shell=False)
                    for name, value in work.env.items()
                }
                argv = argv_of(self.fill(work.command, places, for_shell=True))
                if prepared is not None and key is not None and not prepared.take(key):
                    if user is not None:
                        user.own_alone(prepared.folder(key))
                    argv = write_request(
                        f"{self.path}/prepare.json",
                        folder=prepared.folder(key),
                        lines=self.fill(work.prepare or "", places, for_shell=True),
                        written=work.prepare or "",
                        cwd=self.code,
                        argv=argv,
                        env=own,
                        log=self.log,
                    )
                else:
                    env.update(own)
            case TrainingWork():
                device = work.config.get("device")
                if device is not None:
                    env["CUDA_VISIBLE_DEVICES"] = str(device)
                call = self._write_request(work)
        if user is not None:
            self._hand_to(user)
        return Launch(
            attempt_id=assignment.attempt_id,
            folder=self.path,
            log_path=self.log,
            cwd=self.code or self.output,
            argv=argv,
            call=call,
            env=env,
            timeout_s=assignment.timeout_s,
            kill_grace_s=rules.kill_grace_s,
            gpu_locks=tuple(f"{rules.gpu_locks}/gpu-{index}.lock" for index in assignment.gpus)
            if rules.gpu_locks
            else (),
            cgroup=cgroup.path_for(rules.cgroup, assignment.attempt_id) if rules.cgroup else None,
            account=None if user is None else user.account,
        )

    def _hand_to(self, user: JobUser) -> None:
        """Let an account write where the job writes; the records stay the daemon's own."""
        for folder in (self.output, self.base, self.code, self.resume):
            if folder is not None:
                user.own(folder)
        if self.assignment.checkpoint_every_s is not None:
            user.own(self.checkpoints)
        for path in (f"{self.path}/{STARTED_FILE}", f"{self.path}/{EXIT_FILE}", self.log):
            # Ours before the job, or another one of its account, can make them: nobody else can
            # replace them then.
            Path(path).touch()
        user.let_in(self.path)

    def fill(
        self,
        template: str,
        places: Mapping[str, str] = MappingProxyType({}),
        *,
        for_shell: bool,
    ) -> str:
        """The text with this attempt's folders, and other places, for the node's placeholders."""
        if "{" not in template and "}" not in template:
            return template
        base = self.base or ""
        folders = {"output": self.output, "base": base, "from": base, "code": self.code or ""}
        return fill_on_node(template, {**folders, **places}, for_shell=for_shell)

    def _write_request(self, work: TrainingWork) -> str:
        path = f"{self.path}/request.json"
        request = {
            "config": work.config,
            "recipe_hash": self.assignment.recipe_hash,
            "output": self.output,
            "base": self.base,
            "metrics": self.metrics,
            "failure": self.failure,
            "checkpoint": (
                self.checkpoints if self.assignment.checkpoint_every_s is not None else None
            ),
            "checkpoint_every_s": self.assignment.checkpoint_every_s,
            "resume": self.resume,
        }
        Path(path).write_bytes(msgspec.json.encode(request))
        return path

    def is_spare(self) -> bool:
        """Whether the attempt left nothing at all: then its folder is as good as a new one."""
        try:
            if self.assignment.user is not None:
                return False  # It is shared with that account.
            if set(os.listdir(self.path)) != _LEFT_BY_EVERY_JOB or os.listdir(self.output):  # noqa: PTH208
                return False
            return (
                _is_plain(self.log, 0)
                and _is_plain(f"{self.path}/{STARTED_FILE}", RECORD_BYTES)
                and _is_plain(f"{self.path}/{EXIT_FILE}", RECORD_BYTES)
                and _is_plain(f"{self.path}/{ASSIGNMENT_FILE}")
                and _is_usable(self.path)
                and _is_usable(self.output)
            )
        except OSError:
            return False

    def forget(self) -> None:
        """Note that the master has the attempt's end, so that no later daemon tells it again."""
        try:
            mark_forgotten(self.path)
        except OSError:
            return  # It would be told again, and the master answers that it knows.

    def remove(self) -> None:
        """Remove it with all that is in it."""
        clear_away(self.path)


def clear_away(path: str) -> None:
    """Remove what a job left, folders too that nobody may write to; as far as that can be done."""
    if os.geteuid() != 0 and not os.path.islink(path):  # noqa: PTH114
        # Root need not: what is another account's may be exchanged for a link at any moment.
        with contextlib.suppress(OSError):
            os.chmod(path, 0o700)  # noqa: PTH101
        for folder, names, _ in os.walk(path):
            for name in names:
                inner = f"{folder}/{name}"
                with contextlib.suppress(OSError):
                    if not os.path.islink(inner):  # noqa: PTH114
                        os.chmod(inner, 0o700)  # noqa: PTH101
    shutil.rmtree(path, ignore_errors=True)


def _is_plain(path: str, size_bytes: int | None = None) -> bool:
    info = os.lstat(path)
    is_own = stat.S_ISREG(info.st_mode) and info.st_nlink == 1 and info.st_uid == os.geteuid()
    return is_own and info.st_mode & 0o600 == 0o600 and size_bytes in (None, info.st_size)


def _is_usable(folder: str) -> bool:
    info = os.lstat(folder)
    return (
        stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and info.st_mode & 0o700 == 0o700
    )
