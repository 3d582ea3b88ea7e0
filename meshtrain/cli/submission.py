"""A job file on this host, with what only this host knows of it: its code and its data.

submission = prepare(Path("sweep.yaml"))
submission = with_parents(submission, link)      # where its base continues from another
submission = with_inputs(submission, link)       # where its jobs read data sets, or shares
sweep = submission.sweep()                       # what it comes to, as the master will see it
asyncio.run(upload(submission, "http://127.0.0.1:7473", None))
link.request(submission.message())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from meshtrain.artifacts.listing import share_data
from meshtrain.artifacts.snapshot import largest, snapshot_files, snapshot_manifest
from meshtrain.artifacts.tree import hash_file
from meshtrain.cli.context import Link, ask
from meshtrain.core.manifest import artifact_id
from meshtrain.core.named_input import NamedInput
from meshtrain.errors import ArtifactError, UserError
from meshtrain.ids import new_id, short
from meshtrain.spec.expand import Digests, expand, needed
from meshtrain.spec.inputs import is_share
from meshtrain.spec.jobfile import JobFile, parse_job_file
from meshtrain.spec.jobs import CodeDigests, InputData, SweepSpec
from meshtrain.spec.lineage import ResolvedParent
from meshtrain.spec.problems import did_you_mean
from meshtrain.spec.reader import FILE_SIZE_MAX_BYTES, SUFFIXES
from meshtrain.wire.messages import Submit

if TYPE_CHECKING:
    from meshtrain.artifacts.upload import UploadSteps
    from meshtrain.security.signing import HttpSecurity
    from meshtrain.security.standing import Standing

CODE_BYTES_MAX = 200_000_000
"""Of the snapshot that is taken without a word: what is larger is hardly code."""
ALLOW_LARGE_CODE = "--allow-large-code"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A folder of code as it is now."""

    written: str
    """As the job file writes it."""
    folder: Path
    files: tuple[str, ...]
    size_bytes: int
    digests: CodeDigests
    largest: tuple[tuple[str, int], ...] = ()
    """Paths and bytes of its largest files, the largest first."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A job file without problems, ready to be sent."""

    path: Path
    data: bytes
    job_file: JobFile
    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)
    """Folder as the job file writes it → its snapshot."""
    data_digests: Mapping[str, str] = field(default_factory=dict)
    """Participant → the digest of its file; empty where the data is built in."""
    parents: Mapping[str, ResolvedParent] = field(default_factory=dict)
    """What `base.from` says → the base that it means, as the master knows it."""
    inputs: Mapping[str, InputData] = field(default_factory=dict)
    """Data set or path on a share, as the file comes to it → what it is now."""

    def sweep(self, *, bases_only: bool = False) -> SweepSpec:
        """What the file comes to.

        Raises JobFileError for what only digests show, UserError for a sweep
        without bases of which only those are asked for.
        """
        code = {written: snapshot.digests for written, snapshot in self.snapshots.items()}
        digests = Digests(
            code=code,
            data=dict(self.data_digests),
            parents=dict(self.parents),
            inputs=dict(self.inputs),
        )
        return expand(self.job_file, digests, bases_only=bases_only)

    def message(
        self, *, bases_only: bool = False, allow_pending: bool = False, again: bool = False
    ) -> Submit:
        """The message that submits it; its snapshots must have been uploaded."""
        return Submit(
            request_id=new_id("submit"),
            name=self.path.name,
            data=self.data,
            code={written: snapshot.digests for written, snapshot in self.snapshots.items()},
            data_digests=dict(self.data_digests),
            bases_only=bases_only,
            allow_pending=allow_pending,
            again=again,
            inputs=dict(self.inputs),
        )


def prepare(path: Path, *, code_bytes_max: int | None = CODE_BYTES_MAX) -> Submission:
    """Reads and checks a job file, takes stock of its code and digests its data.

    Args:
        path: the job file; folders in it are looked for beside it.
        code_bytes_max: the largest snapshot of code; None for any.

    Raises JobFileError with every problem of the file; UserError when it, its
    code or its data can't be read.
    """
    data = read_job_file(path)
    job_file = parse_job_file(data, path.name)
    wanted = needed(job_file)
    snapshots = {
        written: _snapshot(path.parent, written, code_bytes_max) for written in wanted.code
    }
    digests: dict[str, str] = {}
    if wanted.data_folder is not None:
        digests = _data_digests(Path(wanted.data_folder), wanted.participants)
    return Submission(path, data, job_file, snapshots, digests)


