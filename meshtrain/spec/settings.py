"""The settings of the two daemons.

Names end with their unit. Every value has a default, so that no file is needed.
"""

from __future__ import annotations

import os
import re
import socket
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from meshtrain.spec import kinds
from meshtrain.spec.archive_url import ARCHIVE_URL, ARCHIVE_WHAT, ArchiveWhat
from meshtrain.spec.home import default_home
from meshtrain.spec.kinds import Kind
from meshtrain.spec.labels import LABELS, PRICE, PRICES
from meshtrain.spec.matrix import CELLS_MAX_DEFAULT
from meshtrain.spec.notify_settings import NotifySettings
from meshtrain.spec.problems import shown


class JobsOnStop(StrEnum):
    """What a worker that is stopped does with the jobs that run."""

    HAND_BACK = "hand_back"
    """They have `stop_grace_s`, then they are ended and run elsewhere."""
    LEAVE = "leave"
    """They go on, and the next daemon takes them over."""


_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?\Z|::1?\Z")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]{0,252}):([0-9]{1,5})\Z")


def default_gpu_locks() -> Path:
    """`/run/lock/meshtrain` where this user can use it, else a folder below `/tmp`.

    Never below `$TMPDIR`: all daemons of a host must come to the same place.
    """
    shared = Path("/run/lock/meshtrain")
    usable = shared if shared.is_dir() else shared.parent
    return shared if os.access(usable, os.W_OK | os.X_OK) else Path("/tmp/meshtrain-locks")


def default_node_name() -> str:
    """The host's name, as far as a node's name may hold it."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("._-")[:64]
    return name or "node"


def _check_path(value: Any) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{shown(value)} is not a path")
    path = Path(value).expanduser()
    if not path.is_absolute():
        raise ValueError(f"{shown(value)} is not an absolute path: it begins with / or ~")
    return path


def _check_address(value: Any) -> str:
    match = _ADDRESS.match(value) if isinstance(value, str) else None
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ValueError(f'{shown(value)} is not an address: write "127.0.0.1:7470"')
    return str(value)


def _check_gpus(value: Any) -> str | tuple[int, ...]:
    if value == "auto":
        return "auto"
    indexes = value
    if isinstance(value, str):
        words = [word.strip() for word in value.split(",") if word.strip()]
        indexes = [int(word) if word.isdecimal() and len(word) < 5 else word for word in words]
    if isinstance(indexes, list | tuple) and all(
        isinstance(index, int) and not isinstance(index, bool) and 0 <= index < 1024
        for index in indexes
    ):
        return tuple(dict.fromkeys(indexes))
    raise ValueError(f'{shown(value)} is not "auto" or a list of GPU indexes such as [0, 1]')


def _check_accounts(value: Any) -> tuple[str, ...]:
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise ValueError(f"expected a list of accounts, got {shown(value)}")
    return tuple(dict.fromkeys(kinds.ACCOUNT.check(name) for name in names if name != ""))


def _check_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, got {shown(value)}")


PATH = Kind("absolute path", _check_path, {"type": "string"})
HOST = kinds.matching("host", _HOST, "a host name or an IP address")
PORT = kinds.whole("port, 0 for any free one", 0, 65535)
ADDRESS = Kind("HOST:PORT", _check_address, {"type": "string"})
SECONDS = kinds.number("seconds", 0, 86400 * 365, above=True)
SECONDS_OR_NONE_AT_ALL = kinds.number("seconds, 0 for none", 0, 86400 * 365)
SLOTS = kinds.whole("whole number, 0 or more", 0, 65536)
BATCH = kinds.whole("whole number, 1 or more", 1, 1_000_000)
UPLOAD_LIMIT = kinds.size_or_none("bytes a second", 1_000_000)
SPOOL = kinds.whole("number of bytes, 16,000,000 or more", 16_000_000, 2**60)
GPUS = Kind('"auto" or a list of indexes', _check_gpus, {})
ACCOUNTS = Kind("list of accounts", _check_accounts, {"type": "array"})
ON_STOP = kinds.choice("hand_back or leave", JobsOnStop)
BOOL = Kind("true or false", _check_bool, {"type": "boolean"})


class Settings(BaseModel):
    """What both daemons have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Annotated[Path, PATH] = Field(
        default_factory=default_home, description="Folder that all state lies in."
    )


