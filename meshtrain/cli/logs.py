"""`meshtrain logs`: what a job wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from meshtrain.cli.context import Link, ask, cli_of
from meshtrain.cli.log_screen import BytesOut, LinesOut, LogOut, ScreenOut
from meshtrain.cli.output import shows_colours, tell, terminal_width
from meshtrain.cli.patient import PatientLink
from meshtrain.errors import NotFoundError, UserError
from meshtrain.results.formats import plain_text

PIECE_BYTES = 1 << 20
POLL_S = 0.5
LATE_POLLS = 3
"""After a job's end, its last bytes may still be on their way."""
TAIL_PIECE_BYTES = 64 << 10
TAIL_BYTES_MAX = 16 << 20
"""How far back the last lines are looked for."""
ALL_ATTEMPTS = "all"


def command(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="A job, by name or id.")],
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on as the job writes, until it ends.")
    ] = False,
    lines: Annotated[
        int | None, typer.Option("-n", "--lines", metavar="N", min=0, help="Only the last N lines.")
    ] = None,
    attempt: Annotated[
        str, typer.Option(metavar="N", help="Of this attempt, from 1, or all; else the last.")
    ] = "",
    previous: Annotated[
        bool, typer.Option("-p", "--previous", help="Of the attempt before the last one.")
    ] = False,
    rank: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Only lines that torchrun marked as this rank's."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Byte for byte to a terminal too: progress bars and all.")
    ] = False,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Print its metrics as JSON lines instead.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each line as JSON.")] = False,
) -> None:
    """Print what a job wrote to stdout and stderr.

    Into a file or a pipe it goes byte for byte. On a terminal a progress bar
    takes one line. With -f it goes on through restarts of the master, and with
    the next attempt where the job runs again.

    \b
    Examples:
      meshtrain logs batch_composition/target_batch_pct=0.25,fold=1
      meshtrain logs batch_composition/target_batch_pct=0.25,fold=1 -n 20
      meshtrain logs -f base/7f3a
    """
    if previous and attempt:
        raise UserError("--previous and --attempt both say which attempt: give one of them")
    if raw and (as_json or rank is not None):
        raise UserError("--raw is every byte as it is: it goes with neither --json nor --rank")
    if follow and (previous or attempt == ALL_ATTEMPTS):
        raise UserError("only one attempt can be followed: leave -f out, or name it by --attempt N")
    cli = cli_of(ctx)
    out = _out(raw=raw or metrics, rank=rank, as_json=as_json and not metrics)
    stream = "metrics" if metrics else "log"

    def beside(text: str) -> None:
        out.part()
        tell(text)

    with PatientLink(cli, beside) if follow else cli.link() as link:
        wanted = _wanted(link, job, attempt, previous=previous)
        for number in wanted:
            if len(wanted) > 1:
                beside(f"— attempt {number} of {len(wanted)} —")
            reader = _Reader(link, (job, stream, number), out)
            try:
                reader.begin(lines)
                reader.read_all()
                if follow:
                    reader.follow(cli.sleep)
            finally:
                out.end()
            if follow:
                tell(reader.outcome())
            elif reader.row["attempt_id"] is None:
                raise UserError(f"{reader.row['name']} has not started: {reader.waits()}")


def _out(*, raw: bool, rank: int | None, as_json: bool) -> LogOut:
    stream = typer.get_binary_stream("stdout")
    width = terminal_width()
    if as_json:
        return LinesOut(stream, rank=rank, as_json=True)
    if width is None or raw:
        return BytesOut(stream) if rank is None else LinesOut(stream, rank=rank)
    return ScreenOut(stream, width=width, colours=shows_colours(), rank=rank)


def _wanted(link: Link, job: str, attempt: str, *, previous: bool) -> Sequence[str]:
    """The attempts to print, as the master is asked for them; "" is the last one.

    Raises NotFoundError when the job was run only once and the run before is asked for.
    """
    if not previous and attempt != ALL_ATTEMPTS:
        return [attempt]
    (row,) = ask(link, "job", [job]).rows
    count = len(row["attempts"])
    if previous and count < 2:
        times = "once" if count else "not at all"
        raise NotFoundError(f"{row['name']} was run {times} so far: no attempt is before the last")
    return [str(count - 1)] if previous else [str(n + 1) for n in range(max(count, 1))]


