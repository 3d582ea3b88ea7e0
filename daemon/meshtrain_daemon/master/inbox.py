"""The watched folder: a job file, or a folder with its job file and code, becomes a sweep.

    inbox/NAME                   dropped
    inbox/accepted/NAME          taken, with NAME.receipt.txt beside it
    inbox/rejected/NAME          not taken, with NAME.error.txt beside it

A file is read when nobody writes it any more: its size and time have rested,
and no process has it open for writing. The verdict is written first, then the
file is moved. A crash between two steps leaves the file where it was; taken up
again it comes to the same sweep, which the scheduler knows, so that nothing is
lost and nothing doubled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import watchfiles

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.snapshot import file_digests, snapshot_files
from meshtrain.core.manifest import artifact_id
from meshtrain.errors import MeshtrainError, UserError
from meshtrain.spec.jobs import CodeDigests
from meshtrain.spec.reader import FILE_SIZE_MAX_BYTES, SUFFIXES
from meshtrain_daemon.master.intake import Submission

ACCEPTED = "accepted"
REJECTED = "rejected"
JOB_FILE_STEMS = ("sweep", "meshtrain", "job", "jobs")
"""What a dropped folder's job file may be called, where it has several candidates."""
IGNORED_ENDINGS = ("~", ".tmp", ".part", ".swp", ".crdownload")
ENTRIES_MAX = 10_000
"""Entries of the inbox looked at in one scan."""
RETRY_S_MAX = 60.0


class Taken(msgspec.Struct, frozen=True):
    """What became of a submission that was accepted."""

    sweep_id: str
    receipt: str
    """The text of NAME.receipt.txt."""


Submit = Callable[[Submission], Awaitable[Taken]]


