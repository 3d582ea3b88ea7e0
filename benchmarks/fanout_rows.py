"""The rows: who serves the file, who brings it to the hosts, and with which programs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fanout_bed import Bed
from fanout_data import FILE, FIRST, Data
from harness.systems import BENCHMARKS, PEERS_PYTHON

from meshtrain.core.node import MASTER_NODE_ID

PORT = 7070
"""In every host's own network."""
MASTER = FIRST
SECOND = "second"
"""A holder more, for rows with a fault."""
SPOILED = "spoiled"
"""A holder all of whose chunks are wrong."""
_IMPORT_LIMIT_S = 60


@dataclass(frozen=True, slots=True)
class Part:
    """One program of a row."""

    host: str
    command: list[str]
    order: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """Who takes part in one run, and where it may write."""

    bed: Bed
    data: Data
    folder: Path
    holders: tuple[str, ...]
    """The first one's upload is measured."""
    hosts: tuple[str, ...]
    everybody: tuple[str, ...] = field(default=())
    """All hosts of the bed, for the list of members."""

    def own_folder(self, host: str) -> Path:
        """A folder of one host in this run."""
        folder = self.folder / host
        folder.mkdir(exist_ok=True)
        return folder


class Row(Protocol):
    """One way to bring the file to all hosts."""

    @property
    def key(self) -> str:
        """What `--only` calls it."""
        ...

    @property
    def title(self) -> str:
        """What tables call it."""
        ...

    def why_not(self) -> str:
        """Why it can't be measured here; empty where it can."""
        ...

    def parts(self, stage: Stage) -> list[Part]:
        """Its programs, the holders' first."""
        ...


@dataclass(frozen=True, slots=True)
class Star:
    """Every host brings the whole file from the first holder."""

    key: str
    title: str
    program: str
    package: str
    serve: Callable[[Stage, str, Path], list[str]]
    """From the stage, the address and a folder: the server's command."""
    bring: Callable[[str, Path], list[str]]
    """From the server's address and the path that it is to come to: the client's command."""

    def why_not(self) -> str:
        if shutil.which(self.program) is None:
            return f"no {self.program} here (apt-get install -y {self.package})"
        return ""

    def parts(self, stage: Stage) -> list[Part]:
        holder = stage.holders[0]
        address = stage.bed.address(holder)
        program = [sys.executable, str(BENCHMARKS / "fanout_star.py")]
        folder = stage.own_folder(holder)
        serves = {"serves": True, "host": address, "port": PORT}
        parts = [Part(holder, program, {**serves, "command": self.serve(stage, address, folder)})]
        for host in stage.hosts:
            into = stage.own_folder(host) / f".{FILE}"
            order = {
                "serves": False,
                "command": self.bring(address, into),
                "into": str(into),
                "final": str(stage.own_folder(host) / FILE),
                "xxh3": stage.data.xxh3,
            }
            parts.append(Part(host, program, order))
        return parts


def _web_server(stage: Stage, address: str, folder: Path) -> list[str]:
    web = str(BENCHMARKS / "fanout_web.py")
    return [sys.executable, web, address, str(PORT), str(stage.data.tree)]


def _rsync_daemon(stage: Stage, address: str, folder: Path) -> list[str]:
    config = folder / "rsyncd.conf"
    config.write_text(
        "use chroot = no\nreverse lookup = no\n"
        f"pid file = {folder}/rsyncd.pid\nlog file = {folder}/rsyncd.log\n"
        f"[data]\npath = {stage.data.tree}\nread only = yes\nuid = 0\ngid = 0\n"
    )
    words = ["rsync", "--daemon", "--no-detach", f"--config={config}"]
    return [*words, f"--address={address}", f"--port={PORT}"]


def _curl(address: str, into: Path) -> list[str]:
    return ["curl", "-sSf", "--noproxy", "*", "-o", str(into), f"http://{address}:{PORT}/{FILE}"]


def _rsync(address: str, into: Path) -> list[str]:
    return ["rsync", "--whole-file", f"rsync://{address}:{PORT}/data/{FILE}", str(into)]


