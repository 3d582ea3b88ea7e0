"""What runs in front of a job that needs something prepared: it prepares, then becomes the job.

A program of its own, run as `python -I -S prepare_step.py REQUEST` under the
attempt's shim: so ending the job, its timeout, its cgroup, its account and its
log hold for the preparation as for the job. Nothing but the standard library is
imported.

    FOLDER/lock     locked by whoever prepares, and by all that it has started
    FOLDER/tree/    what is prepared; complete once there is a record
    FOLDER/done     the record: written beside, fsynced, renamed

Of several jobs of a host that need the same, one prepares and the others wait
for the lock. A preparation that was cut short leaves no record: the next one
begins anew. The tree keeps its path from the first byte on, so that what is
made there may know where it lies, as virtual environments do.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from typing import Any, NoReturn

LOCK_NAME = "lock"
TREE_NAME = "tree"
DONE_NAME = "done"
SHELL = "/bin/sh"
FAILED_WORDS = "meshtrain: the preparation failed"
"""How the last line begins of a job whose preparation failed."""
NOT_FOUND = 127
CANNOT_RUN = 126
TAIL_BYTES = 4096
LINE_SHOWN_MAX = 300


def main(request_path: str) -> NoReturn:
    """Prepare what the request says, unless it is there, and become the job."""
    with open(request_path, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
        request: dict[str, Any] = json.load(file)
    try:
        code = prepare(request)
    except OSError as error:
        # The words of the system are kept: by them a full disk is known.
        tell(f"can't prepare {request['folder']}: {error.strerror}")
        code = 1
    if code:
        sys.exit(code)
    become(request["argv"], {**os.environ, **request["env"]})


def prepare(request: dict[str, Any]) -> int:
    """Fill the tree, unless that was done; the exit code of what failed, or 0."""
    folder = request["folder"]
    done = f"{folder}/{DONE_NAME}"
    if os.path.exists(done):  # noqa: PTH110
        return 0
    fd = os.open(f"{folder}/{LOCK_NAME}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("another job on this node prepares the same: waits for it")
            fcntl.flock(fd, fcntl.LOCK_EX)
        if os.path.exists(done):  # noqa: PTH110
            return 0
        code = fill(request, f"{folder}/{TREE_NAME}", done, fd)
        if code == 0:
            # What it may have left in the background has a copy of the descriptor.
            fcntl.flock(fd, fcntl.LOCK_UN)
        return code
    finally:
        os.close(fd)


def fill(request: dict[str, Any], tree: str, done: str, lock_fd: int) -> int:
    """Run the lines over an empty tree, then seal and record it."""
    began_s = time.monotonic()
    remove(tree)
    os.mkdir(tree)  # noqa: PTH102
    tell(f"prepares, once for this node: {request['shown']}")
    process = subprocess.Popen(
        [SHELL, "-c", request["command"]],
        cwd=request["cwd"] or tree,
        stdin=subprocess.DEVNULL,
        # While anything of it lives, nobody else begins.
        pass_fds=(lock_fd,),
    )
    code = process.wait()
    if code:
        code = 128 - code if code < 0 else code
        said = last_line(request["log"])
        remove(tree)
        tell(f"the preparation failed with exit code {code}{f': {said}' if said else ''}")
        return code
    size_bytes, files_count = seal(tree)
    sync(tree)
    took_s = time.monotonic() - began_s
    record = {"size_bytes": size_bytes, "files_count": files_count, "took_s": took_s}
    write_record(done, json.dumps(record).encode())
    files = "1 file" if files_count == 1 else f"{files_count} files"
    tell(f"prepared {files} of {size_text(size_bytes)} in {took_s:.1f} s")
    return 0


def become(argv: list[str], env: dict[str, str]) -> NoReturn:
    """Run the job in place of this program."""
    # Python ignores them, and a job must not.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        if error.errno == errno.ENOEXEC:
            # A script without a first line that names its interpreter, as a shell runs it.
            program = shutil.which(argv[0], path=env.get("PATH")) or argv[0]
            os.execve(SHELL, [SHELL, program, *argv[1:]], env)
        tell(f"can't run {argv[0]}: {error.strerror}")
        sys.exit(NOT_FOUND if error.errno == errno.ENOENT else CANNOT_RUN)


def seal(tree: str) -> tuple[int, int]:
    """Take everybody's leave to write from all that is in a tree; its bytes, and its files."""
    size_bytes = files_count = 0
    for folder, _, files in os.walk(tree, topdown=False):
        for name in files:
            path = f"{folder}/{name}"
            info = os.lstat(path)
            if stat.S_ISREG(info.st_mode):
                size_bytes += info.st_size
                files_count += 1
                os.chmod(path, stat.S_IMODE(info.st_mode) & ~0o222)  # noqa: PTH101
        os.chmod(folder, stat.S_IMODE(os.lstat(folder).st_mode) & ~0o222)  # noqa: PTH101
    return size_bytes, files_count


def remove(tree: str) -> None:
    """Remove a tree, sealed or not; fine when it isn't there."""
    if os.path.islink(tree):  # noqa: PTH114
        os.unlink(tree)  # noqa: PTH108
        return
    for folder, _, _ in os.walk(tree):
        os.chmod(folder, 0o700)  # noqa: PTH101
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(tree)


def sync(tree: str) -> None:
    """Make a tree survive a loss of power: one call for all of its file system."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    fd = os.open(tree, os.O_RDONLY)
    try:
        if syncfs is None:
            os.sync()
        elif syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


def write_record(path: str, data: bytes) -> None:
    """Write a file under its name whole, durably."""
    written = f"{path}.tmp"
    with open(written, "wb") as file:  # noqa: PTH123
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(written, path)  # noqa: PTH105
    fd = os.open(os.path.dirname(path), os.O_RDONLY)  # noqa: PTH120
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def size_text(size_bytes: float) -> str:
    """A size as people read it."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def last_line(log: str) -> str:
    """What the preparation said last."""
    try:
        with open(log, "rb") as file:  # noqa: PTH123
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            tail = file.read()
    except OSError:
        return ""
    lines = [line.strip() for line in tail.decode("utf-8", "replace").splitlines()]
    said = [line for line in lines if line and not line.startswith("meshtrain: ")]
    return said[-1][:LINE_SHOWN_MAX] if said else ""


def tell(text: str) -> None:
    """A line for the job's log."""
    os.write(2, f"meshtrain: {text}\n".encode("utf-8", "replace"))


if __name__ == "__main__":
    main(sys.argv[1])
