"""A bug that one person's request meets is told to that person, and ends nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshtrain.core.pages import Page, PageQuery
from meshtrain.spec.settings import MasterSettings
from meshtrain.wire import messages as msg
from meshtrain_daemon.master import people as people_module
from meshtrain_daemon.master.people import People


def broken(*args: object, **kwargs: object) -> Any:
    raise LookupError("nobody thought of \x1b[2Jthis")


class Around:
    """All that people's requests go through, without a disk or a socket."""

    def __init__(self) -> None:
        self.full = None
        self.control = 7470
        self.sent: list[Any] = []
        self.tasks: list[asyncio.Task[None]] = []
        around = cast(Any, self)
        self.people = People(
            settings=MasterSettings(home=Path("/nowhere")),
            state=cast(Any, SimpleNamespace(sweeps={}, named_inputs={}, jobs={})),
            sockets=around,
            ports=around,
            decisions=around,
            hands=around,
            feeds=around,
            folders=around,
            artifacts=around,
            logbook=around,
            store=around,
            archiving=around,
            estimator=around,
            spawn=self.spawn,
            membership=None,
            enrol_port=0,
        )

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> object:
        self.tasks.append(asyncio.get_running_loop().create_task(coroutine))
        return self.tasks[-1]

    def afterwards(self, answer: Callable[[], None]) -> None:
        """As the loop of decisions does it: what is raised here would end that loop."""
        answer()

    async def page(self, query: PageQuery) -> Page:
        return cast(Page, broken())

    async def why(self, query: msg.Query) -> msg.Answer:
        return cast(msg.Answer, broken())

    def send_control(self, peer: bytes, messages: Sequence[Any]) -> None:
        assert peer == b"peer"
        self.sent.extend(messages)

    async def answer_to(self, message: msg.FromPerson) -> Any:
        """The one answer to a message; whatever is raised on the way to it fails the test."""
        self.people.take(b"peer", message)
        await asyncio.gather(*self.tasks)
        (answer,) = self.sent
        return answer


@pytest.mark.parametrize(
    ("message", "breaks", "answered_by"),
    [
        (msg.Submit("asked", "a.yaml", b"command: 'true'"), "parse_job_file", msg.Done),
        (msg.PublishInput("asked", "voc", "a" * 32), "published_manifest", msg.Done),
        (msg.Query("asked", "jobs"), "answer", msg.Answer),
        (msg.Query("asked", "why", ("a",)), "", msg.Answer),
        (msg.AskPage("asked", PageQuery("jobs")), "", msg.PageGiven),
        (msg.IssueReader("asked", "prometheus", 60.0), "change_members", msg.Done),
        (msg.RestoreBase("asked", "a" * 16), "resolve_base", msg.Done),
    ],
)
async def test_p11_a_bug_is_told_to_who_met_it_and_logged(
    message: msg.FromPerson,
    breaks: str,
    answered_by: type,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It ended the master: a question in the loop of decisions, all else in its TaskGroup."""
    if breaks:
        monkeypatch.setattr(people_module, breaks, broken)
    answer = await Around().answer_to(message)
    assert type(answer) is answered_by and answer.request_id == "asked"
    assert (
        f"the request {type(message).__name__} failed. This is a bug of meshtrain" in answer.error
    )
    assert "LookupError('nobody thought of \\x1b[2Jthis') (line " in answer.error
    (record,) = caplog.records
    assert record.exc_info is not None and record.exc_info[0] is LookupError


async def test_what_is_no_bug_is_told_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    answer = await Around().answer_to(msg.PublishInput("asked", "not a name", "a" * 32))
    assert answer == msg.Done("asked", error=answer.error)
    assert answer.error.startswith("a data set can't be called so")
    assert caplog.records == []
