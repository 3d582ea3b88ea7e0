"""What every command has: which master to ask, and how."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import typer

from meshtrain.core.view import MeshView
from meshtrain.errors import UserError
from meshtrain.ids import new_id
from meshtrain.wire.messages import Answer, Done, FromPerson, Query

if TYPE_CHECKING:
    from meshtrain.security.way import Way

TIMEOUT_S = 5.0
PAGE_ROWS = 1000


class Link(Protocol):
    """A line to the master; net.zmq_client.MasterClient is one."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: Any) -> None: ...

    def close(self) -> None:
        """Let go of the line; harmless when done."""
        ...

    def request(self, message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
        """The answer to one message; raises MasterAwayError when none comes in time."""
        ...


class LiveFeed(Protocol):
    """A picture of the mesh that keeps itself up to date; net.zmq_feed.FeedClient is one."""

    @property
    def view(self) -> MeshView:
        """The picture; another object after a hole in the feed."""
        ...

    @property
    def trouble(self) -> str:
        """Why the picture isn't live; empty when it is."""
        ...

    def batches(self) -> AsyncIterator[Any]:
        """Yields each time when the picture has changed."""
        ...

    def close(self) -> None: ...


def _connect(way: Way, timeout_s: float) -> Link:
    from meshtrain.net.curve import client_security
    from meshtrain.net.zmq_client import MasterClient

    return MasterClient(way.address, timeout_s, security=client_security(way.standing))


def _follow(way: Way) -> LiveFeed:
    from meshtrain.net.curve import client_security
    from meshtrain.net.zmq_feed import FeedClient

    return FeedClient(way.address, security=client_security(way.standing))


@dataclass
class Cli:
    """The command line's surroundings; tests put their own in place of the functions."""

    master: str | None = None
    """As given with --master or MESHTRAIN_MASTER."""
    home: Path | None = None
    timeout_s: float = TIMEOUT_S
    connect: Callable[[Way, float], Link] = field(default=_connect)
    follow: Callable[[Way], LiveFeed] = field(default=_follow)
    sleep: Callable[[float], None] = field(default=time.sleep)

    @property
    def address(self) -> str:
        """Where the master is: as given, else as its home or the mesh joined says."""
        return self.way.address

    @property
    def way(self) -> Way:
        """Where the master is, and the keys to show there.

        Raises SettingsError when the keys are damaged, or others may read them.
        """
        from meshtrain.security.way import find_way

        return find_way(self.master, self.home_folder)

    def link(self, timeout_s: float | None = None) -> Link:
        """A line to the master; a context manager."""
        return self.connect(self.way, self.timeout_s if timeout_s is None else timeout_s)

    def feed(self) -> LiveFeed:
        """A picture of the mesh; to be asked for within a running event loop."""
        return self.follow(self.way)

    @property
    def home_folder(self) -> Path:
        """The folder that the state of the master on this host lies in."""
        if self.home is not None:
            return self.home
        from meshtrain.spec.home import default_home

        return default_home()


def cli_of(ctx: typer.Context) -> Cli:
    """The surroundings of a command."""
    cli = ctx.find_object(Cli)
    assert cli is not None, "the group makes them before it calls a command"
    return cli


def cli_from(master: str | None, home: Path | None, timeout_s: float, given: Cli | None) -> Cli:
    """The surroundings by the group's own options; what a test gave stays."""
    cli = given or Cli()
    cli.master = master or cli.master
    cli.home = home.expanduser().absolute() if home is not None else cli.home
    cli.timeout_s = timeout_s
    # The daemons read their settings from the environment.
    if home is not None:
        os.environ["MESHTRAIN_HOME"] = str(cli.home)
    if master is not None:
        os.environ["MESHTRAIN_MASTER"] = master
    return cli


# --- asking -------------------------------------------------------------------------


def ask(
    link: Link, what: str, names: Sequence[str] = (), *, offset: int = 0, limit: int = PAGE_ROWS
) -> Answer:
    """One page of the answer to a query; see the master's queries for what there is.

    Raises UserError with the master's words when it can't be answered.
    """
    answer = link.request(Query(new_id("query"), what, tuple(names), offset, limit))
    if answer.error:
        raise UserError(answer.error)
    if not isinstance(answer, Answer):
        raise UserError(f"the master answered the query {what} as if it were a request")
    return answer


def ask_all(
    link: Link, what: str, names: Sequence[str] = (), *, rows_max: int | None = None
) -> tuple[list[Any], int]:
    """The rows of all pages, `rows_max` at most, and how many there are.

    Raises UserError as `ask` does.
    """
    rows: list[Any] = []
    total = 0
    for answer in _pages(link, what, names, rows_max):
        rows += answer.rows
        total = answer.total
    return rows, total


def _pages(link: Link, what: str, names: Sequence[str], rows_max: int | None) -> Iterator[Answer]:
    offset = 0
    while True:
        limit = PAGE_ROWS if rows_max is None else min(PAGE_ROWS, rows_max - offset)
        answer = ask(link, what, names, offset=offset, limit=limit)
        yield answer
        offset += len(answer.rows)
        if not answer.rows or offset >= answer.total or offset == rows_max:
            return


def act(link: Link, message: FromPerson, timeout_s: float | None = None) -> Done:
    """Have the master do something.

    Raises UserError with the master's words when it was not done.
    """
    done = link.request(message, timeout_s)
    if done.error:
        raise UserError(done.error)
    if not isinstance(done, Done):
        raise UserError("the master answered a request as if it were a query")
    return done