class _Reader:
    """Prints a stream from where it came to."""

    def __init__(self, link: Link, names: tuple[str, str, str], out: LogOut) -> None:
        self._link = link
        self._names = names
        self._offset = 0
        self._out = out
        self.row: dict[str, Any] = {}

    def begin(self, lines: int | None) -> None:
        """Print the last lines alone of what is there; None leaves all to be read."""
        if lines is None:
            return
        self._look(limit=1)
        size_bytes = self.row["size_bytes"]
        window_bytes = TAIL_PIECE_BYTES
        while True:
            start = max(size_bytes - window_bytes, 0)
            data, end = self._between(start, size_bytes)
            if not start or data.count(b"\n") > lines or window_bytes >= TAIL_BYTES_MAX:
                break
            window_bytes *= 4
        self._out.write(last_lines(data, lines))
        self._offset = end

    def _between(self, start: int, end: int) -> tuple[bytes, int]:
        """The bytes of the stream there, and where they end; those that were lost are left out."""
        pieces: list[bytes] = []
        while start < end:
            answer = ask(self._link, "log", self._names, offset=start, limit=PIECE_BYTES)
            (row,) = answer.rows
            pieces.append(row["data"])
            if row["next_offset"] <= start:
                break
            start = row["next_offset"]
        return b"".join(pieces), start

    def read_all(self) -> bool:
        """Print what is there now; False when nothing was new."""
        grew = False
        while True:
            if not self._look(PIECE_BYTES):
                # It was asked for the attempt before.
                continue
            data, next_offset = self.row["data"], self.row["next_offset"]
            self._out.write(data)
            # Bytes that were lost on the node are passed over: a line of the log says so.
            moved = next_offset > self._offset
            self._offset = max(next_offset, self._offset)
            grew = grew or bool(data)
            if not moved or self._offset >= self.row["size_bytes"]:
                self._out.flush()
                return grew

    def _look(self, limit: int) -> bool:
        """Ask from the offset on; False where the answer is of another attempt's beginning."""
        asked = self._offset
        (row,) = ask(self._link, "log", self._names, offset=asked, limit=limit).rows
        before, self.row = self.row, row
        known = before.get("attempt_id")
        if known is not None and known != row["attempt_id"]:
            self._out.end()
            tell(f"— {row['name']} runs again —")
            self._offset = 0
        if known != row["attempt_id"] and isinstance(self._out, LinesOut):
            self._out.attempt = self._number(row)
        # From now on the job is known by its id: a name may come to mean another.
        self._names = (row["job_id"], *self._names[1:])
        return self._offset == asked

    def _number(self, row: dict[str, Any]) -> int:
        """Which attempt of the job it is, from 1."""
        (job,) = ask(self._link, "job", [row["job_id"]]).rows
        ids = [attempt["attempt_id"] for attempt in job["attempts"]]
        return ids.index(row["attempt_id"]) + 1 if row["attempt_id"] in ids else 0

    def follow(self, pause: Callable[[float], None]) -> None:
        """Print what comes until the job has ended, and its last bytes are there."""
        reason = ""
        quiet_polls = 0
        while True:
            if self.row["attempt_id"] is None and self.waits() != reason:
                reason = self.waits()
                tell(f"{self.row['name']} has not started: {reason}")
            if self.row["ended"]:
                quiet_polls += 1
                if quiet_polls > LATE_POLLS:
                    return
            pause(POLL_S)
            if self.read_all():
                quiet_polls = 0

    def waits(self) -> str:
        """Why there is nothing to read."""
        return self.row["reason"] or f"it is {self.row['state']}"

    def outcome(self) -> str:
        """How the job stands at the end, and why it failed."""
        rows = ask(self._link, "jobs", [self.row["job_id"]]).rows
        failure = plain_text(rows[0]["failure"]) if rows else ""
        told = f"{self.row['name']} {self.row['state']}"
        return f"{told}: {failure}" if failure and self.row["state"] == "failed" else told


def last_lines(data: bytes, lines: int) -> bytes:
    """The last lines of what was written; one that has not ended yet is one of them."""
    at = len(data) - data.endswith(b"\n")
    for _ in range(lines):
        at = data.rfind(b"\n", 0, max(at, 0))
        if at < 0:
            return data
    return data[at + 1 :] if lines else b""
