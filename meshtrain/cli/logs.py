"""`meshtrain logs`: what a job wrote, byte for byte."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from meshtrain.cli.context import Cli, Link, ask, cli_of
from meshtrain.cli.output import tell
from meshtrain.errors import UserError

PIECE_BYTES = 1 << 20
POLL_S = 0.5
LATE_POLLS = 3
"""After a job's end, its last bytes may still be on their way."""


def command(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job, by name or id.")],
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on as the job writes, until it ends.")
    ] = False,
    attempt: Annotated[
        str, typer.Option(metavar="N", help="Of this attempt, from 1; by default the last.")
    ] = "",
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Print its metrics as JSON lines instead.")
    ] = False,
) -> None:
    """Print what a job wrote to stdout and stderr, byte for byte.

    \b
    Examples:
      meshtrain logs few_shot/shots=5,fold=2
      meshtrain logs -f base/7f3a
    """
    cli = cli_of(ctx)
    names = (job, "metrics" if metrics else "log", attempt)
    with cli.link() as link:
        reader = _Reader(link, names)
        reader.read_all()
        if follow:
            _follow(cli, reader)
        elif reader.row["attempt_id"] is None:
            raise UserError(f"{reader.row['name']} has not started: {reader.waits()}")


class _Reader:
    """Prints a stream from where it came to."""

    def __init__(self, link: Link, names: tuple[str, str, str]) -> None:
        self._link = link
        self._names = names
        self._offset = 0
        self._out = typer.get_binary_stream("stdout")
        self.row: dict[str, Any] = {}

    def read_all(self) -> bool:
        """Print what is there now; False when nothing was new."""
        grew = False
        while True:
            answer = ask(self._link, "log", self._names, offset=self._offset, limit=PIECE_BYTES)
            before, (self.row,) = self.row, answer.rows
            self._follow_attempt(before)
            if self.row["offset"] != self._offset:
                # It was asked for the attempt before.
                continue
            data, next_offset = self.row["data"], self.row["next_offset"]
            self._out.write(data)
            # Bytes that were lost on the node are passed over: a line of the log says so.
            moved = next_offset > self._offset
            self._offset = next_offset
            grew = grew or bool(data)
            if not moved or self._offset >= self.row["size_bytes"]:
                self._out.flush()
                return grew

    def _follow_attempt(self, before: dict[str, Any]) -> None:
        """Begin anew where the job runs once more."""
        known = before.get("attempt_id")
        if known is not None and known != self.row["attempt_id"]:
            tell(f"— {self.row['name']} runs again —")
            self._offset = 0
        # From now on the job is known by its id: a name may come to mean another.
        self._names = (self.row["job_id"], *self._names[1:])

    def waits(self) -> str:
        """Why there is nothing to read."""
        return self.row["reason"] or f"it is {self.row['state']}"


def _follow(cli: Cli, reader: _Reader) -> None:
    reason = ""
    quiet_polls = 0
    while True:
        if reader.row["attempt_id"] is None and reader.waits() != reason:
            reason = reader.waits()
            tell(f"{reader.row['name']} has not started: {reason}")
        if reader.row["ended"]:
            quiet_polls += 1
            if quiet_polls > LATE_POLLS:
                break
        cli.sleep(POLL_S)
        if reader.read_all():
            quiet_polls = 0
    tell(f"{reader.row['name']} {reader.row['state']}")
