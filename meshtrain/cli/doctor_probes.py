"""Reads a host for `meshtrain doctor`: files, limits, drivers, what supervises. Changes nothing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import getpass
import importlib.metadata
import importlib.util
import os
import pwd
import re
import resource
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec

from meshtrain.cli.doctor_host import (
    Disk,
    FileSystem,
    Folder,
    Gpus,
    Limits,
    Linger,
    Memory,
    Systemd,
    Torch,
)
from meshtrain.cli.doctor_mesh import KeyFile, Keys, Membership
from meshtrain.core.member import Member, Members

COMMAND_TIMEOUT_S = 5
_FICLONE = 0x40049409
_TEXT_BYTES_MAX = 1 << 20
_MEMBERS_BYTES_MAX = 8 << 20
_MOUNT_ESCAPE = re.compile(r"\\([0-7]{3})")
_Record = TypeVar("_Record")


def user_name(uid: int) -> str:
    """A user's name; their number where they have none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def folder(home: Path, daemon_user: str) -> Folder:
    """The home of a daemon, which runs as `daemon_user`; empty: as whoever asks."""
    try:
        info = home.stat()
    except FileNotFoundError:
        return Folder(str(home), exists=False)
    except OSError:
        return Folder(str(home), exists=True, owner="?", daemon_user="", owner_may_write=True)
    mine = info.st_uid == os.geteuid() or os.geteuid() == 0
    writable = os.access(home, os.W_OK | os.X_OK) if mine else bool(info.st_mode & 0o300)
    return Folder(
        str(home),
        exists=True,
        owner=user_name(info.st_uid),
        daemon_user=daemon_user or getpass.getuser(),
        mode=stat.S_IMODE(info.st_mode),
        owner_may_write=writable,
    )


def nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def disk(path: Path) -> Disk:
    """The disk that a folder lies on, or would."""
    info = os.statvfs(nearest(path))
    return Disk(
        str(path),
        free_bytes=info.f_bavail * info.f_frsize,
        total_bytes=info.f_blocks * info.f_frsize,
        inodes_free=info.f_favail,
        inodes_total=info.f_files,
    )


def file_system(path: Path) -> FileSystem:
    """What the file system below a folder can do, tried in a temporary folder there."""
    path = nearest(path)
    kind = mounted_kind(path)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=path) as made:
            return FileSystem(kind, *_try_out(Path(made)))
    except OSError:
        return FileSystem(kind)


def _try_out(made: Path) -> tuple[bool, bool, bool]:
    first, second = made / "first", made / "second"
    first.write_bytes(b"x" * 4096)
    with first.open("rb") as source, second.open("wb") as target:
        reflinks = _works(lambda: fcntl.ioctl(target.fileno(), _FICLONE, source.fileno()))
        locks = _works(lambda: fcntl.flock(target.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB))
    hardlinks = _works(lambda: (made / "third").hardlink_to(first))
    return reflinks, hardlinks, locks


def _works(attempt: object) -> bool:
    assert callable(attempt)
    try:
        attempt()
    except OSError as error:
        if error.errno in (errno.EDQUOT, errno.ENOSPC, errno.EIO):
            raise
        return False
    return True


def mounted_kind(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of file system that a path lies on, as the system calls it."""
    place = str(path.resolve())
    best, kind = -1, "unknown"
    for line in text_of(mounts).splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = _MOUNT_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[1])
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        # The last one mounted on a place hides those before.
        if inside and len(point) >= best:
            best, kind = len(point), fields[2]
    return kind


def memory() -> Memory:
    """Shared memory and swap."""
    try:
        info = os.statvfs("/dev/shm")
        shm = info.f_blocks * info.f_frsize
    except OSError:
        shm = 0
    told = dict(re.findall(r"(?m)^(Swap(?:Total|Free)): +(\d+) kB", text_of(Path("/proc/meminfo"))))
    return Memory(shm, int(told.get("SwapTotal", 0)) * 1024, int(told.get("SwapFree", 0)) * 1024)


def limits(pid: int | None) -> Limits:
    """The limits of a running daemon; without one, those that a daemon started here would have."""
    if pid is not None:
        told = text_of(Path(f"/proc/{pid}/limits"))
        found = dict(re.findall(r"(?m)^Max (open files|processes) +(\S+)", told))
        if len(found) == 2:
            return Limits(
                f"daemon {pid}", _amount(found["open files"]), _amount(found["processes"])
            )
    soft = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)]
    nofile, nproc = (None if value == resource.RLIM_INFINITY else value for value in soft)
    return Limits("this session", nofile, nproc)


def _amount(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def holder_of(lock: Path) -> int | None:
    """The process that holds a daemon's lock, if one does."""
    try:
        with lock.open("rb") as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.readline(32).decode("ascii", "replace").strip()
                return int(text) if text.isdecimal() else None
    except OSError:
        return None
    return None


def systemd(unit: str) -> Systemd:
    """What supervises here, and how the unit does."""
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        return Systemd(None, cgroup_v2=_unified(), unit=unit)
    version = re.search(r"systemd (\d+)", command(["systemctl", "--version"]))
    wanted = "LoadState,ActiveState,Result,NRestarts,ControlGroup"
    told = dict(
        line.split("=", 1)
        for line in command(["systemctl", "show", unit, "-p", wanted]).splitlines()
        if "=" in line
    )
    loaded = told.get("LoadState") == "loaded"
    group = told.get("ControlGroup", "")
    return Systemd(
        version=int(version[1]) if version else 0,
        cgroup_v2=_unified(),
        unit=unit,
        unit_state=told.get("ActiveState", "") if loaded else "",
        unit_result=told.get("Result", ""),
        restarts=int(told.get("NRestarts") or 0) if loaded else 0,
        delegated=_delegated(group) if group else None,
    )


def _unified() -> bool:
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _delegated(group: str) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(f"/sys/fs/cgroup{group}", name) == b"1":
                return True
    return False


def linger() -> Linger:
    """Whether what this user starts outlives their session."""
    user = getpass.getuser()
    if os.geteuid() == 0 or shutil.which("loginctl") is None:
        return Linger(user, None)
    told = command(["loginctl", "show-user", user, "-p", "Linger", "--value"]).strip()
    return Linger(user, {"yes": True, "no": False}.get(told))


def time_synchronised() -> bool | None:
    """Whether the kernel says that something keeps its clock right (adjtimex)."""

    class _Timex(ctypes.Structure):
        _fields_ = (("modes", ctypes.c_uint), ("room", ctypes.c_byte * 508))

    try:
        answer: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(_Timex()))
    except (OSError, AttributeError):
        return None
    time_error = 5
    return None if answer < 0 else answer != time_error


