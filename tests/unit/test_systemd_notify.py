"""What the daemons tell systemd, heard on a socket of our own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshtrain.ids import new_id
from meshtrain_daemon.sdnotify import SUPERVISOR_VARIABLES, Supervisor, without_supervisor


class Ear:
    """The supervisor's end: a datagram socket under a path or an abstract name."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def heard(self) -> list[list[str]]:
        told = []
        while True:
            try:
                told.append(self._socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return told

    async def wait_for(self, line: str) -> list[list[str]]:
        told: list[list[str]] = []
        async with asyncio.timeout(20):
            while not any(line in message for message in told):
                told += self.heard()
                await asyncio.sleep(0.001)
        return told

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def ear(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ear]:
    abstract = request.param == "abstract"
    ear = Ear(f"@meshtrain-{new_id('ear')}" if abstract else str(tmp_path / "notify"))
    yield ear
    ear.close()


def environment(ear: Ear, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": ear.address, "PATH": "/bin", **more}


async def test_ready_says_so_with_a_status_and_begins_to_beat(ear: Ear) -> None:
    supervisor = Supervisor.take_from(environment(ear, WATCHDOG_USEC="2000"))
    supervisor.ready(lambda: "3 nodes\nare there")
    told = await ear.wait_for("WATCHDOG=1")
    assert told[0] == ["READY=1", "STATUS=3 nodes are there", "WATCHDOG=1"]
    await ear.wait_for("WATCHDOG=1")
    supervisor.close()
    ear.heard()
    await asyncio.sleep(0.01)
    assert ear.heard() == []


async def test_the_beat_comes_at_half_of_the_watchdog_s_patience(ear: Ear) -> None:
    assert Supervisor(ear.address, watchdog_s=4.0).beat_s == 2.0
    assert Supervisor(ear.address, watchdog_s=0.5).beat_s == 0.25
    assert Supervisor(ear.address, watchdog_s=600.0).beat_s == 5.0


async def test_a_stuck_loop_gives_no_sign_of_life(ear: Ear) -> None:
    supervisor = Supervisor.take_from(environment(ear, WATCHDOG_USEC="2000"))
    supervisor.ready(lambda: "up")
    ear.heard()
    stuck_until = asyncio.get_running_loop().time() + 0.02
    while asyncio.get_running_loop().time() < stuck_until:
        pass
    assert ear.heard() == []
    await ear.wait_for("WATCHDOG=1")
    supervisor.close()


async def test_a_status_is_told_again_only_when_it_has_changed(ear: Ear) -> None:
    lines = iter(["one", "one", "two"])
    line = "two"

    def status() -> str:
        nonlocal line
        line = next(lines, line)
        return line

    supervisor = Supervisor.take_from(environment(ear, WATCHDOG_USEC="2000"))
    supervisor.ready(status)
    told = await ear.wait_for("STATUS=two")
    told += await ear.wait_for("WATCHDOG=1")
    assert sum("STATUS=one" in message for message in told) == 1
    assert sum("STATUS=two" in message for message in told) == 1
    supervisor.close()


async def test_without_a_watchdog_the_status_is_told_and_no_sign_of_life(ear: Ear) -> None:
    supervisor = Supervisor.take_from(environment(ear))
    supervisor.ready(lambda: "up")
    supervisor.stopping()
    assert ear.heard() == [["READY=1", "STATUS=up"], ["STOPPING=1"]]
    supervisor.close()


async def test_a_daemon_that_stops_may_take_longer_while_it_beats(ear: Ear) -> None:
    supervisor = Supervisor.take_from(environment(ear, WATCHDOG_USEC="2000"))
    supervisor.ready(lambda: "2 attempts")
    supervisor.stopping()
    told = await ear.wait_for("EXTEND_TIMEOUT_USEC=20000000")
    assert ["STOPPING=1", "WATCHDOG=1"] in told
    assert any("STATUS=stopping: 2 attempts" in message for message in told)
    supervisor.close()


async def test_nobody_listens_and_nothing_is_opened() -> None:
    supervisor = Supervisor.take_from({})

    def never() -> str:
        raise AssertionError("the status was asked for with nobody to tell")

    supervisor.ready(never)
    supervisor.stopping()
    supervisor.close()
    assert supervisor._socket is None
    assert supervisor._timer is None


@pytest.mark.parametrize("address", ["", "relative", "@", "/", "/" + "x" * 200, "/a\0b"])
async def test_an_address_that_is_none_is_as_good_as_absent(address: str) -> None:
    supervisor = Supervisor.take_from({"NOTIFY_SOCKET": address})
    supervisor.ready(lambda: "up")
    assert supervisor._socket is None


@pytest.mark.parametrize("usec", ["", "0", "-1", "soon", "1e6", "٣", "9" * 30])
def test_a_watchdog_that_makes_no_sense_is_none(usec: str, tmp_path: Path) -> None:
    told = {"NOTIFY_SOCKET": str(tmp_path / "x"), "WATCHDOG_USEC": usec}
    assert Supervisor.take_from(told).beat_s == 5.0


def test_a_watchdog_of_another_process_is_none_of_ours(tmp_path: Path) -> None:
    told = {"NOTIFY_SOCKET": str(tmp_path / "x"), "WATCHDOG_USEC": "1000000"}
    assert Supervisor.take_from({**told, "WATCHDOG_PID": "1"}).beat_s == 5.0
    assert Supervisor.take_from({**told, "WATCHDOG_PID": str(os.getpid())}).beat_s == 0.5


async def test_a_supervisor_that_went_away_ends_nothing(tmp_path: Path) -> None:
    ear = Ear(str(tmp_path / "notify"))
    supervisor = Supervisor.take_from(environment(ear))
    ear.close()
    (tmp_path / "notify").unlink()
    supervisor.ready(lambda: "up")
    supervisor.stopping()
    supervisor.close()


def test_p8_no_job_can_speak_in_its_daemon_s_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """P8, P11: the supervisor's variables leave the environment before any job gets it."""
    from meshtrain_daemon.worker.attempt_processes import job_environment

    for name in SUPERVISOR_VARIABLES:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    assert not set(SUPERVISOR_VARIABLES) & set(job_environment())
    assert job_environment()["SOMETHING_ELSE"] == "kept"
    taken = dict.fromkeys(SUPERVISOR_VARIABLES, "x") | {"PATH": "/bin"}
    Supervisor.take_from(taken)
    assert taken == {"PATH": "/bin"}
    assert without_supervisor({"NOTIFY_SOCKET": "x", "PATH": "/bin"}) == {"PATH": "/bin"}