def with_parents(submission: Submission, link: Link) -> Submission:
    """The submission with the base that it continues from, if it does, as the master knows it.

    Raises UserError when there is no such base, MasterAwayError when nobody can tell.
    """
    name = needed(submission.job_file).parent
    if name is None:
        return submission
    (row,) = ask(link, "parent", [name]).rows
    found = msgspec.convert(row, ResolvedParent)
    return replace(submission, parents={name: found})


def with_inputs(submission: Submission, link: Link) -> Submission:
    """The submission with what its jobs read: data sets as the master knows them, shares as listed.

    Raises UserError when there is no such data set, or a share isn't mounted
    here; MasterAwayError when nobody can tell.
    """
    found: dict[str, InputData] = {}
    for reference in needed(submission.job_file).inputs:
        if is_share(reference):
            found[reference] = share_data(reference, "this host")
            continue
        (row, *_) = ask(link, "inputs", [reference]).rows
        found[reference] = msgspec.convert(row, NamedInput).data
    return replace(submission, inputs=found) if found else submission


def http_security(standing: Standing | None, http_url: str) -> HttpSecurity | None:
    """Who uploads to the master, and how it is known; None where it lets everybody in."""
    if standing is None:
        return None
    from meshtrain.security.signing import HttpSecurity

    encrypted = http_url.startswith("https:")
    return HttpSecurity(standing.identity, standing.members.roll, encrypted)


async def upload(
    submission: Submission,
    http_url: str,
    standing: Standing | None,
    shows: Callable[[Snapshot], UploadSteps] | None = None,
) -> None:
    """Puts the snapshots of code into the master's store; only what it lacks travels.

    Args:
        http_url: where the master takes uploads.
        standing: who submits; None where the master lets everybody in.
        shows: gives what is told how the upload of a snapshot goes on.

    Raises ArtifactError when it can't be reached or refuses, UserError when a
    file has changed since the snapshot was taken.
    """
    from meshtrain.artifacts.upload import upload_tree

    security = http_security(standing, http_url)
    for snapshot in submission.snapshots.values():
        sent = await upload_tree(
            snapshot.folder,
            http_url,
            files=snapshot.files,
            security=security,
            steps=shows(snapshot) if shows is not None else None,
        )
        if sent != snapshot.digests.artifact_id:
            raise UserError(
                f"{snapshot.folder} changed while it was being submitted "
                f"({short(snapshot.digests.artifact_id)} became {short(sent)}). Nothing was "
                "started: submit again when nothing writes to it"
            )


def read_job_file(path: Path) -> bytes:
    """The bytes of a job file. Raises UserError when it can't be read."""
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in SUFFIXES)
        names = f": it holds {', '.join(inside[:5])}" if inside else ""
        raise UserError(f"{path} is a folder; name the job file in it{names}")
    try:
        with path.open("rb") as file:
            # One more than is allowed: the parser tells that it is too large.
            return file.read(FILE_SIZE_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise UserError(
            f"the job file {path} can't be read: there is no such file{near_path(path)}"
        ) from error
    except OSError as error:
        raise UserError(
            f"the job file {path} can't be read: {error.strerror or error}. Check its path"
        ) from error


def near_path(path: Path) -> str:
    """What may have been meant by a path where nothing is, for the end of an error."""
    try:
        beside = [entry.name for _, entry in zip(range(1000), path.parent.iterdir(), strict=False)]
    except OSError:
        return f": there is no folder {path.parent}. Check the path"
    close = did_you_mean(path.name, beside)
    return f'; did you mean "{path.parent / close}"?' if close else ". Check the path"


def _snapshot(beside: Path, written: str, code_bytes_max: int | None) -> Snapshot:
    folder = (beside / Path(written).expanduser()).resolve()
    try:
        files = snapshot_files(
            folder, code_bytes_max, or_else=f"submit all of it: {ALLOW_LARGE_CODE}"
        )
        manifest = snapshot_manifest(folder, files)
    except ArtifactError as error:
        raise UserError(f"no snapshot of the code in {folder}: {error}") from error
    digests = CodeDigests(artifact_id(manifest), manifest.file_digests())
    sizes = {file.path: file.size_bytes for file in manifest.files}
    size_bytes = manifest.size_bytes
    return Snapshot(written, folder, tuple(files), size_bytes, digests, tuple(largest(sizes)))


def _data_digests(folder: Path, participants: tuple[str, ...]) -> dict[str, str]:
    """The digests of the files that are there; whose is missing, the job file's check tells."""
    digests = {}
    for participant in participants:
        path = folder / f"{participant}.npz"
        try:
            digests[participant] = hash_file(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(
                f"the data of {participant} can't be read: {path}: {error.strerror}. "
                "Mend its permissions, or name another folder under data:"
            ) from error
    return digests