def gpus() -> Gpus:
    """What the NVIDIA driver shows, and which version of it the kernel has loaded."""
    told = text_of(Path("/proc/driver/nvidia/version"))
    loaded = re.search(r"Kernel Module\D*([0-9]+(?:\.[0-9]+)+)", told)
    kernel = loaded[1] if loaded else ""
    uvm = not kernel or Path("/dev/nvidia-uvm").exists()
    try:
        import pynvml
    except ImportError:
        return Gpus(kernel_driver=kernel, binding_installed=False, uvm_device=uvm)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Gpus(kernel_driver=kernel, trouble=str(error), uvm_device=uvm)
    try:
        count = pynvml.nvmlDeviceGetCount()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion())
        return Gpus(
            kernel_driver=kernel,
            library=_text(pynvml.nvmlSystemGetDriverVersion()),
            count=count,
            models=tuple(_text(pynvml.nvmlDeviceGetName(handle)) for handle in handles),
            cuda_version=(cuda // 1000, cuda % 1000 // 10),
            uvm_device=uvm,
        )
    except pynvml.NVMLError as error:
        return Gpus(kernel_driver=kernel, trouble=str(error), uvm_device=uvm)
    finally:
        pynvml.nvmlShutdown()


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def torch() -> Torch:
    """The torch that is installed, from its files: loading it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        return Torch()
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Torch()
    built = text_of(Path(spec.origin).with_name("version.py"))
    cuda = re.search(r"(?m)^cuda\b[^=]*= *['\"]([0-9.]+)['\"]", built)
    return Torch(version, cuda[1] if cuda else "")


def keys(folder_path: Path, expected_owner: int) -> Keys:
    """The modes and owners of a host's keys; what is in them isn't read."""
    path = str(folder_path)
    try:
        info = folder_path.lstat()
    except FileNotFoundError:
        return Keys(path)
    except OSError as error:
        return Keys(path, unreadable=error.strerror or str(error))
    found = Keys(path, stat.S_IMODE(info.st_mode), info.st_uid, expected_owner)
    try:
        files = []
        for file in sorted(folder_path.iterdir()):
            look = file.lstat()
            files.append(
                KeyFile(
                    file.name,
                    stat.S_IMODE(look.st_mode),
                    look.st_uid,
                    plain=stat.S_ISREG(look.st_mode),
                    links=look.st_nlink,
                )
            )
    except OSError as error:
        return msgspec.structs.replace(found, unreadable=error.strerror or str(error))
    return msgspec.structs.replace(found, files=tuple(files))


def membership(own_file: Path, members_file: Path) -> Membership:
    """This host's own record, and the list of members that it keeps."""
    try:
        own = _record(own_file, Member)
        members = _record(members_file, Members)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Membership(None, None, f"{own_file.parent.parent}: {error}")
    return Membership(own, members)


def _record(path: Path, kind: type[_Record]) -> _Record | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MEMBERS_BYTES_MAX), type=kind)  # one thread
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise msgspec.DecodeError(f"{path.name} is damaged: {error}") from error


def text_of(path: Path) -> str:
    """The text of a file of the system; empty where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_TEXT_BYTES_MAX).decode("utf-8", "replace")
    except OSError:
        return ""


def command(line: list[str]) -> str:
    """What a program of the system prints; empty when it fails or takes too long."""
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
