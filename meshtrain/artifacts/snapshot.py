"""Which files of a folder make the code of a job, and what they hold.

In a git work tree: what git tracks, as it is on disk now, and what is new and
not ignored; so that neither an uncommitted change nor a new module is missing.
Elsewhere: everything but version control, caches and environments. In both, a
file `.meshtrainignore` in the folder leaves out more, with the patterns of a
`.gitignore`: also what git tracks and jobs don't need.

A link is taken as the file that it points at when that lies inside the folder,
since the snapshot then holds all that the link needs; any other link is refused.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from meshtrain.artifacts.chunking import OnRead, manifest_of
from meshtrain.artifacts.failures import disk_errors
from meshtrain.artifacts.ignore import Ignore
from meshtrain.core.manifest import FILES_MAX, Manifest, path_problem
from meshtrain.errors import UserError

IGNORE_FILE = ".meshtrainignore"
LARGEST_SHOWN = 10
RAISE_THE_LIMIT = "raise the limit"
_LEFT_OUT = {
    *(".git", ".hg", ".svn", ".jj"),
    *("__pycache__", ".ipynb_checkpoints", ".mypy_cache", ".pytest_cache", ".ruff_cache"),
    *(".venv", ".tox", ".nox", ".eggs", "node_modules", ".DS_Store"),
}
"""Outside of git: version control, caches, environments."""
_LEFT_OUT_SUFFIXES = (".pyc", ".egg-info")
_ENVIRONMENT_MARK = "pyvenv.cfg"
"""What a virtual environment holds, whatever it is called."""
_IGNORE_BYTES_MAX = 1 << 20
_GIT_TIMEOUT_S = 60.0
_NESTED_MAX = 20
"""Work trees inside work trees, such as submodules of submodules."""
_GIT_PLACES = {
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_WORK_TREE",
}
"""What a hook sets; without them git looks at the folder itself."""
_NO_WORK_TREE = ("not a git repository", "must be run in a work tree")


def snapshot_files(
    folder: Path, size_max_bytes: int | None, *, or_else: str = RAISE_THE_LIMIT
) -> list[str]:
    """The files of a folder that its code consists of: relative paths, sorted.

    Args:
        folder: the folder of the code.
        size_max_bytes: the limit of all files together; None for no limit.
        or_else: what to do where all of it is to travel, for the error.

    Raises:
        UserError: when the folder can't be read, a link leads outside or
            nowhere, a name can't be kept, or the limit is passed: then with
            the largest files.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder. Name the folder that holds the code")
    # Nothing listed: the folder itself is ignored by a work tree around it.
    ignore = _ignored(folder)
    found = _listed_by_git(folder, 0) or _walk(folder, "", ignore)
    found = [relpath for relpath in found if not ignore.leaves_out(relpath)]
    sizes = {relpath: _checked(folder, relpath).stat().st_size for relpath in found}
    total_bytes = sum(sizes.values())
    if size_max_bytes is not None and total_bytes > size_max_bytes:
        limit = f"the limit is {size_max_bytes:,}"
        raise UserError(_too_large(folder, sizes, limit, or_else))
    if len(sizes) > FILES_MAX:
        limit = f"a snapshot has at most {FILES_MAX:,} files"
        raise UserError(_too_large(folder, sizes, limit, "pack them"))
    return sorted(sizes)


def largest(sizes: Mapping[str, int], shown_max: int = LARGEST_SHOWN) -> list[tuple[str, int]]:
    """The largest files, the largest first: path and bytes."""
    by_size = sorted(sizes, key=lambda relpath: (-sizes[relpath], relpath))
    return [(relpath, sizes[relpath]) for relpath in by_size[:shown_max]]


def snapshot_manifest(
    folder: Path, files: Sequence[str], on_read: OnRead | None = None
) -> Manifest:
    """The manifest of a snapshot.

    Args:
        folder: the folder of the code.
        files: relative paths, as `snapshot_files` gives them.
        on_read: told how many bytes were read, piece by piece.

    Raises:
        UserError: when a file is gone, or a link leads outside.
        ArtifactError: when a file can't be read or changes meanwhile.
    """
    return manifest_of(((relpath, _checked(folder, relpath)) for relpath in files), on_read)


