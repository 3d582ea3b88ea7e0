"""The systems that are measured side by side, and what of them is missing on this host."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent
ROOT = BENCHMARKS.parent
PEERS_PYTHON = ROOT / ".peers" / "bin" / "python"
CONSTRAINTS = BENCHMARKS / "peers" / "constraints.txt"

_VERSIONS_PROGRAM = """
import importlib.metadata, json, sys
found = {}
for package in sys.argv[1:]:
    try:
        found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        found[package] = None
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class System:
    """One system: its driver and what the driver needs."""

    key: str
    title: str
    driver: Path
    durable: bool
    packages: tuple[str, ...] = ()
    """Pinned in constraints.txt; empty for meshtrain itself."""
    programs: tuple[str, ...] = ()

    @property
    def python(self) -> Path:
        """The interpreter that its driver runs with."""
        return PEERS_PYTHON if self.packages else Path(sys.executable)


def _driver(name: str) -> Path:
    return BENCHMARKS / "peers" / name


OURS = "meshtrain"
SYSTEMS = (
    System(OURS, "meshtrain", _driver("meshtrain_mesh.py"), durable=True),
    System("ray", "Ray", _driver("ray_peer.py"), durable=False, packages=("ray",)),
    System("parsl", "Parsl", _driver("parsl_peer.py"), durable=False, packages=("parsl",)),
    System(
        "dask",
        "Dask",
        _driver("dask_peer.py"),
        durable=False,
        packages=("dask", "distributed"),
    ),
    System(
        "celery",
        "Celery + Redis",
        _driver("celery_peer.py"),
        durable=True,
        packages=("celery", "kombu", "redis"),
        programs=("redis-server",),
    ),
    System(
        "hyperqueue",
        "HyperQueue",
        _driver("hyperqueue_peer.py"),
        durable=False,
        packages=("hyperqueue",),
    ),
)


def _pins() -> dict[str, str]:
    lines = CONSTRAINTS.read_text().split()
    return dict(line.split("==", 1) for line in lines if "==" in line)


def _installed(packages: Sequence[str]) -> dict[str, str | None]:
    done = subprocess.run(
        [str(PEERS_PYTHON), "-c", _VERSIONS_PROGRAM, *packages],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


def _missing_of_ours(system: System) -> list[str]:
    if not system.driver.exists():
        return [f"{system.title}: its driver, {system.driver.name}, is missing"]
    commands = importlib.metadata.entry_points(group="meshtrain.commands")
    problems = []
    for name in ("master", "worker"):
        try:
            commands[name].load()
        except (KeyError, ImportError, AttributeError) as error:
            problems.append(
                f"{system.title}: `meshtrain {name}` doesn't load with {sys.executable} "
                f"({error}): run this with the project's own environment"
            )
    return problems


def missing(systems: Sequence[System]) -> list[str]:
    """What `systems` need and don't find, one line each; empty when all can be measured."""
    problems: list[str] = []
    peers = [system for system in systems if system.packages]
    installed: dict[str, str | None] = {}
    if peers and PEERS_PYTHON.exists():
        installed = _installed(sorted({name for peer in peers for name in peer.packages}))
    pins = _pins()
    for system in systems:
        if not system.packages:
            problems += _missing_of_ours(system)
            continue
        for package in system.packages:
            version = installed.get(package)
            if version is None:
                problems.append(f"{system.title}: {package} isn't installed: make bench-peers")
            elif version != pins[package]:
                problems.append(
                    f"{system.title}: {package} is {version}, "
                    f"{pins[package]} is pinned: make bench-peers"
                )
        for program in system.programs:
            if shutil.which(program) is None:
                problems.append(
                    f"{system.title}: {program} isn't installed: apt-get install -y {program}"
                )
    return problems
