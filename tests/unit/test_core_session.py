"""A session is between one life of a node's daemon and one life of the master."""

from __future__ import annotations

import pytest

from meshtrain.core import agent_io as io
from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.agent import Agent
from meshtrain.core.node import NodeSpec
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.session import granted_name, session_name, split_session
from meshtrain.core.state import Loaded, SchedulerConfig
from meshtrain.ids import digest

SPEC = NodeSpec("n1", "http://n1", cpu_slots=1)
MODEL = digest(b"model")


class Link:
    """One daemon, and the lives of a master that it talks with."""

    def __init__(self) -> None:
        self.agent = Agent(slots=1, holds=(MODEL,), life="life")
        self.sent = self.agent.start(0.0)

    def hear(self, event: io.AgentEvent) -> list[io.AgentEffect]:
        self.sent = self.agent.handle(event, 0.0)
        return self.sent

    @property
    def hello(self) -> ev.NodeSaidHello:
        """The last hello, as a master hears it."""
        (hello,) = [effect for effect in self.sent if isinstance(effect, io.SendHello)]
        return ev.NodeSaidHello(SPEC, hello.session, hello.attempts, hello.holds, hello.grant)

    def welcome(self, master: Scheduler, hello: ev.NodeSaidHello) -> io.Welcomed:
        (said,) = [e for e in master.handle(hello, 0.0) if isinstance(e, fx.WelcomeNode)]
        return io.Welcomed(said.asked, said.session, 30.0, 0.0)

    def beat(self) -> ev.NodeBeat:
        """The next heartbeat, as a master hears it."""
        (beat,) = [e for e in self.hear(io.BeatDue()) if isinstance(e, io.SendBeat)]
        return ev.NodeBeat(
            "n1", beat.session, beat.beat, beat.sent_s, beat.seen_seq, beat.grant, beat.attempts
        )


def master(life: str) -> Scheduler:
    return Scheduler(SchedulerConfig(), Loaded(), life=life)


def drop(session: str) -> io.CommandCame:
    return io.CommandCame(session, 1, cmd.DropArtifact(MODEL))


def removes(effects: list[io.AgentEffect]) -> bool:
    return any(isinstance(effect, io.RemoveArtifact) for effect in effects)


def test_p1_a_master_that_takes_up_a_hello_to_the_one_before_begins_its_own_numbers() -> None:
    link = Link()
    hello = link.hello
    welcome = link.welcome(master("first"), hello)
    link.hear(welcome)
    link.hear(io.CommandCame(welcome.session, 1, cmd.ForgetAttempt("gone.1")))
    # The first is killed; a copy of the hello to it comes to the second.
    second = master("second")
    late = link.welcome(second, hello)
    assert late.session != welcome.session
    link.hear(late)
    assert not removes(link.hear(drop(late.session)))
    asked = second.handle(link.beat(), 0.0)
    assert fx.AskHello("n1") in asked
    link.hear(io.HelloAsked())
    welcome = link.welcome(second, link.hello)
    link.hear(welcome)
    assert removes(link.hear(drop(welcome.session)))


def test_p1_what_a_former_master_commands_before_its_welcome_is_not_obeyed() -> None:
    link = Link()
    hello = link.hello
    lost = link.welcome(master("first"), hello)
    assert not removes(link.hear(drop(lost.session)))
    second = master("second")
    welcome = link.welcome(second, hello)
    link.hear(welcome)
    assert link.agent.session == welcome.session
    assert not removes(link.hear(drop(lost.session)))
    assert removes(link.hear(drop(welcome.session)))


def test_a_hello_that_is_repeated_is_welcomed_to_the_same_session() -> None:
    link = Link()
    hello = link.hello
    first = master("first")
    assert link.welcome(first, hello) == link.welcome(first, hello)


def test_a_node_that_leaves_before_its_welcome_came_has_left() -> None:
    link = Link()
    hello = link.hello
    first = master("first")
    link.welcome(first, hello)
    first.handle(ev.NodeLeft("n1", hello.session), 0.0)
    assert first.state.nodes["n1"].left


@pytest.mark.parametrize(("name", "parts"), [("a/b/3", ("a/b", 3)), ("x", ("", 0))])
def test_what_a_daemon_asks_for_is_split_into_its_life_and_a_number(
    name: str, parts: tuple[str, int]
) -> None:
    assert split_session(name) == parts


def test_a_granted_session_tells_both_lives() -> None:
    asked = session_name("life", 7)
    names = {granted_name(asked, life) for life in ("1", "2")}
    assert len(names) == 2 and all(name.startswith(asked) for name in names)