class Inbox:
    """Watches one folder.

    Args:
        folder: the inbox; made when it isn't there.
        rest_s: how long a file must have been left alone.
        scan_s: how often the folder is scanned, besides being watched.
        submit: takes a submission; returns when it is on disk, or raises
            UserError (the file is rejected) or another MeshtrainError (it is
            tried again later).
        say: shows a line to people.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rest_s: float,
        scan_s: float,
        code_size_max_bytes: int,
        artifacts: ArtifactStore,
        submit: Submit,
        say: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._rest_s = rest_s
        self._scan_s = scan_s
        self._code_size_max_bytes = code_size_max_bytes
        self._artifacts = artifacts
        self._submit = submit
        self._say = say
        #: name → what it looked like, and since when (steady clock)
        self._resting: dict[str, tuple[object, float]] = {}
        self._changed = asyncio.Event()

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self._folder, self._folder / ACCEPTED, self._folder / REJECTED):
            folder.mkdir(parents=True, exist_ok=True)

    async def watch(self) -> None:
        """Note changes of the folder as the system tells them, for ever."""
        async for _ in watchfiles.awatch(
            self._folder, recursive=True, watch_filter=None, ignore_permission_denied=True
        ):
            self._changed.set()

    async def run(self) -> None:
        """Take what has rested, for ever."""
        while True:
            pending = await self._scan()
            wait_s = min(self._scan_s, self._rest_s / 4) if pending else self._scan_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            self._changed.clear()

    async def _scan(self) -> bool:
        """Look at every entry; says whether one of them is still to be waited for."""
        entries = await asyncio.to_thread(self._entries)
        for name in set(self._resting) - {entry.name for entry in entries}:
            del self._resting[name]
        pending = False
        now_s = time.monotonic()
        for path in entries:
            look = await asyncio.to_thread(_look, path)
            if look is None:
                continue
            known = self._resting.get(path.name)
            if known is None or known[0] != look.shape:
                # A file whose own times say that it has rested needs no watching for that.
                rested_s = time.time() - look.newest_s
                since_s = now_s - max(0.0, min(rested_s, self._rest_s))
                self._resting[path.name] = known = (look.shape, since_s)
            if now_s - known[1] < self._rest_s:
                pending = True
                continue
            if look.regular and await asyncio.to_thread(is_open_for_writing, path):
                pending = True
                continue
            del self._resting[path.name]
            if not await self._take(path):
                pending = True
                self._resting[path.name] = (look.shape, now_s)
        return pending

    def _entries(self) -> list[Path]:
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                name = entry.name
                if name in (ACCEPTED, REJECTED) or name.startswith("."):
                    continue
                if name.endswith(IGNORED_ENDINGS):
                    continue
                found.append(Path(entry.path))
                if len(found) >= ENTRIES_MAX:
                    break
        return sorted(found)

    async def _take(self, path: Path) -> bool:
        """Read an entry and give its verdict; False when it must be tried again later."""
        try:
            submission = await asyncio.to_thread(self._read, path)
            taken = await self._submit(submission)
        except FileNotFoundError:
            return True
        except UserError as error:
            await asyncio.to_thread(self._verdict, path, REJECTED, ".error.txt", str(error))
            self._say(f"inbox: {path.name} was rejected, see {REJECTED}/{path.name}.error.txt")
            return True
        except (MeshtrainError, OSError) as error:
            self._say(f"inbox: {path.name} can't be taken yet: {error}")
            return False
        await asyncio.to_thread(self._verdict, path, ACCEPTED, ".receipt.txt", taken.receipt)
        self._say(f"inbox: {path.name} was accepted as {taken.sweep_id}")
        return True

    def _read(self, path: Path) -> Submission:
        info = path.lstat()
        if stat.S_ISDIR(info.st_mode):
            return self._read_folder(path)
        return Submission(path.name, read_job_file(path))

    def _read_folder(self, folder: Path) -> Submission:
        job_file = find_job_file(folder)
        data = read_job_file(job_file)
        files = snapshot_files(folder, self._code_size_max_bytes)
        digests = file_digests(folder, files)
        work = Path(tempfile.mkdtemp(prefix=".snapshot-", dir=self._folder))
        try:
            for relpath in files:
                target = work / relpath
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(folder / relpath, target)
            manifest = self._artifacts.add_tree(work, move=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        code = CodeDigests(artifact_id(manifest), digests)
        return Submission(job_file.name, data, code={".": code, "./": code})

    def _verdict(self, path: Path, kind: str, ending: str, text: str) -> None:
        """Write the verdict, then move the file beside it; no former one is overwritten."""
        folder = self._folder / kind
        name = path.name
        number = 1
        while (folder / name).exists() or (folder / name).is_symlink():
            number += 1
            name = f"{path.stem}.{number}{path.suffix}"
        told = folder / f"{name}{ending}"
        written = folder / f".{name}{ending}.tmp"
        with written.open("w", encoding="utf-8") as file:
            file.write(text.rstrip() + "\n")
            file.flush()
            os.fsync(file.fileno())
        written.replace(told)
        with contextlib.suppress(FileNotFoundError):
            path.rename(folder / name)


class _Look(msgspec.Struct, frozen=True):
    shape: object
    newest_s: float
    regular: bool


def _look(path: Path) -> _Look | None:
    """What an entry looks like: when this stays the same, it rests."""
    try:
        info = path.lstat()
        if not stat.S_ISDIR(info.st_mode):
            shape: object = (info.st_ino, info.st_size, info.st_mtime_ns)
            newest_s = max(info.st_mtime, 0.0)
            return _Look(shape, newest_s, stat.S_ISREG(info.st_mode))
        parts = []
        newest_s = info.st_mtime
        for parent, _, names in os.walk(path):
            for name in names:
                inner = (Path(parent) / name).lstat()
                parts.append((name, inner.st_size, inner.st_mtime_ns))
                newest_s = max(newest_s, inner.st_mtime)
        return _Look((info.st_ino, tuple(parts)), newest_s, False)
    except FileNotFoundError:
        return None


def read_job_file(path: Path) -> bytes:
    """The bytes of a job file.

    Raises UserError for what isn't a plain file of a sane size, FileNotFoundError
    when it has gone.
    """
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        raise UserError(
            f"{path.name} is a link to {path.readlink()}. Nothing was started. "
            "Drop the file itself: cp -L"
        )
    if not stat.S_ISREG(info.st_mode):
        raise UserError(f"{path.name} is no plain file. Nothing was started. Drop a job file")
    if info.st_size > FILE_SIZE_MAX_BYTES:
        raise UserError(
            f"{path.name} has {info.st_size / 1e6:.1f} MB, a job file has at most "
            f"{FILE_SIZE_MAX_BYTES / 1e6:.1f} MB. Nothing was started. Is it a job file?"
        )
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(fd, "rb") as file:  # noqa: PTH123
        return file.read(FILE_SIZE_MAX_BYTES + 1)


def find_job_file(folder: Path) -> Path:
    """The job file of a dropped folder: the only one there, or the one called sweep.

    Raises UserError when there is none, or when it can't be told.
    """
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix in SUFFIXES and path.is_file() and not path.is_symlink()
    )
    if len(found) == 1:
        return found[0]
    named = [path for path in found if path.stem in JOB_FILE_STEMS]
    if len(named) == 1:
        return named[0]
    seen = ", ".join(path.name for path in found[:5]) or "none"
    raise UserError(
        f"the folder {folder.name} has no job file that can be told from others (found: {seen}). "
        "Nothing was started. Call it sweep.yaml and drop the folder again"
    )


def is_open_for_writing(path: Path) -> bool:
    """Whether any process that we may look at has the file open for writing."""
    try:
        wanted = path.stat()
    except OSError:
        return False
    for pid in _processes():
        try:
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                info = fd.stat()
                if (info.st_ino, info.st_dev) != (wanted.st_ino, wanted.st_dev):
                    continue
                flags = (
                    Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split("flags:")[1].split()[0]
                )
                if int(flags, 8) & os.O_ACCMODE != os.O_RDONLY:
                    return True
        except (OSError, IndexError, ValueError):
            continue
    return False


def _processes() -> list[str]:
    """The ids of all processes; none where the system doesn't show them."""
    try:
        return [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except OSError:
        return []
