"""`meshtrain record`, as a person runs it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from cli_double import cli_with
from master_double import MasterDouble
from typer.testing import CliRunner, Result

from meshtrain.cli.main import build
from meshtrain.core.changes import Note, SweepRow
from meshtrain.core.view import MeshView
from meshtrain.net.zmq_feed import FeedBatch
from meshtrain_tui.recording import Recording


class Feed:
    """Tells two batches, and ends."""

    def __init__(self) -> None:
        self.view = MeshView()
        self.trouble = ""

    async def batches(self) -> AsyncIterator[Any]:
        for index, change in enumerate([SweepRow("s", "s", 1, 0, 0), Note(1.0, "it came")]):
            self.view.apply(change)
            yield FeedBatch(1, index + 1, (change,), whole=index == 0)

    def close(self) -> None:
        return


def run(*arguments: str) -> Result:
    cli = cli_with(MasterDouble())
    cli.follow = lambda way: Feed()  # type: ignore[assignment, return-value]
    return CliRunner().invoke(build(), list(arguments), obj=cli, prog_name="meshtrain")


def test_it_records_until_the_feed_ends_and_says_how_to_play_it(tmp_path: Path) -> None:
    file = tmp_path / "monday.mesh"
    result = run("record", str(file))
    assert result.exit_code == 0, result.output
    assert "2 pieces of news" in result.stdout
    assert f"meshtrain top --replay {file}" in result.stdout
    assert "Recording the mesh at 127.0.0.1:7470" in result.stderr
    there = Recording(file)
    assert there.address == "127.0.0.1:7470"
    assert sum(there.moment(index).batch is not None for index in range(len(there))) == 2


def test_json_and_the_refusals(tmp_path: Path) -> None:
    file = tmp_path / "monday.mesh"
    told = json.loads(run("record", str(file), "--json").stdout)
    assert told == {
        "file": str(file),
        "batches": 2,
        "size_bytes": file.stat().st_size,
        "full": False,
    }
    again = run("record", str(file))
    assert again.exit_code == 2
    assert "--add" in again.output
    assert run("record", str(file), "--add", "--for", "1h").exit_code == 0
    wrong = run("record", str(file), "--add", "--for", "soon")
    assert wrong.exit_code == 2
    assert "--for soon" in wrong.output


def test_it_ends_after_its_time(tmp_path: Path) -> None:
    class Silent(Feed):
        async def batches(self) -> AsyncIterator[Any]:
            import asyncio

            yield FeedBatch(1, 1, (), whole=True)
            await asyncio.Event().wait()

    cli = cli_with(MasterDouble())
    cli.follow = lambda way: Silent()  # type: ignore[assignment, return-value]
    file = tmp_path / "monday.mesh"
    arguments = ["record", str(file), "--for", "0.05s"]
    result = CliRunner().invoke(build(), arguments, obj=cli, prog_name="meshtrain")
    assert result.exit_code == 0, result.output
    assert len(Recording(file)) == 1