def _aria2(address: str, into: Path) -> list[str]:
    return [
        *("aria2c", "--no-conf", "--quiet", "--all-proxy=", "--no-proxy=*"),
        *("--file-allocation=none", "--split=4", "--max-connection-per-server=4"),
        *("--min-split-size=1M", f"--dir={into.parent}", f"--out={into.name}"),
        f"http://{address}:{PORT}/{FILE}",
    ]


@dataclass(frozen=True, slots=True)
class Swarm:
    """libtorrent: all hosts and the holders in one swarm, told of each other."""

    key: str
    title: str

    def why_not(self) -> str:
        if not PEERS_PYTHON.exists():
            return "no peers here (make bench-peers)"
        told = subprocess.run(
            [str(PEERS_PYTHON), "-c", "import libtorrent"],
            capture_output=True,
            timeout=_IMPORT_LIMIT_S,
            check=False,
        )
        return "no libtorrent in .peers (make bench-peers)" if told.returncode else ""

    def parts(self, stage: Stage) -> list[Part]:
        program = [str(PEERS_PYTHON), str(BENCHMARKS / "fanout_torrent.py")]
        order = {"torrent": str(stage.data.torrent()), "port": PORT}
        parts = []
        for holder in stage.holders:
            tree = stage.data.spoiled_tree() if holder == SPOILED else stage.data.tree
            own = {"host": stage.bed.address(holder), "folder": str(tree), "fetches": False}
            parts.append(Part(holder, program, {**order, **own}))
        met = [*stage.holders]
        for host in stage.hosts:
            own = {
                "host": stage.bed.address(host),
                "folder": str(stage.own_folder(host)),
                "final": str(stage.own_folder(host) / f"final-{FILE}"),
                # One of two connects to the other: both at once would meet, and one be closed.
                "peers": [[stage.bed.address(name), PORT] for name in met],
                "fetches": True,
            }
            parts.append(Part(host, program, {**order, **own}))
            met.append(host)
        return parts


@dataclass(frozen=True, slots=True)
class Mesh:
    """Ours: each host serves what it has, and fetches from the holders and all others."""

    key: str
    title: str
    encrypt: bool

    def why_not(self) -> str:
        return ""

    def parts(self, stage: Stage) -> list[Part]:
        program = [sys.executable, str(BENCHMARKS / "fanout_host.py")]
        scheme = "https" if self.encrypt else "http"
        data = stage.data
        order = {
            "members": str(data.members(stage.everybody, MASTER)),
            "manifest": str(data.manifest()),
            "port": PORT,
            "encrypt": self.encrypt,
        }
        sources: list[dict[str, Any]] = [
            {
                "node_id": MASTER_NODE_ID if name == MASTER else name,
                "url": f"{scheme}://{stage.bed.address(name)}:{PORT}",
                # As the master says it of itself to a node.
                "last_resort": name == MASTER,
            }
            for name in (*stage.holders, *stage.hosts)
        ]
        parts = []
        for name in (*stage.holders, *stage.hosts):
            fetches = name in stage.hosts
            if fetches:
                store = stage.own_folder(name) / "store"
            else:
                store = data.spoiled_store() if name == SPOILED else data.store(name)
            address = stage.bed.address(name)
            own = {
                "keys": str(data.keys(name)),
                "store": str(store),
                "host": address,
                "fetches": fetches,
                "sources": [each for each in sources if f"//{address}:" not in each["url"]],
            }
            parts.append(Part(name, program, {**order, **own}))
        return parts


OURS = Mesh("meshtrain", "meshtrain", encrypt=False)
OURS_TLS = Mesh("meshtrain-tls", "meshtrain, TLS on", encrypt=True)
LIBTORRENT = Swarm("libtorrent", "libtorrent")
ROWS: Sequence[Row] = (
    Star("curl", "star by curl", "curl", "curl", _web_server, _curl),
    Star("rsync", "star by rsync", "rsync", "rsync", _rsync_daemon, _rsync),
    Star("aria2", "star by aria2", "aria2c", "aria2", _web_server, _aria2),
    LIBTORRENT,
    OURS,
    OURS_TLS,
)
