"""A Debian of its own that really boots systemd, thrown away at the end.

    cache/base        made once by debootstrap, never written again
    cache/wheels      meshtrain and what it needs, for the container's Python
    work/upper        what a run writes, over the base (overlayfs)

Nothing of the host is changed: mounts are made in a mount namespace of our own,
the network is the container's loopback alone, and cgroups are removed again.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUITE = "bookworm"
PYTHON_VERSION = "3.11"
"""The Python of that suite."""
PACKAGES = "systemd,systemd-sysv,dbus,passwd,acl,python3,python3-venv,procps"
TOOLS = ("debootstrap", "systemd-nspawn", "unshare", "nsenter", "chroot", "mount")
MACHINE = "meshtrain-boot"
BUILD_TIMEOUT_S = 900
BOOT_TIMEOUT_S = 60
COMMAND_TIMEOUT_S = 120
POLL_S = 0.1
REMOVE_TIMEOUT_S = 10
_ENVIRONMENT = {
    "PATH": "/opt/meshtrain/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


class FailedError(Exception):
    """Raised when the container, or what runs in it, does not do what it should."""


def why_not() -> str:
    """Why no container can be booted here; empty when one can."""
    if sys.platform != "linux":
        return "systemd is on Linux alone"
    if os.geteuid() != 0:
        return "only root may boot a container"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install debootstrap systemd-container"
    if "cgroup2" not in Path("/proc/filesystems").read_text():
        return "this kernel has no cgroups of version 2"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        return f"namespaces and mounts are not allowed here: {tried.stderr.strip()}"
    return ""


def cache_folder() -> Path:
    """Where the base system and the wheels are kept between runs."""
    told = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(told) if told.startswith("/") else Path.home() / ".cache"
    return home / MACHINE


def build(line: list[str], **more: object) -> None:
    """Runs a program of the host; its words are shown when it fails."""
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT_S, **more
    )
    if done.returncode:
        raise FailedError(f"{' '.join(line)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def make_base(cache: Path) -> Path:
    """The base system; made by debootstrap the first time (a minute)."""
    base = cache / "base"
    if base.is_dir():
        return base
    cache.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix="base.", dir=cache))
    made.chmod(0o755)
    mirror = [os.environ["BOOT_MIRROR"]] if os.environ.get("BOOT_MIRROR") else []
    try:
        build(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(made), *mirror]
        )
        made.rename(base)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return base


def make_wheels(cache: Path, version: str) -> Path:
    """A folder with meshtrain as it is now, under `version`, and all that it needs."""
    wheels = cache / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for old in wheels.glob(f"meshtrain-{version}-*.whl"):
        old.unlink()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    with tempfile.TemporaryDirectory(prefix="meshtrain-source-") as copied:
        source = Path(copied)
        for name in ("meshtrain", "daemon", "tui", "configs", "systemd"):
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=skipped)
        for name in ("README.md", "LICENSE", "pyproject.toml"):
            shutil.copy(ROOT / name, source / name)
        for name in ("pyproject.toml", "meshtrain/__init__.py"):
            text = (source / name).read_text()
            (source / name).write_text(text.replace('"0.1.0"', f'"{version}"', 1))
        build([*pip, "wheel", "--no-deps", "-w", str(wheels), str(source)])
    (wheel,) = wheels.glob(f"meshtrain-{version}-*.whl")
    machine = platform.machine()
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in (17, 28)]
    platforms.append(f"manylinux2014_{machine}")
    build(
        [
            *(*pip, "download", "-d", str(wheels), "--only-binary=:all:"),
            *("--python-version", PYTHON_VERSION, "--implementation", "cp"),
            *(word for name in platforms for word in ("--platform", name)),
            *("-c", str(ROOT / "constraints.txt"), f"{wheel}[plots]"),
        ]
    )
    return wheels


class Container:
    """One container over the base; a context manager that leaves nothing behind."""

    def __init__(self, base: Path, wheels: Path) -> None:
        self._base = base
        self._wheels = wheels
        self._work = Path(tempfile.mkdtemp(prefix=f"{MACHINE}-"))
        self.root = self._work / "root"
        self.console = self._work / "console"
        self._group: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Container:
        for name in ("root", "upper", "overlay"):
            (self._work / name).mkdir()
        layers = f"lowerdir={self._base},upperdir={self._work}/upper,workdir={self._work}/overlay"
        try:
            build(["mount", "-t", "overlay", MACHINE, "-o", layers, str(self.root)])
            (self.root / "wheels").mkdir()
            build(["mount", "--bind", str(self._wheels), str(self.root / "wheels")])
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(FailedError):
            self.power_off()
        self._remove()

    # --- before it boots ------------------------------------------------------------------

    def install(self, version: str) -> None:
        """meshtrain from its wheels, into an environment that every user may read."""
        pip = ["/opt/meshtrain/bin/pip", "install", "-q", "--no-index", "--find-links", "/wheels"]
        lines = [
            ["python3", "-m", "venv", "/opt/meshtrain"],
            [*pip, f"meshtrain[plots]=={version}"],
        ]
        for line in lines:
            build(["chroot", str(self.root), *line], env=_ENVIRONMENT)

    # --- its life ---------------------------------------------------------------------------

    def boot(self) -> None:
        """Starts systemd as its first process; returns once that has come up."""
        nspawn = [
            *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--console=pipe"),
            *("--private-network", f"--machine={MACHINE}", f"--directory={self.root}"),
        ]
        prepare = ""
        if not Path("/run/systemd/system").is_dir():
            # Nobody gives us a scope: it runs in the cgroup that it finds itself in.
            nspawn.append("--keep-unit")
            prepare = self._own_group()
        script = f"{prepare}exec {' '.join(nspawn)}"
        with self.console.open("wb") as console:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self.wait_until("systemd has started", self._find_leader, BOOT_TIMEOUT_S)
        self.wait_until("the container is up", self._is_up, BOOT_TIMEOUT_S)

    def _own_group(self) -> str:
        """Shell commands that put what follows into a cgroup of its own, of version 2."""
        unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        name = f"{MACHINE}-{os.getpid()}"
        mounts = Path("/proc/mounts").read_text().splitlines()
        on_host = [line.split()[1] for line in mounts if line.split()[2] == "cgroup2"]
        if on_host:
            self._group = Path(on_host[0], name)
        mount = "umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup; "
        return (
            "" if unified else mount
        ) + f"mkdir -p /sys/fs/cgroup/{name}; echo $$ > /sys/fs/cgroup/{name}/cgroup.procs; "

    def _find_leader(self) -> bool:
        """The process that is number 1 inside."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise FailedError(
                f"it did not boot:\n{self.console.read_text(errors='replace')[-3000:]}"
            )
        pids = [self._process.pid]
        for pid in pids:
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                inside = status.split("NSpid:")[1].splitlines()[0].split()
                if len(inside) > 1 and inside[-1] == "1":
                    self._leader = pid
                    return True
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
                pids.extend(int(child) for child in children.split())
        return False

    def _is_up(self) -> bool:
        told = self.run("systemctl is-system-running", check=False)
        return told.strip() in ("running", "degraded")

    def run(self, script: str, *, user: str = "root", check: bool = True) -> str:
        """Runs shell commands inside; returns what they print.

        Raises FailedError when they fail, if `check`.
        """
        enter = ["nsenter", f"--target={self._leader}", "--all", "--"]
        as_user = ["runuser", "-u", user, "--", "env", f"HOME=/home/{user}"]
        done = subprocess.run(
            [*enter, *(as_user if user != "root" else ()), "sh", "-c", script],
            env=_ENVIRONMENT,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
        )
        if check and done.returncode:
            raise FailedError(f"{script}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def wait_until(self, what: str, holds: Callable[[], object], timeout_s: float = 60) -> None:
        """Waits for a condition; raises FailedError when it doesn't come true in time."""
        give_up_s = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > give_up_s:
                raise FailedError(f"waited {timeout_s:g} s in vain: {what}")
            time.sleep(POLL_S)

    def power_off(self) -> None:
        """Shuts it down as a host is; what is left then is killed. Raises FailedError for that."""
        if self._process is None:
            return
        try:
            if self._leader and self._process.poll() is None:
                self.run("systemctl poweroff", check=False)
            self._process.wait(BOOT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                # The end of process 1 is the end of all of the container.
                os.kill(self._leader, signal.SIGKILL)
            self._process.wait()
            raise FailedError(f"it did not shut down within {BOOT_TIMEOUT_S} s") from None
        finally:
            self._process = None

    def _remove(self) -> None:
        for mount in (self.root / "wheels", self.root):
            subprocess.run(["umount", str(mount)], capture_output=True, check=False)
        if self._group is not None:
            _remove_group(self._group)
        if not os.path.ismount(self.root):
            shutil.rmtree(self._work, ignore_errors=True)


def _remove_group(group: Path) -> None:
    """Ends what is left in a cgroup and all below it, and removes them."""
    give_up_s = time.monotonic() + REMOVE_TIMEOUT_S
    while group.is_dir() and time.monotonic() < give_up_s:
        with contextlib.suppress(OSError):
            (group / "cgroup.kill").write_text("1")
        # The deepest first; what is still dying is tried again.
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        time.sleep(POLL_S)
