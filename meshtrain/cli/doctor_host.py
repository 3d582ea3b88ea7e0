"""What is asked of a host itself: disks, limits, GPUs, systemd. From readings to findings.

Each check looks at nothing but its reading, so that any host can be played.
"""

from __future__ import annotations

import msgspec

from meshtrain.cli.doctor_findings import Finding, fail, ok, warn
from meshtrain.cli.words import size

GIB = 1 << 30
DISK_FREE_FAIL_BYTES = 64 << 20
"""Below this a node takes no more jobs."""
DISK_FREE_WARN_BYTES = 10 * GIB
INODES_FREE_FAIL = 1000
INODES_FREE_WARN_SHARE = 0.05
SHM_WARN_BYTES = GIB
"""Containers start with 64 MiB; data loaders hand batches over there."""
SWAP_USED_WARN_SHARE = 0.5
NOFILE_WARN = 4096
NPROC_WARN = 4096
SYSTEMD_VERSION_MIN = 250
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "afs"})


class Folder(msgspec.Struct, frozen=True):
    """The home of a daemon. `owner` and `daemon_user` are names, or numbers without one."""

    path: str
    exists: bool
    owner: str = ""
    daemon_user: str = ""
    """Who the daemon runs as; empty: whoever runs the doctor."""
    mode: int = 0
    owner_may_write: bool = True


def check_home(home: Folder) -> Finding:
    """Whether the daemon's state folder is there, its own, and closed to strangers."""
    name = "state folder"
    if not home.exists:
        return warn(name, f"{home.path} isn't there yet", "the daemon makes it at its first start")
    user = home.daemon_user or home.owner
    if user != home.owner:
        return fail(
            name,
            f"{home.path} belongs to {home.owner}, the daemon runs as {user}",
            f"chown -R {user} {home.path}",
        )
    if not home.owner_may_write or not home.mode & 0o200:
        return fail(
            name,
            f"{home.path} can't be written by {home.owner}",
            f"chmod u+rwx {home.path}, and see that its file system isn't mounted read-only",
        )
    if home.mode & 0o002:
        return fail(
            name,
            f"{home.path} may be written by everybody (mode {home.mode:04o})",
            f"chmod o-w {home.path}",
        )
    return ok(name, f"{home.path}, {home.owner}, mode {home.mode:04o}")


class Disk(msgspec.Struct, frozen=True):
    """The disk below a folder. `inodes_total` is 0 where the file system has no limit."""

    path: str
    free_bytes: int
    total_bytes: int
    inodes_free: int
    inodes_total: int


