"""`meshtrain record`: a mesh's news in a file, to be played back in the dashboard."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshtrain.cli import words
from meshtrain.cli.context import Cli, cli_of
from meshtrain.cli.output import print_json, say, tell
from meshtrain.errors import UserError
from meshtrain.spec.kinds import DURATION

if TYPE_CHECKING:
    from meshtrain_tui.recorder import Recorder
    from meshtrain_tui.recording import RecordingFile

MEGABYTE = 1_000_000


def command(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.")],
    add: Annotated[
        bool, typer.Option("--add", help="Go on with a recording that is there.")
    ] = False,
    for_time: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="Stop by itself after: 30m, 1d.")
    ] = None,
    megabytes: Annotated[
        int, typer.Option(metavar="N", min=1, max=1_000_000, help="Stop by itself at this size.")
    ] = 1000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON at the end.")] = False,
) -> None:
    """Record the mesh into a file, until ctrl+c; the dashboard plays it back.

    What was recorded is whole at any time, also when this is killed.

    \b
    Examples:
      meshtrain record monday.mesh
      meshtrain record monday.mesh --add --for 8h
      meshtrain top --replay monday.mesh
    """
    from meshtrain_tui.recording import RecordingFile

    within_s = None
    if for_time is not None:
        try:
            within_s = float(DURATION.check(for_time))
        except ValueError as error:
            raise UserError(f"--for {for_time}: {error}") from error
    cli = cli_of(ctx)
    address = cli.address
    with RecordingFile(file, add=add) as recording:
        tell(f"Recording the mesh at {address} into {file}. ctrl+c ends it.")
        recorder = asyncio.run(_record(cli, recording, megabytes * MEGABYTE, within_s))
        size_bytes = recording.size_bytes
    if as_json:
        print_json(
            {
                "file": str(file),
                "batches": recorder.moments,
                "size_bytes": size_bytes,
                "full": recorder.is_full,
            }
        )
        return
    full = " It is as large as it may be." if recorder.is_full else ""
    say(
        f"{file}: {words.count(recorder.moments, 'piece')} of news, {words.size(size_bytes)}.{full}"
    )
    say(f"play  meshtrain top --replay {file}")


async def _record(
    cli: Cli, recording: RecordingFile, bytes_max: int, within_s: float | None
) -> Recorder:
    """Record until it is told to end, the time is over, or the file is full."""
    from meshtrain_tui.recorder import Recorder
    from meshtrain_tui.standing_line import StandingLine

    line = StandingLine(cli.link)
    recorder = Recorder(
        cli.feed(), recording, address=cli.address, ask=line.ask, bytes_max=bytes_max
    )
    running = asyncio.create_task(recorder.run())
    loop = asyncio.get_running_loop()
    for end in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(end, running.cancel)
    try:
        async with asyncio.timeout(within_s):
            with contextlib.suppress(asyncio.CancelledError):
                await running
    except TimeoutError:
        pass
    finally:
        line.close()
    return recorder
