"""The command line against a master without sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from master_double import MasterDouble
from typer.testing import CliRunner, Result

from meshtrain.cli.context import Cli
from meshtrain.cli.main import build
from meshtrain.core.rows import snapshot
from meshtrain.core.view import MeshView
from meshtrain.net.base import MasterAwayError
from meshtrain.security.way import Way


@dataclass
class FeedDouble:
    """A feed whose every batch shows the mesh after one more step."""

    master: MasterDouble
    steps_max: int = 20
    trouble: str = ""
    view: MeshView = field(default_factory=MeshView)
    closed: bool = False

    async def batches(self) -> AsyncIterator[None]:
        for _ in range(self.steps_max):
            self.view = view_of(self.master)
            yield None
            self.master.run_once()
        raise AssertionError("watched for longer than there was anything to see")

    def close(self) -> None:
        self.closed = True


def view_of(master: MasterDouble) -> MeshView:
    view = MeshView()
    for change in snapshot(master.state):
        view.apply(change)
    return view


def cli_with(master: MasterDouble | None) -> Cli:
    def connect(way: Way, timeout_s: float) -> MasterDouble:
        if master is None:
            raise MasterAwayError(f"no master answers at {way.address}")
        return master

    def follow(way: Way) -> FeedDouble:
        assert master is not None
        return FeedDouble(master)

    return Cli(master="127.0.0.1:7470", connect=connect, follow=follow, sleep=lambda seconds: None)


def run(master: MasterDouble | None, *arguments: str) -> Result:
    """A command as a person would run it."""
    return CliRunner().invoke(build(), list(arguments), obj=cli_with(master), prog_name="meshtrain")


def out(master: MasterDouble | None, *arguments: str) -> str:
    """What a command that succeeds prints."""
    result = run(master, *arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout
