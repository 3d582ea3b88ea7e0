"""Where an attempt finds the data that it reads: artifacts of the node, and paths on shares.

A data set is read where the node keeps it: it may be larger than what the disk
has left. Its files and folders are read-only; it stays while an attempt that
reads it is there. A share is used in place, once its listing was found to be
what it was when the sweep was submitted.
"""

from __future__ import annotations

import asyncio
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.listing import Listing, ListingError, list_share
from meshtrain.artifacts.tree import FILES_NAME
from meshtrain.core.commands import AssignAttempt
from meshtrain.errors import ArtifactError
from meshtrain.ids import short
from meshtrain.spec.jobs import CommandWork, InputData
from meshtrain_daemon.worker.aside import aside

LISTED_WITHIN_S = 120.0
"""A share that takes longer to list hangs, as far as anybody can tell."""
_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def reads_of(assignment: AssignAttempt) -> dict[str, InputData]:
    """What an attempt reads, by its name in the job file."""
    return assignment.work.inputs if isinstance(assignment.work, CommandWork) else {}


def input_paths(assignment: AssignAttempt, store: ArtifactStore) -> dict[str, str]:
    """Name → the path that the job is told.

    Raises ArtifactError when a data set isn't on this node.
    """
    paths = {}
    for name, data in reads_of(assignment).items():
        paths[name] = data.source if data.on_share else _exposed(store, data)
    return paths


def _exposed(store: ArtifactStore, data: InputData) -> str:
    """The folder of a data set's files, which nobody may add to by accident."""
    if not store.has(data.digest):
        raise ArtifactError(
            f"the data set {data.source} ({short(data.digest)}) is no longer on this node"
        )
    root = store.root / "artifacts" / data.digest / FILES_NAME
    if root.stat().st_mode & _WRITE:
        folders = sorted({path.parent for path in _files(store, data.digest, root)} | {root})
        # The root last: it tells that all are done.
        for folder in sorted(_with_parents(folders, root), reverse=True):
            folder.chmod(0o555)
    return str(root)


def _files(store: ArtifactStore, artifact_id: str, root: Path) -> list[Path]:
    return [root / file.path for file in store.manifest(artifact_id).files]


def _with_parents(folders: list[Path], root: Path) -> set[Path]:
    found = set()
    for folder in folders:
        while folder not in found and folder.is_relative_to(root):
            found.add(folder)
            folder = folder.parent
    return found


@dataclass(slots=True, eq=False)
class _Look:
    began: bool
    task: asyncio.Task[Listing | str] = field(init=False)


class ShareChecks:
    """Looks whether shares hold what they held when a sweep was submitted.

    Args:
        node_id: named in what is told.
        listed_within_s: how long a share may take.
    """

    def __init__(self, node_id: str, listed_within_s: float = LISTED_WITHIN_S) -> None:
        self._node_id = node_id
        self._listed_within_s = listed_within_s
        #: path → the last look at it that is not over
        self._last: dict[str, _Look] = {}

    async def why_not(self, assignment: AssignAttempt) -> str:
        """Why an attempt can't start here; empty when all its shares are as they were."""
        for data in reads_of(assignment).values():
            if data.on_share:
                found = await self._look(data.source)
                if isinstance(found, str):
                    return f"{data.source} can't be read on {self._node_id}: {found}"
                if found.digest != data.digest:
                    return (
                        f"{data.source} on {self._node_id} isn't what the sweep was submitted "
                        f"with: {found.files_count:,} files of {found.size_bytes:,} bytes there, "
                        f"{data.files_count:,} of {data.size_bytes:,} then"
                        f"{_same_numbers(found, data)}"
                    )
        return ""

    async def _look(self, path: str) -> Listing | str:
        """What lies there, found by a look that began after it was asked for."""
        last = self._last.get(path)
        if last is None or (last.began and last.task.done()):
            return await self._begin(path, None)
        if last.began:
            # It may have passed by what changed just now: all that ask meanwhile share the next.
            return await self._begin(path, last.task)
        return await asyncio.shield(last.task)

    async def _begin(self, path: str, after: asyncio.Task[Listing | str] | None) -> Listing | str:
        look = _Look(began=after is None)

        async def run() -> Listing | str:
            if after is not None:
                await asyncio.wait([after])
            look.began = True
            return await self._list(path)

        look.task = asyncio.get_running_loop().create_task(run())
        self._last[path] = look
        look.task.add_done_callback(lambda _: self._forget(path, look))
        return await asyncio.shield(look.task)

    def _forget(self, path: str, look: _Look) -> None:
        if self._last.get(path) is look:
            del self._last[path]

    async def _list(self, path: str) -> Listing | str:
        given_up = threading.Event()
        try:
            async with asyncio.timeout(self._listed_within_s):
                # Not among the disk's threads: one that hangs must hold up nothing else.
                return await aside(lambda: list_share(path, is_cancelled=given_up.is_set), "share")
        except ListingError as error:
            return str(error)
        except TimeoutError:
            return f"it was not listed within {self._listed_within_s:g} s"
        finally:
            given_up.set()

    async def close(self) -> None:
        """Wait for no look any more."""
        tasks = [look.task for look in self._last.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _same_numbers(found: Listing, data: InputData) -> str:
    if (found.files_count, found.size_bytes) == (data.files_count, data.size_bytes):
        return "; names or times of change differ"
    return ""