def check_disk(disk: Disk) -> Finding:
    """Whether there is room for artifacts, results and logs."""
    told = f"{size(disk.free_bytes)} of {size(disk.total_bytes)} free at {disk.path}"
    if disk.free_bytes < DISK_FREE_FAIL_BYTES:
        return fail("disk", told, "free some: no new jobs are taken until there is room")
    if disk.free_bytes < min(DISK_FREE_WARN_BYTES, disk.total_bytes // 10):
        return warn("disk", told, "free some, or move the home to a larger disk")
    return ok("disk", told)


def check_inodes(disk: Disk) -> Finding:
    """Whether there is room for more files, however small."""
    if disk.inodes_total == 0:
        return ok("inodes", f"no limit at {disk.path}")
    told = f"{disk.inodes_free} of {disk.inodes_total} inodes free at {disk.path}"
    mend = "remove folders of many small files: df -i tells which disk, du --inodes where"
    if disk.inodes_free < INODES_FREE_FAIL:
        return fail("inodes", told, mend)
    if disk.inodes_free < INODES_FREE_WARN_SHARE * disk.inodes_total:
        return warn("inodes", told, mend)
    return ok("inodes", told)


class FileSystem(msgspec.Struct, frozen=True):
    """What the file system of a home can do; None where it could not be tried."""

    kind: str
    reflinks: bool | None = None
    hardlinks: bool | None = None
    locks: bool | None = None


def check_file_system(fs: FileSystem, *, master: bool) -> Finding:
    """Whether jobs get artifacts without copies, and the job store gets its locks."""
    name = "file system"
    if fs.locks is False:
        return fail(
            name, f"{fs.kind} has no flock", "put the home on a local disk: ext4, xfs or btrfs"
        )
    if fs.kind in NETWORK_FILE_SYSTEMS:
        told = f"{fs.kind}, a network file system"
        if master:
            return fail(name, f"{told}: the job store may be damaged there", "use a local disk")
        return warn(name, told, "a local disk is faster, and is there when the network isn't")
    if fs.reflinks is None:
        return ok(name, f"{fs.kind} (not tried: no permission to write there)")
    if fs.reflinks:
        return ok(name, f"{fs.kind}, with reflinks: jobs get artifacts without a copy")
    if fs.hardlinks is False:
        return warn(
            name,
            f"{fs.kind} has neither reflinks nor hard links: each job copies what it starts from",
            "put the home on xfs or btrfs",
        )
    return ok(name, f"{fs.kind}, no reflinks: jobs get copies of artifacts (xfs, btrfs have them)")


class Memory(msgspec.Struct, frozen=True):
    shm_total_bytes: int
    """Size of /dev/shm; 0 where there is none."""
    swap_total_bytes: int
    swap_free_bytes: int


def check_shm(memory: Memory) -> Finding:
    """Whether data loaders of several processes have room to hand over their batches."""
    told = f"/dev/shm has {size(memory.shm_total_bytes)}"
    if memory.shm_total_bytes >= SHM_WARN_BYTES:
        return ok("shared memory", told)
    return warn(
        "shared memory",
        f"{told}: data loaders with workers may end with a bus error",
        "mount -o remount,size=8G /dev/shm (in a container: --shm-size=8g or --ipc=host)",
    )


def check_swap(memory: Memory) -> Finding:
    """Whether jobs are being slowed down by swapping."""
    total = memory.swap_total_bytes
    if total == 0:
        return ok("swap", "none: a job that outgrows the memory is ended by the kernel")
    used = total - memory.swap_free_bytes
    told = f"{size(used)} of {size(total)} used"
    if used > SWAP_USED_WARN_SHARE * total:
        return warn("swap", told, "give jobs more memory each, or cpu_slots fewer at once")
    return ok("swap", told)


class Limits(msgspec.Struct, frozen=True):
    """Limits of a process; None is unlimited. `whose` says of which."""

    whose: str
    nofile: int | None
    nproc: int | None


def check_limits(limits: Limits) -> Finding:
    """Whether the daemon and its jobs may open files and start processes."""
    told = f"{limits.whose}: {_limit(limits.nofile)} open files, {_limit(limits.nproc)} processes"
    low = []
    if limits.nofile is not None and limits.nofile < NOFILE_WARN:
        low.append("LimitNOFILE=524288 (ulimit -n)")
    if limits.nproc is not None and limits.nproc < NPROC_WARN:
        low.append("LimitNPROC=infinity (ulimit -u)")
    if low:
        return warn("limits", told, f"raise {' and '.join(low)} where the daemon is started")
    return ok("limits", told)


def _limit(value: int | None) -> str:
    return "any number of" if value is None else str(value)


class Systemd(msgspec.Struct, frozen=True):
    """What supervises here. `version` is None where it isn't systemd."""

    version: int | None
    cgroup_v2: bool
    unit: str
    unit_state: str = ""
    """ActiveState; empty: the unit isn't installed."""
    unit_result: str = ""
    restarts: int = 0
    delegated: bool | None = None
    """Whether the unit may make cgroups of its own; None where it doesn't run."""


def check_systemd(systemd: Systemd, *, runs_jobs: bool) -> Finding:
    """Whether the daemon is supervised, up, and may make a cgroup for each job."""
    name = "systemd"
    if systemd.version is None:
        return warn(
            name,
            "this host isn't run by systemd: nobody starts a daemon again that has ended",
            "have your own supervisor restart it; jobs are ended by their process tree alone",
        )
    if not systemd.unit_state:
        role = "master" if "master" in systemd.unit else "worker"
        return warn(
            name,
            f"{systemd.unit} is not installed",
            f"sudo meshtrain install --systemd --{role} --start",
        )
    if systemd.unit_state == "failed":
        return fail(
            name,
            f"{systemd.unit} has failed ({systemd.unit_result or 'unknown'}), "
            f"after {systemd.restarts} restarts",
            f"journalctl -u {systemd.unit} -n 50 tells why; then systemctl reset-failed and start",
        )
    told = f"systemd {systemd.version}, {systemd.unit} is {systemd.unit_state}"
    if systemd.unit_state != "active":
        return warn(name, told, f"systemctl enable --now {systemd.unit}")
    if systemd.restarts:
        return warn(
            name,
            f"{told}, restarted {systemd.restarts} times since it was started by hand",
            f"journalctl -u {systemd.unit} -p warning tells why",
        )
    if not runs_jobs:
        return ok(name, told)
    if not systemd.cgroup_v2:
        return warn(
            name,
            f"{told}, but with cgroups of version 1: no cgroup a job",
            "boot with systemd.unified_cgroup_hierarchy=1; until then process trees are ended",
        )
    if systemd.delegated is False or systemd.version < SYSTEMD_VERSION_MIN:
        return warn(
            name,
            f"{told}, without a cgroup of its own to divide",
            f"Delegate=yes in {systemd.unit}, systemd {SYSTEMD_VERSION_MIN} or newer",
        )
    return ok(name, f"{told}, a cgroup for each job")


class Linger(msgspec.Struct, frozen=True):
    """Whether what a user started lives on when they log out."""

    user: str
    lingers: bool | None


def check_linger(linger: Linger) -> Finding:
    """Whether a daemon under a user's own systemd outlives their session."""
    if linger.lingers is None:
        return ok("linger", "nobody here ends a user's processes at their logout")
    if linger.lingers:
        return ok("linger", f"what {linger.user} starts lives on after logout")
    return warn(
        "linger",
        f"what {linger.user} starts may be ended at logout",
        f"loginctl enable-linger {linger.user}, or install the units of the system",
    )


class Gpus(msgspec.Struct, frozen=True):
    """What the NVIDIA driver shows."""

    kernel_driver: str = ""
    """Version of the module that the kernel has loaded; empty: none."""
    library: str = ""
    """Version of the driver's library, as it says; empty: it could not be asked."""
    trouble: str = ""
    """What NVML said when it could not be asked."""
    binding_installed: bool = True
    """Whether nvidia-ml-py is there."""
    count: int = 0
    models: tuple[str, ...] = ()
    cuda_version: tuple[int, int] | None = None
    """The newest CUDA that the driver runs."""
    uvm_device: bool = True
    """Whether /dev/nvidia-uvm is there."""


def check_gpus(gpus: Gpus) -> Finding:
    """Whether the driver, its library and its device files belong together."""
    name = "GPUs"
    if "mismatch" in gpus.trouble.lower() or (
        gpus.kernel_driver and gpus.library and gpus.kernel_driver != gpus.library
    ):
        loaded = gpus.kernel_driver or "another version"
        return fail(
            name,
            f"the kernel runs driver {loaded}, its library is {gpus.library or 'newer'}: "
            "the driver was upgraded, and the old one is still loaded",
            "reboot; or end all jobs, and unload and load the nvidia modules",
        )
    if not gpus.kernel_driver and not gpus.count:
        return ok(name, "no NVIDIA driver is loaded: jobs run on the CPU")
    if not gpus.binding_installed:
        return fail(
            name,
            f"driver {gpus.kernel_driver} is loaded, but nothing reads it: the GPUs aren't offered",
            "pip install 'meshtrain[gpu]' into the worker's environment",
        )
    if gpus.trouble:
        return fail(
            name,
            f"driver {gpus.kernel_driver} is loaded, but can't be asked: {gpus.trouble}",
            "nvidia-smi should work as the worker's user; see dmesg | grep -i nvrm",
        )
    if gpus.count == 0:
        return fail(name, f"driver {gpus.kernel_driver} shows no GPU", "see dmesg | grep -i nvrm")
    told = f"{gpus.count} × {', '.join(sorted(set(gpus.models)))}, driver {gpus.library}"
    if not gpus.uvm_device:
        return warn(
            name,
            f"{told}, but /dev/nvidia-uvm isn't there: CUDA can't start for an unprivileged user",
            "nvidia-modprobe -u -c 0, or enable nvidia-persistenced",
        )
    return ok(name, told)


class Torch(msgspec.Struct, frozen=True):
    """The installed torch, read without loading it. `version` is empty where there is none."""

    version: str = ""
    cuda: str = ""
    """The CUDA that it was built for; empty: it was built for the CPU alone."""


def check_torch(torch: Torch, gpus: Gpus) -> Finding:
    """Whether the built-in training can run here, on the GPUs where there are some."""
    name = "torch"
    if not torch.version:
        return warn(
            name,
            "not installed: commands run here, the built-in training doesn't",
            "pip install 'meshtrain[train]'",
        )
    if gpus.count and not torch.cuda:
        return fail(
            name,
            f"{torch.version} was built for the CPU alone, and here are {gpus.count} GPUs",
            "install a CUDA build: see pytorch.org/get-started",
        )
    if gpus.count and gpus.cuda_version is not None:
        wanted = _version(torch.cuda)
        if wanted is not None and wanted[0] > gpus.cuda_version[0]:
            newest = ".".join(map(str, gpus.cuda_version))
            return fail(
                name,
                f"{torch.version} needs CUDA {torch.cuda}, the driver runs up to {newest}",
                "upgrade the driver, or install a torch that was built for an older CUDA",
            )
    return ok(name, f"{torch.version}, {'CUDA ' + torch.cuda if torch.cuda else 'CPU'}")


def _version(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError:
        return None