def file_digests(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """The xxh3-128 of each file's content, by relative path; it raises what its manifest does."""
    return snapshot_manifest(folder, files).file_digests()


def _listed_by_git(folder: Path, depth: int) -> list[str] | None:
    """What git knows below a folder; None outside a work tree or without git."""
    if depth > _NESTED_MAX:
        raise UserError(f"{folder} is nested in {depth} git work trees. Flatten the tree")
    command = ["git", "-C", str(folder), "ls-files", "-co", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(
            command, env=_git_env(), capture_output=True, timeout=_GIT_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"git took more than {_GIT_TIMEOUT_S:.0f} s to list {folder}. Try `git status` there"
        ) from error
    if done.returncode:
        why = os.fsdecode(done.stderr).strip()
        if any(words in why for words in _NO_WORK_TREE):
            return None
        if "dubious ownership" in why:
            raise UserError(
                f"{folder} is a git work tree of another user, and git doesn't trust it. Leave out "
                "its .git (git archive HEAD | tar -x -C FOLDER), or use `meshtrain submit`, which "
                "runs as you"
            )
        raise UserError(f"git can't list the files of {folder}: {why}. Mend that, and try again")
    found: set[str] = set()
    for name in filter(None, done.stdout.split(b"\0")):
        relpath = os.fsdecode(name).rstrip("/")
        path = folder / relpath
        if path.is_symlink() or path.is_file():
            found.add(relpath)
        elif path.is_dir():
            found.update(_nested(path, relpath, depth))
        elif path.exists():
            raise UserError(f"{path} is no regular file. Remove it, or list it in .gitignore")
    return sorted(found)


def _nested(path: Path, relpath: str, depth: int) -> Iterator[str]:
    """The files of a work tree inside a work tree; one that wasn't checked out has none."""
    if (path / ".git").exists():
        for inner in _listed_by_git(path, depth + 1) or []:
            yield f"{relpath}/{inner}"


def _git_env() -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in _GIT_PLACES}
    return env | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}


def _ignored(folder: Path) -> Ignore:
    """What the folder's own `.meshtrainignore` leaves out; nothing where it has none."""
    path = folder / IGNORE_FILE
    if not path.is_file():
        return Ignore("")
    with disk_errors(f"reading {path}"):
        # A pipe may lie there by now, where somebody else writes to the folder.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UserError(f"{path} is no plain file. Write patterns to a file there")
            data = file.read(_IGNORE_BYTES_MAX + 1)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8. Write a pattern on each line") from error
    if len(data) > _IGNORE_BYTES_MAX:
        raise UserError(f"{path} has more than {_IGNORE_BYTES_MAX:,} bytes. Write fewer patterns")
    return Ignore(text)


def _walk(folder: Path, prefix: str, ignore: Ignore) -> Iterator[str]:
    with disk_errors(f"listing {folder}"), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in _LEFT_OUT or entry.name.endswith(_LEFT_OUT_SUFFIXES):
                continue
            if entry.is_dir(follow_symlinks=False):
                is_left_out = ignore.leaves_out_folder(prefix + entry.name)
                if not is_left_out and not (folder / entry.name / _ENVIRONMENT_MARK).is_file():
                    yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", ignore)
            elif ignore.leaves_out(prefix + entry.name):
                continue
            elif entry.is_symlink() or entry.is_file(follow_symlinks=False):
                yield prefix + entry.name
            else:
                raise UserError(f"{folder / entry.name} is no regular file. Remove it")


def _checked(folder: Path, relpath: str) -> Path:
    """Where a file's content is: itself, or what a link inside the folder points at."""
    path = folder / relpath
    problem = path_problem(relpath)
    if problem is not None:
        raise UserError(f"{str(path)!r} can't be part of a snapshot: {problem}")
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path} can't be part of a snapshot: it, or what it points at, is not there. "
            "Remove it, or list it in .gitignore"
        ) from error
    if not real.is_relative_to(folder.resolve()):
        raise UserError(
            f"{path} is a link to {real}, outside of {folder}, and would not travel with the "
            "code. Copy the file into the folder, or list the link in .gitignore"
        )
    if not real.is_file():
        raise UserError(
            f"{path} is a link to a folder. Put the folder in its place, or list the link in "
            ".gitignore"
        )
    return real


def _too_large(folder: Path, sizes: dict[str, int], limit: str, or_else: str) -> str:
    lines = "\n".join(f"  {size_bytes:>15,}  {relpath}" for relpath, size_bytes in largest(sizes))
    return (
        f"the snapshot of {folder} is too large: {sum(sizes.values()):,} bytes in "
        f"{len(sizes):,} files, {limit}. The largest, in bytes:\n{lines}\n"
        f"List what is not code in .gitignore or {IGNORE_FILE}, name a smaller folder, or "
        f"{or_else}. Data travels apart from code: meshtrain publish PATH --name NAME, then "
        "inputs: in the job file"
    )
