"""What people's commands ask the master, one question at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import msgspec
import zmq

from meshtrain.core.changes import Change
from meshtrain.core.pages import Page, PageQuery
from meshtrain.errors import ProtocolError, UserError
from meshtrain.ids import new_id
from meshtrain.net.address import endpoint, split_address
from meshtrain.net.base import MasterAwayError, NotAdmittedError, SocketLimits
from meshtrain.net.curve import ClientSecurity, peer_name, secure_client
from meshtrain.net.link import LinkMonitor, LinkState, trouble_of
from meshtrain.net.sockets import Context, Socket, open_dealer, send_frames
from meshtrain.security.loopback import permitted_address
from meshtrain.wire.codec import Decoder, encode
from meshtrain.wire.fields import Port
from meshtrain.wire.messages import (
    Answer,
    AskPage,
    Done,
    FromPerson,
    PageGiven,
    Query,
    Refused,
    Snapshot,
    ToPerson,
)

NotRefused = Done | Answer | PageGiven | Snapshot

PORTS_QUERY = "ports"
SNAPSHOT_QUERY = "snapshot"
BRIEF_SNAPSHOT = "brief"
"""Named in it by who wants only the jobs that run."""


class Ports(msgspec.Struct, frozen=True):
    """Where a master listens: the one row that answers the query `ports`."""

    control: Port
    bulk: Port
    feed: Port
    http: Port | None = None


class MasterClient:
    """Asks a master, and waits for each answer.

    `address` is HOST:PORT of its control socket; `timeout_s` is the patience with
    one request, connecting included. Use it as a context manager, or close it.
    `security` are the keys of the person who asks.

    Raises SettingsError when the address is malformed, or not loopback and there is
    no `security`.
    """

    def __init__(
        self,
        address: str,
        timeout_s: float = 5.0,
        *,
        limits: SocketLimits | None = None,
        security: ClientSecurity | None = None,
    ) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._limits = limits = limits or SocketLimits()
        host, port = split_address(address)
        self._with_keys = security is not None
        host = permitted_address(host, "meshtrain", "connect to", with_keys=self._with_keys)
        self._decoder: Decoder[ToPerson] = Decoder(ToPerson, limits.control_message_bytes_max)
        self._context: Context = zmq.Context()
        self._socket: Socket = open_dealer(
            self._context,
            limits,
            message_bytes_max=limits.control_message_bytes_max,
            queued_max=limits.control_queued_max,
            identity=peer_name(security.identity.member) if security else b"",
            queue_while_away=True,
        )
        if security is not None:
            secure_client(self._socket, security)
        self._monitor = LinkMonitor(self._socket, endpoint(host, port))
        self._poller = zmq.Poller()
        self._poller.register(self._monitor.socket, zmq.POLLIN)
        self._poller.register(self._socket, zmq.POLLIN)
        self._socket.connect(endpoint(host, port))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the link; harmless when closed."""
        if not self._socket.closed:
            self._monitor.close()
        self._socket.close(0)
        self._context.term()

    def request(self, message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
        """The master's answer to `message`; its `error` is the caller's to look at.

        `timeout_s` replaces the client's own patience. Raises MasterAwayError when
        no answer comes in time, NotAdmittedError when that is for the keys, and
        ProtocolError when the master refuses the message or answers with nonsense.
        """
        for answer in self._answers(message, timeout_s):
            if isinstance(answer, Snapshot | PageGiven):
                break
            return answer
        raise ProtocolError(
            f"{self._address} answered with a page or a snapshot that was not asked for: "
            "see that both sides run the same version"
        )

    def page(self, query: PageQuery) -> Page:
        """A page of a long list, filtered and sorted by the master.

        It may have fewer rows than `query.limit`. Raises as `request` does, and
        UserError for what no page can answer.
        """
        answer = next(iter(self._answers(AskPage(new_id("request"), query), None)))
        return page_in(answer, self._address)

    def ports(self) -> Ports:
        """Where the master listens. Raises as `request` does."""
        question = Query(new_id("request"), PORTS_QUERY)
        return read_ports(self.request(question), self._address)

    def snapshot(self) -> tuple[int, int, list[Change]]:
        """The whole picture: the master's incarnation, the feed's number, and the rows.

        Raises as `request` does.
        """
        parts = SnapshotParts(self._address)
        for answer in self._answers(Query(new_id("request"), SNAPSHOT_QUERY), None):
            if parts.add(answer):
                break
        return parts.incarnation, parts.seq, parts.changes

    def _answers(self, message: FromPerson, timeout_s: float | None) -> Iterator[NotRefused]:
        """Every answer to `message` as it comes; answers to older requests are passed over."""
        patience_s = self._timeout_s if timeout_s is None else timeout_s
        data = encode(message, self._limits.control_message_bytes_max)
        deadline_s = time.monotonic() + patience_s
        self._monitor.read()
        self._monitor.redial()
        if not self._wait_for_link(deadline_s):
            raise self._away(no_master(self._address, patience_s))
        ups, heard = self._monitor.ups, False
        self._send(data, patience_s)
        while True:
            if not self._wait_for_answer(deadline_s, ups):
                if self._monitor.ups == ups:
                    raise self._away(no_answer(self._address, patience_s))
                # What was on the link before may be lost: a question is asked once more.
                # What changes something may have been done already, and isn't.
                ups = self._monitor.ups
                if isinstance(message, Query | AskPage) and not heard:
                    self._send(data, patience_s)
                continue
            for frame in self._socket.recv_multipart():
                answer = self._decoder.decode(frame)
                if isinstance(answer, Refused):
                    raise ProtocolError(refused(self._address, answer))
                if answer.request_id == message.request_id:
                    heard = True
                    yield answer

    def _send(self, data: bytes, patience_s: float) -> None:
        try:
            send_frames(self._socket, [data])
        except zmq.Again as error:
            raise MasterAwayError(no_master(self._address, patience_s)) from error

    def _wait_for_link(self, deadline_s: float) -> bool:
        """Whether the link is up in time; a refusal of our keys ends the wait."""
        while True:
            state = self._monitor.read()
            if state is LinkState.UP:
                return True
            if state is LinkState.REFUSED:
                raise self._away("")
            if not self._monitor.socket.poll(_left_ms(deadline_s)):
                return False

    def _wait_for_answer(self, deadline_s: float, ups: int) -> bool:
        """Whether one came, in time and before the link came up more often than `ups`.

        A refusal of our keys ends the wait.
        """
        while True:
            ready = dict(self._poller.poll(_left_ms(deadline_s)))
            if self._socket in ready:
                return True
            if not ready:
                return False
            if self._monitor.read() is LinkState.REFUSED:
                raise self._away("")
            if self._monitor.ups != ups:
                return False

    def _away(self, otherwise: str) -> MasterAwayError:
        state = self._monitor.read()
        trouble = trouble_of(state, self._address, with_keys=self._with_keys)
        return NotAdmittedError(trouble) if trouble else MasterAwayError(otherwise)


class SnapshotParts:
    """Puts the parts of a snapshot together."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._seen = False
        self.incarnation = 0
        self.seq = 0
        self.changes: list[Change] = []

    def add(self, answer: ToPerson) -> bool:
        """Take in one part; True when it was the last.

        Raises ProtocolError when it is no snapshot or not of the same moment.
        """
        if not isinstance(answer, Snapshot):
            error = getattr(answer, "error", "") or f"an answer of type {type(answer).__name__}"
            raise ProtocolError(
                f"the master at {self._address} gave no snapshot: {error}; "
                "see that both sides run the same version"
            )
        if self._seen and (answer.incarnation, answer.seq) != (self.incarnation, self.seq):
            raise ProtocolError(
                f"the master at {self._address} sent a snapshot whose parts are of different "
                "moments; ask again"
            )
        self._seen = True
        self.incarnation, self.seq = answer.incarnation, answer.seq
        self.changes.extend(answer.changes)
        return answer.last


def page_in(answer: ToPerson, address: str) -> Page:
    """The page in an answer to AskPage.

    Raises UserError when the master says what was wrong with the question, and
    ProtocolError when there is no page.
    """
    if isinstance(answer, Refused):
        raise ProtocolError(refused(address, answer))
    if isinstance(answer, PageGiven):
        if answer.error:
            raise UserError(answer.error)
        if answer.page is not None:
            return answer.page
    raise ProtocolError(
        f"the master at {address} gave no page: see that both sides run the same version"
    )


def read_ports(answer: ToPerson, address: str) -> Ports:
    """The ports in an answer to the query for them. Raises ProtocolError when it has none."""
    problem = getattr(answer, "error", "")
    if isinstance(answer, Answer) and answer.rows and not problem:
        try:
            return msgspec.convert(answer.rows[0], Ports)
        except msgspec.ValidationError as error:
            problem = str(error)
    raise ProtocolError(
        f"the master at {address} did not tell its ports ({problem or 'an empty answer'}): "
        "see that both sides run the same version"
    )


def _left_ms(deadline_s: float) -> int:
    return max(0, round((deadline_s - time.monotonic()) * 1000))


def no_master(address: str, timeout_s: float) -> str:
    return (
        f"no master answers at {address} within {timeout_s:g} s: start one with "
        "`meshtrain master`, or name another with --master"
    )


def no_answer(address: str, timeout_s: float) -> str:
    return (
        f"the master at {address} took the request but has not answered within {timeout_s:g} s: "
        "it may still carry it out; look with `meshtrain jobs`, or wait longer with --timeout"
    )


def refused(address: str, answer: Refused) -> str:
    return f"the master at {address} refused the request: {answer.error}"