class MasterSettings(NotifySettings, Settings):
    """The settings of `meshtrain master`."""

    host: Annotated[str, HOST] = Field("127.0.0.1", description="Address that its ports listen on.")
    address: Annotated[str | None, HOST] = Field(
        None, description="Host that others reach it at, as tokens tell; not given: as it listens."
    )
    secure: Annotated[bool | None, BOOL] = Field(
        None,
        description="Lets members with keys in, and nobody else; a must off loopback. Not given: "
        "if the home has members.",
    )
    encrypt_artifacts: Annotated[bool, BOOL] = Field(
        True, description="Sends artifacts by TLS; false only on a network that nobody taps."
    )
    enrol_port: Annotated[int, PORT] = Field(
        7474, description="Port that people join at where artifacts are not encrypted."
    )
    control_port: Annotated[int, PORT] = Field(
        7470, description="Port of nodes and clients; 0 is any free one."
    )
    bulk_port: Annotated[int, PORT] = Field(
        7471, description="Port of logs and metrics, apart so that they delay no heartbeat."
    )
    feed_port: Annotated[int, PORT] = Field(7472, description="Port that dashboards listen to.")
    http_port: Annotated[int, PORT] = Field(7473, description="Port that artifacts are served on.")
    lease_s: Annotated[float, SECONDS] = Field(
        30.0, description="Seconds that a node keeps a job without being heard of."
    )
    heartbeat_s: Annotated[float, SECONDS] = Field(
        5.0, description="Seconds between a node's signs of life; well below lease_s."
    )
    tick_s: Annotated[float, SECONDS] = Field(
        0.5, description="Seconds between looks at what time alone changes."
    )
    inbox: Annotated[Path | None, PATH] = Field(
        None, description="Folder that is watched for job files; not given: HOME/inbox."
    )
    inbox_rest_s: Annotated[float, SECONDS] = Field(
        2.0, description="Seconds that a file must have rested before it is read."
    )
    inbox_scan_s: Annotated[float, SECONDS] = Field(
        10.0, description="Seconds between scans that find what the watch missed."
    )
    cells_max: Annotated[int, BATCH] = Field(
        CELLS_MAX_DEFAULT, description="Cells of the largest matrix that is accepted."
    )
    upload_limit: Annotated[int, UPLOAD_LIMIT] = Field(
        0, description="Bytes a second that artifacts are sent at, in all; 0 is no limit."
    )
    code_size_max_bytes: Annotated[int, kinds.SIZE] = Field(
        200_000_000, description="Bytes of the largest snapshot of code."
    )
    results: Annotated[Path | None, PATH] = Field(
        None, description="Folder of merged results; not given: HOME/results."
    )
    archive: Annotated[str | None, ARCHIVE_URL] = Field(
        None, description="Folder or URL that results and bases are copied to; not given: none."
    )
    archive_what: Annotated[str, ARCHIVE_WHAT] = Field(
        ArchiveWhat.BOTH.value, description="What is copied there: results, bases or both."
    )
    archive_at_once: Annotated[int, kinds.whole("whole number, 1 to 64", 1, 64)] = Field(
        4, description="Results and bases that are copied there at once."
    )
    warm_copies: Annotated[int, kinds.whole("whole number, 0 to 1000", 0, 1000)] = Field(
        0, description="Nodes that popular bases are placed on before they are asked for; 0: none."
    )
    prefetch: Annotated[bool, BOOL] = Field(
        True, description="Lets a busy node fetch what its next job starts from, if it has room."
    )
    price_per_gpu_hour: Annotated[dict[str, float], PRICES] = Field(
        default_factory=dict,
        description='What an hour of one GPU costs, by label of the node: "gpu=a100" = 2.5; '
        '"default" for the others. A node\'s own price goes first.',
    )
    commit_batch_max: Annotated[int, BATCH] = Field(
        1000, description="Events that one commit of the store may hold."
    )

    @property
    def inbox_folder(self) -> Path:
        """The watched folder."""
        return self.inbox or self.home / "inbox"

    @property
    def results_folder(self) -> Path:
        """Where results are merged to."""
        return self.results or self.home / "results"


