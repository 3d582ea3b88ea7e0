"""Meshes for end-to-end tests: always taken down, their logs shown when a test fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mesh import Mesh, NewMesh, living_meshes


@pytest.fixture(autouse=True)
def same_surroundings() -> Iterator[None]:
    """A command that runs in this process leaves its master in the environment."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def new_mesh(tmp_path: Path) -> Iterator[NewMesh]:
    """Makes meshes that end with the test."""
    yield from _meshes(tmp_path)


@pytest.fixture(scope="module")
def new_module_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewMesh]:
    """Makes meshes that end with the module."""
    yield from _meshes(tmp_path_factory.mktemp("mesh"))


def _meshes(folder: Path) -> Iterator[NewMesh]:
    with ExitStack() as closing:

        def make(
            name: str = "mesh",
            *,
            lease_s: float = 20.0,
            heartbeat_s: float = 0.3,
            secure: bool = False,
        ) -> Mesh:
            mesh = Mesh(folder / name, lease_s=lease_s, heartbeat_s=heartbeat_s, secure=secure)
            closing.callback(mesh.close)
            return mesh

        yield make


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.CallInfo[None], None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        for mesh in living_meshes():
            report.sections.extend(mesh.logs())
