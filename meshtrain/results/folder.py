"""Where the results of a sweep and of its cells lie, and how one is put in place.

results/<sweep>/
    table.csv  cells.csv  table.json  table.txt  plot.png  report.html
    phase1_base_models.json  phase2_experiments.json
    <cell>/
        metrics.json  config.json  log  and what else the job put out
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from meshtrain import failpoints
from meshtrain.ids import digest
from meshtrain.results.atomic import TMP_SUFFIX, tmp_beside
from meshtrain.results.errors import ResultsError

NAME_LEN_MAX = 120
DIGEST_LEN = 12
CONFIG_FILE = "config.json"
LOG_FILE = "log"
BESIDE_PREFIX = "mesh-"
"""Put before the name of a file of ours when the job wrote one of that name itself."""

_OUR_SUFFIXES = {".csv", ".json", ".txt", ".png", ".html"}
"""A sweep's own files end so; a cell called `plot.png` must not stand in their way."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._=,+-]")
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100

Materialise = Callable[[Path], object]
"""Fills a folder that is there and empty."""


def folder_name(name: str) -> str:
    """A file name for `name` that is safe, always the same, and its own.

    Letters, digits and `._=,+-` stay; where anything had to be changed or cut,
    a digest of the whole name follows a `~`, so that two names never meet.
    """
    safe = _UNSAFE.sub("_", name)
    kept = safe == name and 0 < len(name) <= NAME_LEN_MAX and not name.startswith(".")
    if kept and Path(name).suffix.lower() not in _OUR_SUFFIXES:
        return name
    tail = "~" + digest(name.encode("utf-8", errors="surrogatepass"))[:DIGEST_LEN]
    return safe.lstrip(".")[: NAME_LEN_MAX - len(tail)] + tail


def sweep_folder(results: Path, sweep_name: str) -> Path:
    """The folder of a sweep below `results`."""
    return results / folder_name(sweep_name)


def cell_folder(results: Path, sweep_name: str, job_name: str) -> Path:
    """The folder of a job: its name without the sweep's, below the sweep's folder."""
    cell = job_name.removeprefix(sweep_name + "/")
    return sweep_folder(results, sweep_name) / folder_name(cell)


def place_result(
    folder: Path,
    source: Path | Materialise,
    *,
    files: Mapping[str, bytes | Path] | None = None,
) -> Path:
    """Puts a job's result at `folder`, whole or not at all, in place of a former one.

    `source` is a folder to copy, or a function that fills an empty one. `files`
    are laid beside (`config.json`, `log`), as bytes or copied from a path; where
    the job wrote a file of that name itself, ours is called `mesh-NAME`. Raises
    ResultsError when it fails; a former result then stands as it was.
    """
    tmp = tmp_beside(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tmp.mkdir()
        if callable(source):
            source(tmp)
        else:
            _copy_tree(source, tmp)
        for name, content in (files or {}).items():
            _lay_beside(tmp, name, content)
        failpoints.reach("result.filled")
        _swap_in(tmp, folder)
        failpoints.reach("result.placed")
    except (OSError, shutil.Error) as error:
        raise ResultsError(
            f"the result could not be put at {folder}: {error}; "
            "free disk space or mend the folder's permissions"
        ) from error
    finally:
        _remove(tmp)
    return folder


def remove_leftovers(results: Path) -> int:
    """Removes what placements left unfinished when a process was killed; returns how many.

    Call it while no other process places results.
    """
    removed = 0
    for tmp in [*results.glob(f".*{TMP_SUFFIX}"), *results.glob(f"*/.*{TMP_SUFFIX}")]:
        _remove(tmp)
        removed += not tmp.exists()
    return removed


def _copy_tree(source: Path, target: Path) -> None:
    """Copies files and folders. Links inside stay links; those that lead out are left behind."""
    root = source.resolve(strict=True)
    for path in sorted(root.rglob("*")):
        placed = target / path.relative_to(root)
        if path.is_symlink():
            if path.resolve().is_relative_to(root) and not path.readlink().is_absolute():
                placed.symlink_to(path.readlink())
        elif path.is_dir():
            placed.mkdir()
        elif path.is_file():
            shutil.copyfile(path, placed)


def _lay_beside(folder: Path, name: str, content: bytes | Path) -> None:
    if not name or name != Path(name).name or name in {".", ".."}:
        raise ResultsError(f"{name!r} is no plain file name for a result's folder")
    path = folder / name
    if path.exists() or path.is_symlink():
        path = folder / (BESIDE_PREFIX + name)
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        path.write_bytes(content)


def _swap_in(tmp: Path, folder: Path) -> None:
    """Renames `tmp` to `folder`; what was there is at `tmp` afterwards."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        folder.unlink()
    if not folder.exists():
        tmp.rename(folder)
    elif not _exchange(tmp, folder):
        former = tmp_beside(folder)
        folder.rename(former)
        try:
            tmp.rename(folder)
        except OSError:
            former.rename(folder)
            raise
        _remove(former)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two folders in one step, where kernel and file system can (Linux `renameat2`)."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    done = renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    return bool(done == 0)


def _remove(folder: Path) -> None:
    """Removes a tree, also one whose folders are read-only."""
    if folder.is_symlink() or folder.is_file():
        with contextlib.suppress(OSError):
            folder.unlink()
        return
    for parent, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            Path(parent).chmod(stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)
