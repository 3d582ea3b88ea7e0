"""What members, and those who are none, do from outside of a mesh's own processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from mesh import Mesh
from typer.testing import CliRunner

from meshtrain.artifacts.fetch import Fetcher
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.flight import FetchReport, Source
from meshtrain.artifacts.joining import join_mesh
from meshtrain.cli.main import build
from meshtrain.core.member import MemberKind
from meshtrain.core.swarm import SwarmLimits
from meshtrain.net.curve import client_security
from meshtrain.net.zmq_client import MasterClient
from meshtrain.security.signing import HttpSecurity
from meshtrain.security.standing import PERSON_FOLDER, Standing, load_standing


def join(folder: Path, token: str, name: str, kind: MemberKind = MemberKind.PERSON) -> Standing:
    """Join as `meshtrain join` does."""
    return asyncio.run(join_mesh(folder, token, name, kind))


def standing_of(mesh: Mesh, node: str) -> Standing:
    """What a worker's own process knows and shows."""
    standing = load_standing(mesh.folder / node, MemberKind.NODE)
    assert standing is not None
    return standing


def command(home: Path, *arguments: str) -> str:
    """A command of the person whose home this is; what it prints, whatever becomes of it."""
    runner = CliRunner()
    result = runner.invoke(build(), ["--home", str(home), *arguments], prog_name="meshtrain")
    return result.output


def person_at(home: Path, token: str, name: str) -> Standing:
    """Make `home` that of a member."""
    home.mkdir(mode=0o700, exist_ok=True)
    return join(home / PERSON_FOLDER, token, name)


def line_of(mesh: Mesh, standing: Standing | None, timeout_s: float = 10.0) -> MasterClient:
    """A line to the master with somebody's keys, or without any."""
    return MasterClient(mesh.address, timeout_s, security=client_security(standing))


def fetch(
    folder: Path,
    artifact_id: str,
    source: Source,
    standing: Standing | None,
    *,
    encrypt: bool = True,
) -> FetchReport:
    """Fetch an artifact from one source as the member, or as nobody; raises FetchError."""

    async def fetched() -> FetchReport:
        security = None
        if standing is not None:
            security = HttpSecurity(standing.identity, standing.members.roll, encrypt)
        fetcher = Fetcher(
            ArtifactStore(folder), security=security, limits=SwarmLimits(failures_max=1)
        )
        await fetcher.start()
        try:
            return await fetcher.fetch(artifact_id, [source])
        finally:
            await fetcher.close()

    return asyncio.run(fetched())


def start_refused(role: str, home: Path, **environment: str) -> tuple[int, str]:
    """Start a daemon that must not come up: its exit code, and what it says."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MESHTRAIN_")}
    ended = subprocess.run(
        [sys.executable, "-m", "meshtrain.cli", role, "--home", str(home)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        env={**inherited, **environment},
        check=False,
    )
    return ended.returncode, ended.stderr
