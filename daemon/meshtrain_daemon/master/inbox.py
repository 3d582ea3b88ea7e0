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
import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import watchfiles

from meshtrain import failpoints
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.snapshot import snapshot_files
from meshtrain.core.manifest import artifact_id
from meshtrain.errors import ArtifactError, MeshtrainError, SettingsError, UserError
from meshtrain.ids import digest
from meshtrain.spec.jobs import CodeDigests
from meshtrain_daemon.master.defects import told_defect
from meshtrain_daemon.master.dropped import Look, is_open_for_writing, look_at
from meshtrain_daemon.master.dropped_files import DroppedFolder, find_job_file, read_job_file
from meshtrain_daemon.master.intake import Submission

ACCEPTED = "accepted"
REJECTED = "rejected"
IGNORED_ENDINGS = ("~", ".tmp", ".part", ".swp", ".crdownload")
ENTRIES_MAX = 10_000
"""Entries of the inbox looked at in one scan."""
RETRY_S_MAX = 60.0
"""What can't be taken is tried again after twice the time, up to this."""
NAME_BYTES_MAX = 200
"""Longer names are cut where the verdict lies: what is put behind them must fit too."""
SNAPSHOT_PREFIX = ".snapshot-"
LASTING_ERRORS = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP})
"""What stays as it is until somebody mends the file: waiting is no use."""


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
        #: name → what those look like whose verdict is given, and which can't be moved
        self._stays: dict[str, object] = {}
        #: name → seconds to wait before it is tried again, and why it could not be taken
        self._delays: dict[str, tuple[float, str]] = {}
        self._changed = asyncio.Event()

    def prepare(self) -> None:
        """Make the folders, and remove snapshots that a killed master left half copied.

        Raises SettingsError when they can't be made.
        """
        for folder in (self._folder, self._folder / ACCEPTED, self._folder / REJECTED):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SettingsError(
                    f"the inbox folder {folder} can't be made: {error.strerror}. "
                    "Move away what lies there, or name another inbox in the settings"
                ) from error
        for left in self._folder.glob(f"{SNAPSHOT_PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)

    async def watch(self) -> None:
        """Note changes of the folder as the system tells them, for ever."""
        try:
            async for _ in watchfiles.awatch(
                self._folder, recursive=True, watch_filter=None, ignore_permission_denied=True
            ):
                self._changed.set()
        except (OSError, RuntimeError) as error:
            # The system's limit on watches, mostly (fs.inotify.max_user_watches).
            self._say(
                f"inbox: {self._folder} can't be watched, it is scanned every "
                f"{self._scan_s:g} s: {error}"
            )

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
        names = {entry.name for entry in entries}
        for known in (self._resting, self._delays, self._stays):
            for name in known.keys() - names:
                del known[name]
        waits = [await self._look_after(path) for path in entries]
        return any(waits)

    async def _look_after(self, path: Path) -> bool:
        """Take an entry once it rests; says whether it is still to be waited for."""
        now_s = time.monotonic()
        look = await asyncio.to_thread(look_at, path)
        if look is None or self._stays.get(path.name) == look.shape:
            return False
        known = self._resting.get(path.name)
        if known is None or known[0] != look.shape:
            # A file whose own times say that it has rested needs no watching for that.
            rested_s = time.time() - look.newest_s
            since_s = now_s - max(0.0, min(rested_s, self._rest_s))
            self._resting[path.name] = known = (look.shape, since_s)
            self._delays.pop(path.name, None)
        if now_s - known[1] < self._rest_s:
            return True
        if await asyncio.to_thread(is_open_for_writing, look.files):
            return True
        del self._resting[path.name]
        reason = await self._take(path, look)
        if not reason:
            self._delays.pop(path.name, None)
            return False
        delay_s, told = self._delays.get(path.name, (self._rest_s / 2, ""))
        delay_s = min(max(2 * delay_s, 0.1), RETRY_S_MAX)
        self._delays[path.name] = (delay_s, reason)
        self._resting[path.name] = (look.shape, now_s + delay_s - self._rest_s)
        if reason != told:
            self._say(f"inbox: {_shown(path.name)} can't be taken yet, it is tried again: {reason}")
        return True

    def _entries(self) -> list[Path]:
        found = []
        if not self._folder.is_dir():
            # Somebody removed it: what is dropped next needs it again.
            try:
                self.prepare()
            except SettingsError as error:
                self._say(str(error))
                return []
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

    async def _take(self, path: Path, look: Look) -> str:
        """Read an entry and give its verdict; says why where it must be tried again later."""
        shown = _shown(path.name)
        try:
            try:
                submission = await asyncio.to_thread(self._read, path)
                taken = await self._submit(submission)
                failpoints.reach("inbox.taken")
            except FileNotFoundError:
                return ""
            except Exception as error:
                if isinstance(error, UserError):
                    told = str(error)
                elif isinstance(error, MeshtrainError | OSError):
                    raise
                else:
                    # Left where it is, it would be met again after each start.
                    told = told_defect(f"taking {shown}", error)
                    told += "\nSee with `meshtrain jobs` whether it was started"
                await asyncio.to_thread(self._verdict, path, look, REJECTED, ".error.txt", told)
                self._say(f"inbox: {shown} was rejected, see {REJECTED}/{shown}.error.txt")
                return ""
            await asyncio.to_thread(
                self._verdict, path, look, ACCEPTED, ".receipt.txt", taken.receipt
            )
        except (MeshtrainError, OSError) as error:
            return str(error)
        self._say(f"inbox: {shown} was accepted as {taken.sweep_id}")
        return ""

    def _read(self, path: Path) -> Submission:
        if _shown(path.name) != path.name:
            raise UserError(
                f"the name {_shown(path.name)} is not UTF-8. Nothing was started. "
                "Rename it, and drop it again"
            )
        try:
            if stat.S_ISDIR(path.lstat().st_mode):
                return self._read_folder(path)
            return Submission(path.name, read_job_file(path))
        except (OSError, ArtifactError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in LASTING_ERRORS:
                raise
            raise UserError(
                f"{path.name} can't be read: {cause.strerror}. Nothing was started. "
                "Mend its permissions or its names, and drop it again"
            ) from error

    def _read_folder(self, folder: Path) -> Submission:
        with DroppedFolder(folder) as dropped:
            return self._snapshot(folder, dropped)

    def _snapshot(self, folder: Path, dropped: DroppedFolder) -> Submission:
        job_file = find_job_file(folder)
        data = dropped.read_job_file(job_file.name)
        files = snapshot_files(
            folder,
            self._code_size_max_bytes,
            or_else="raise code_size_max_bytes, a setting of the master",
        )
        work = Path(tempfile.mkdtemp(prefix=SNAPSHOT_PREFIX, dir=self._folder))
        left_bytes = self._code_size_max_bytes
        try:
            for relpath in files:
                target = work / relpath
                target.parent.mkdir(parents=True, exist_ok=True)
                left_bytes -= dropped.copy(relpath, target, left_bytes)
            manifest = self._artifacts.add_tree(work, move=True)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        code = CodeDigests(artifact_id(manifest), manifest.file_digests())
        return Submission(job_file.name, data, code={".": code, "./": code})

    def _verdict(self, path: Path, look: Look, kind: str, ending: str, text: str) -> None:
        """Write the verdict, then move the file beside it; no former one is overwritten."""
        folder = self._folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        name = plain = _fitting(path)
        number = 1
        while os.path.lexists(folder / name):
            number += 1
            name = f"{Path(plain).stem}.{number}{Path(plain).suffix}"
        told = folder / f"{name}{ending}"
        written = folder / f".{name}{ending}.tmp"
        # Anew, so that nothing is followed that somebody put there.
        written.unlink(missing_ok=True)
        with written.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text.rstrip() + "\n")
            file.flush()
            os.fsync(file.fileno())
        written.replace(told)
        failpoints.reach("inbox.verdict")
        now = look_at(path)
        if now is None or now.shape != look.shape:
            # Somebody saved another over it meanwhile: that one is still to be taken.
            return
        try:
            path.rename(folder / name)
            failpoints.reach("inbox.moved")
        except FileNotFoundError:
            return
        except PermissionError:
            # A folder of somebody else's that was moved here, with a mode of its own: it may
            # not be taken from its owner. Its verdict is given, and it isn't taken up again.
            self._stays[path.name] = look.shape
            self._say(
                f"inbox: {_shown(path.name)} can't be moved to {kind}/, since its owner alone may "
                f"write to it; what became of it is told in {kind}/{_shown(told.name)}. "
                "Remove it, and drop folders with cp -r"
            )


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _fitting(path: Path) -> str:
    """The entry's name, cut where nothing could be put behind it."""
    name = os.fsencode(path.name)
    if len(name) <= NAME_BYTES_MAX:
        return path.name
    suffix = os.fsencode(path.suffix)[:20]
    stem = name[: NAME_BYTES_MAX - 40].decode("utf-8", "ignore")
    return f"{stem}~{digest(name)[:8]}{os.fsdecode(suffix)}"