class WorkerSettings(Settings):
    """The settings of `meshtrain worker`."""

    node_name: Annotated[str, kinds.NAME] = Field(
        default_factory=default_node_name,
        description="Name of this node in the mesh; not given: the host's name.",
    )
    master: Annotated[str | None, ADDRESS] = Field(
        None,
        description="Control address of the master; not given: of the mesh it joined, else "
        "127.0.0.1:7470.",
    )
    secure: Annotated[bool, BOOL] = Field(
        False, description="Refuses to run before this host has joined a mesh with keys."
    )
    http_host: Annotated[str | None, HOST] = Field(
        None, description="Address that artifacts are served on; not given: as the master sees it."
    )
    encrypt_artifacts: Annotated[bool, BOOL] = Field(
        True, description="Sends artifacts by TLS; the same as the master's."
    )
    http_port: Annotated[int, PORT] = Field(
        0, description="Port that artifacts are served on; 0 is any free one."
    )
    cpu_slots: Annotated[int, SLOTS] = Field(
        default_factory=lambda: os.cpu_count() or 1,
        description="Jobs without a GPU that run at once; not given: one a core.",
    )
    gpus: Annotated[str | tuple[int, ...], GPUS] = Field(
        "auto", description="Indexes of the GPUs that the mesh may use; auto is all."
    )
    labels: Annotated[dict[str, str], LABELS] = Field(
        default_factory=dict, description="Words on this node that people can read and choose by."
    )
    price_per_gpu_hour: Annotated[float, PRICE] = Field(
        0.0, description="What an hour of one of its GPUs costs; 0: as the master says."
    )
    warm_training: Annotated[bool, BOOL] = Field(
        True, description="Keeps a process ready that has torch loaded."
    )
    chunks_at_once: Annotated[int, kinds.whole("whole number, 1 to 256", 1, 256)] = Field(
        32, description="Chunks of an artifact that are on their way at once."
    )
    upload_limit: Annotated[int, UPLOAD_LIMIT] = Field(
        0, description="Bytes a second that artifacts are sent at, in all; 0 is no limit."
    )
    cache_bytes: Annotated[int, kinds.SIZE] = Field(
        0, description="Bytes that artifacts may take here; 0 is all that the disk can spare."
    )
    cache_reserve_bytes: Annotated[int, kinds.SIZE] = Field(
        1_000_000_000, description="Bytes of the disk that artifacts leave free."
    )
    log_spool_bytes: Annotated[int, SPOOL] = Field(
        2_000_000_000,
        description="Bytes of logs kept for a master that is away; above, the longest loses some.",
    )
    prepared_bytes: Annotated[int, kinds.SIZE] = Field(
        100_000_000_000,
        description="Bytes of what was prepared for jobs and is kept for more of them; what was "
        "unused longest goes first.",
    )
    kill_grace_s: Annotated[float, SECONDS_OR_NONE_AT_ALL] = Field(
        10.0, description="Seconds between asking a job to end and killing it."
    )
    gpu_glance_s: Annotated[float, SECONDS] = Field(
        5.0, description="Seconds between two looks at who uses the GPUs."
    )
    gpu_free_wait_s: Annotated[float, SECONDS_OR_NONE_AT_ALL] = Field(
        30.0, description="Seconds that a job's GPU memory may take to come back after its end."
    )
    stop_grace_s: Annotated[float, SECONDS_OR_NONE_AT_ALL] = Field(
        30.0, description="Seconds that running jobs get to end when the daemon is stopped."
    )
    jobs_on_stop: Annotated[str, ON_STOP] = Field(
        JobsOnStop.HAND_BACK.value,
        description="When the daemon is stopped: hand_back what runs, or leave it to the next one.",
    )
    gpu_locks: Annotated[Path, PATH] = Field(
        default_factory=default_gpu_locks,
        description="Folder of this host's GPU locks, the same for all its daemons.",
    )
    job_users: Annotated[tuple[str, ...], ACCOUNTS] = Field(
        (), description="Accounts that jobs may run as, where the daemon may switch to them."
    )
