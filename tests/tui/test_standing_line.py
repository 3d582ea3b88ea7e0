"""One link for many questions, opened anew after one that had no answer."""

from __future__ import annotations

import asyncio
import threading

import pytest

from meshtrain.errors import ProtocolError, UserError
from meshtrain.net.base import MasterAwayError
from meshtrain.wire.messages import Answer, Cancel, Done, FromPerson, Query
from meshtrain_tui.asking import row_of
from meshtrain_tui.standing_line import StandingLine


class FakeClient:
    def __init__(self, answers: list[object]) -> None:
        self._answers = answers
        self.closed = False
        self.patience_s: list[float | None] = []

    def request(self, message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
        assert not self.closed
        self.patience_s.append(timeout_s)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    def close(self) -> None:
        self.closed = True


async def test_questions_share_a_link_until_one_has_no_answer() -> None:
    answers: list[object] = [Answer("1", rows=[{"a": 1}]), Answer("2", error="no"), Done("3")]
    answers += [MasterAwayError("away"), Answer("5", rows=[{"a": 5}])]
    opened: list[FakeClient] = []

    def open_client() -> FakeClient:
        opened.append(FakeClient(answers))
        return opened[-1]

    with StandingLine(open_client, timeout_s=7.0) as line:
        ask = row_of(line.ask)
        assert await ask("job", ("j",)) == {"a": 1}
        with pytest.raises(UserError, match="no"):
            await ask("job", ("j",))
        with pytest.raises(ProtocolError, match="same version"):
            await ask("job", ("j",))
        assert len(opened) == 1
        with pytest.raises(MasterAwayError):
            await line.ask(Query("4", "job"), 2.0)
        assert opened[0].closed
        assert opened[0].patience_s == [7.0, 7.0, 7.0, 2.0]
        assert await ask("job", ("j",)) == {"a": 5}
        assert len(opened) == 2
        answers.append(Answer("6", rows=[{"slow": True}]))
        assert (await line.ask(Query("6", "why"), 30.0)).error == ""
        assert [client.closed for client in opened] == [True, False, True], "a link of its own"
        assert opened[2].patience_s == [30.0]
    while not opened[1].closed:
        await asyncio.sleep(0)


async def test_what_changes_something_waits_behind_no_question() -> None:
    answered = threading.Event()
    opened: list[str] = []

    class Client:
        def request(self, message: FromPerson, timeout_s: float | None = None) -> Done | Answer:
            if isinstance(message, Query):
                answered.wait(20.0)
                return Answer("1", rows=[{"a": 1}])
            opened.append(f"{timeout_s:g} s for a change")
            return Done("2")

        def close(self) -> None:
            opened.append("closed")

    with StandingLine(Client, timeout_s=7.0) as line:
        asking = asyncio.create_task(line.ask(Query("1", "job")))
        await asyncio.sleep(0)
        assert (await line.ask(Cancel("2", ("sweep",)))).error == ""
        assert opened == ["7 s for a change", "closed"], "a link of its own"
        assert not asking.done()
        answered.set()
        await asking


async def test_an_answer_that_is_none_is_told() -> None:
    answers: list[object] = [
        Answer("1"),
        Answer("2", rows=["text"]),
        Answer("3", error="a word of the master"),
    ]

    async def send(query: Query) -> object:
        return answers.pop(0)

    ask = row_of(send)
    for _ in range(2):
        with pytest.raises(ProtocolError, match="is empty"):
            await ask("log", ("j",))
    with pytest.raises(UserError, match="a word of the master"):
        await ask("log", ("j",))
