"""From a job file's bytes to a sweep that the scheduler takes."""

from __future__ import annotations

import errno
from collections.abc import Container, Mapping
from pathlib import Path

import msgspec

from meshtrain.artifacts.tree import hash_file
from meshtrain.errors import UserError
from meshtrain.spec.expand import Digests, expand, needed
from meshtrain.spec.jobfile import JobFile, parse_job_file
from meshtrain.spec.jobs import CodeDigests, InputData, SweepSpec
from meshtrain.spec.lineage import ResolvedParent

AGAIN_MAX = 10_000


class Submission(msgspec.Struct, frozen=True):
    """A job file and what only its sender knows of it."""

    name: str
    data: bytes
    code: dict[str, CodeDigests] = {}
    data_digests: dict[str, str] = {}
    bases_only: bool = False
    again: bool = False
    inputs: dict[str, InputData] = {}


def sweep_of(
    submission: Submission,
    *,
    cells_max: int,
    known_sweeps: Container[str],
    job_file: JobFile | None = None,
    parents: Mapping[str, ResolvedParent] | None = None,
    inputs: Mapping[str, InputData] | None = None,
) -> SweepSpec:
    """The sweep that a submission comes to; takes about a second for 100,000 cells.

    Args:
        known_sweeps: ids that are taken; with `again`, the sweep gets one that isn't.
        job_file: the file, where it was parsed already.
        parents: what the bases that it continues from are, by their names in the file.
        inputs: what each data set and share is that jobs read, by its reference.

    Raises JobFileError with all problems of the file, or UserError.
    """
    if job_file is None:
        job_file = parse_job_file(submission.data, submission.name, cells_max=cells_max)
    wanted = needed(job_file)
    missing = [folder for folder in wanted.code if folder not in submission.code]
    if missing:
        raise UserError(
            f"{submission.name}: no snapshot of the code folder {missing[0]} came with it. "
            "Submit it with `meshtrain submit`, or drop a folder that holds the job file and "
            "its code"
        )
    data: Mapping[str, str] = submission.data_digests
    if wanted.data_folder is not None and not data:
        data = data_digests(wanted.data_folder, wanted.participants)
    digests = Digests(
        code=dict(submission.code),
        data=dict(data),
        parents=dict(parents or {}),
        inputs=dict(inputs or {}),
    )
    sweep = expand(job_file, digests, bases_only=submission.bases_only)
    if not submission.again:
        return sweep
    for again in range(1, AGAIN_MAX):
        sweep = expand(job_file, digests, again=again, bases_only=submission.bases_only)
        if sweep.sweep_id not in known_sweeps:
            return sweep
    raise UserError(f"{submission.name} ran {AGAIN_MAX} times already; change its name")


def data_digests(folder: str, participants: tuple[str, ...]) -> Mapping[str, str]:
    """The digest of each participant's file in a folder of data.

    Raises UserError that names the first file that can't be read.
    """
    digests = {}
    for participant in participants:
        path = Path(folder) / f"{participant}.npz"
        try:
            # A device has no end, a pipe no beginning.
            if path.exists() and not path.is_file():
                raise OSError(errno.EINVAL, "no plain file")
            digests[participant] = hash_file(path)
        except OSError as error:
            raise UserError(
                f"the data of {participant} can't be read: {path}: {error.strerror}. "
                "Give data: {folder: …} a folder with one .npz file for each participant, "
                "at the same path on every host"
            ) from None
    return digests
