"""Notifications: what is due, where it goes, and that each arrives at least once."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver
from master_double import MasterDouble, small_sweep, user_error

from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.errors import UserError
from meshtrain.spec.jobfile import JobFileError, parse_job_file
from meshtrain.spec.jobs import SweepSpec
from meshtrain.spec.notify_kinds import NotifySpec
from meshtrain.spec.settings import MasterSettings
from meshtrain_daemon.master.notice_command import run_command
from meshtrain_daemon.master.notice_journal import JOURNAL_FILE, NoticeJournal
from meshtrain_daemon.master.notifier import Notifier, demand_sendable
from meshtrain_daemon.master.webhook import (
    NeverSentError,
    NotSentError,
    Webhooks,
    is_public,
    problem_of,
    signature,
)

SECRET = b"a secret of this hook"


class Receiver:
    """A real server on loopback that takes webhooks."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        """What it answers, one after the other; then 200."""
        self.holds: asyncio.Event | None = None
        self.url = ""
        self._came = asyncio.Event()

    async def _take(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        self._came.set()
        if self.holds is not None:
            await self.holds.wait()
        status = self.statuses.pop(0) if self.statuses else 200
        headers = {"Location": "/elsewhere"} if status == 302 else None
        return web.Response(status=status, text="said so", headers=headers)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Receiver]:
        app = web.Application()
        app.router.add_post("/{any:.*}", self._take)
        runner = web.AppRunner(app, shutdown_timeout=0.01)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{port}/hook"
        try:
            yield self
        finally:
            if self.holds is not None:
                self.holds.set()
            await runner.cleanup()

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.got]

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.got) < count:
                self._came.clear()
                await self._came.wait()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().running() as made:
        yield made


class Desk:
    """A notifier over a master without disks, and what it says."""

    def __init__(self, home: Path, master: MasterDouble, **settings: Any) -> None:
        self.master = master
        self.notes: list[str] = []
        self.settings = MasterSettings(
            home=home, **({"notify_hosts": ("127.0.0.1",), "notify_on": ()} | settings)
        )
        self.notifier = Notifier(
            self.settings,
            home,
            master.state,
            results_folder=master.results_folder,
            note=self.notes.append,
            retry_after_s=(0.001,),
            queue_max=5,
        )

    def take(self, effects: list[Any]) -> None:
        """Tell it of the ends among effects, as the master does after a commit."""
        for effect in effects:
            if isinstance(effect, fx.JobFinished):
                self.notifier.take(effect)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Desk]:
        task = asyncio.create_task(self.notifier.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.notifier.close()

    async def wait(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not done():
                await asyncio.sleep(0.005)


def told_to(sweep: SweepSpec, *on: str, **ways: Any) -> SweepSpec:
    notify = NotifySpec(on, **ways)
    return msgspec.structs.replace(
        sweep, results=msgspec.structs.replace(sweep.results, notify=notify)
    )


def play(master: MasterDouble, desk: Desk | None = None) -> None:
    """Run all jobs, and tell the desk of each end at once."""
    told = master.tell

    def tell(event: ev.Event) -> list[Any]:
        effects = told(event)
        if desk is not None:
            desk.take(effects)
        return effects

    master.tell = tell  # type: ignore[method-assign]
    master.run_all()
    master.tell = told  # type: ignore[method-assign]


@pytest.fixture
def master() -> MasterDouble:
    made = MasterDouble()
    made.add_node("node-1")
    return made


def fold_one_fails(job: Any) -> Any:
    return user_error() if job.spec.cell.get("fold") == 1 else {"accuracy": 0.5}


# --- what is due --------------------------------------------------------------------------


async def test_an_end_is_told_once_with_what_came_of_it(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    desk = Desk(tmp_path, master)
    master.submit(told_to(small_sweep(), "end", webhook=receiver.url))
    async with desk.running():
        play(master, desk)
        await receiver.wait(1)
        await desk.wait(lambda: desk.notifier.outcomes["delivered"] == 1)
    (told,) = receiver.told
    assert told["id"] == "mix-00000001/end/0"
    assert (told["occasion"], told["jobs"], told["states"]) == ("end", 4, {"succeeded": 4})
    assert told["results"].endswith("/results/mix")
    assert "4 succeeded" in told["text"]
    headers = receiver.got[0][0]
    assert headers["X-Meshtrain-Id"] == told["id"]
    assert "X-Meshtrain-Signature" not in headers


async def test_a_failure_takes_the_place_of_the_end_and_the_first_comes_before(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    desk = Desk(tmp_path, master)
    master.outcome = fold_one_fails
    on = ("end", "failure", "first_failure")
    master.submit(told_to(small_sweep(), *on, webhook=receiver.url))
    async with desk.running():
        play(master, desk)
        await desk.wait(lambda: desk.notifier.outcomes["delivered"] == 2)
    by_occasion = {told["occasion"]: told for told in receiver.told}
    assert set(by_occasion) == {"failure", "first_failure"}
    first = by_occasion["first_failure"]
    assert [job["failure"] for job in first["failed"]] == ["user error: exit code 1"]
    assert first["states"].get("failed") == 1
    assert len(by_occasion["failure"]["failed"]) == 2


@pytest.mark.parametrize(
    ("on", "fails", "expected"),
    [
        (("failure",), False, []),
        (("first_failure",), False, []),
        ((), True, []),
        (("end",), True, ["end"]),
        (("failure",), True, ["failure"]),
    ],
)
async def test_only_what_was_asked_for_is_told(
    tmp_path: Path,
    master: MasterDouble,
    receiver: Receiver,
    on: tuple[str, ...],
    fails: bool,
    expected: list[str],
) -> None:
    desk = Desk(tmp_path, master, notify_on=("end",), notify_webhook=receiver.url)
    if fails:
        master.outcome = fold_one_fails
    master.submit(told_to(small_sweep(), *on))
    async with desk.running():
        play(master, desk)
        await desk.wait(lambda: desk.notifier.outcomes["delivered"] == len(expected))
        journal = tmp_path / "notify" / JOURNAL_FILE
        await desk.wait(lambda: journal.exists() and b"/end/0" in journal.read_bytes())
        await desk.wait(lambda: desk.notifier.waiting == 0)
    assert [told["occasion"] for told in receiver.told] == expected


async def test_a_sweep_that_says_nothing_is_told_of_as_the_settings_say(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    desk = Desk(tmp_path, master, notify_on=("end",), notify_webhook=receiver.url)
    master.submit(small_sweep())
    async with desk.running():
        play(master, desk)
        await receiver.wait(1)
    assert receiver.told[0]["sweep"] == "mix"


async def test_jobs_that_are_run_again_end_anew_under_another_id(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    desk = Desk(tmp_path, master)
    master.outcome = fold_one_fails
    master.submit(told_to(small_sweep(), "end", "first_failure", webhook=receiver.url))
    async with desk.running():
        play(master, desk)
        await receiver.wait(2)
        failed = tuple(j.job_id for j in master.state.jobs.values() if j.state == "failed")
        master.tell(ev.RetryRequested("again", failed))
        play(master, desk)
        await receiver.wait(3)
        await desk.wait(lambda: desk.notifier.outcomes["delivered"] == 3)
    assert sorted(told["id"] for told in receiver.told) == [
        "mix-00000001/end/0",
        "mix-00000001/end/2",
        "mix-00000001/first_failure",
    ]


async def test_a_sweep_of_bases_alone_ends_with_its_bases(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    desk = Desk(tmp_path, master)
    sweep = msgspec.structs.replace(small_sweep(), jobs=())
    master.submit(told_to(sweep, "end", webhook=receiver.url))
    async with desk.running():
        play(master, desk)
        await receiver.wait(1)
    assert receiver.told[0]["states"] == {"succeeded": 1}


# --- over a restart -------------------------------------------------------------------------


async def test_what_was_not_taken_is_sent_again_by_the_next_master_under_its_id(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    receiver.holds = asyncio.Event()
    desk = Desk(tmp_path, master)
    master.submit(told_to(small_sweep(), "end", webhook=receiver.url))
    async with desk.running():
        play(master, desk)
        await receiver.wait(1)
        # It dies while the receiver thinks.
    receiver.holds.set()
    again = Desk(tmp_path, master)
    async with again.running():
        await receiver.wait(2)
        await again.wait(lambda: again.notifier.outcomes["delivered"] == 1)
    assert [told["id"] for told in receiver.told] == ["mix-00000001/end/0"] * 2
    third = Desk(tmp_path, master)
    async with third.running():
        await third.wait(lambda: third.notifier._journal is not None)
        assert third.notifier.waiting == 0
    assert len(receiver.got) == 2


async def test_an_end_that_nobody_had_time_to_write_down_is_found_at_the_start(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    before = Desk(tmp_path, master)
    async with before.running():
        await before.wait(lambda: before.notifier._journal is not None)
    since = tmp_path / "notify" / JOURNAL_FILE
    since.write_bytes(b'{"since_wall_s":1.0}\n')
    master.outcome = fold_one_fails
    master.submit(told_to(small_sweep(), "failure", "first_failure", webhook=receiver.url))
    play(master)
    desk = Desk(tmp_path, master)
    async with desk.running():
        await desk.wait(lambda: desk.notifier.outcomes["delivered"] == 2)
    assert {told["occasion"] for told in receiver.told} == {"failure", "first_failure"}


async def test_what_ended_before_there_was_a_journal_is_not_told(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    master.submit(told_to(small_sweep(), "end", webhook=receiver.url))
    play(master)
    desk = Desk(tmp_path, master)
    async with desk.running():
        await desk.wait(lambda: desk.notifier._journal is not None)
        await asyncio.sleep(0)
        assert desk.notifier.waiting == 0
    assert receiver.got == []


async def test_P11_a_journal_that_was_cut_off_loses_nothing_but_its_last_line(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    receiver.holds = asyncio.Event()
    desk = Desk(tmp_path, master)
    master.submit(told_to(small_sweep(), "end", webhook=receiver.url))
    async with desk.running():
        play(master, desk)
        await receiver.wait(1)
    path = tmp_path / "notify" / JOURNAL_FILE
    with path.open("ab") as file:
        file.write(b'{"key":"mix-00000001/end/0:web')
    journal = NoticeJournal(tmp_path / "notify", 5.0)
    assert journal.unread == 1
    assert [sending.notice.id for sending in journal.open()] == ["mix-00000001/end/0"]
    assert journal.since_wall_s != 5.0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# --- trying -------------------------------------------------------------------------------


async def test_what_fails_is_tried_again_until_it_is_taken(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    receiver.statuses = [503, 429]
    desk = Desk(tmp_path, master)
    master.submit(told_to(small_sweep(), "end", webhook=receiver.url))
    async with desk.running():
        play(master, desk)
        await receiver.wait(3)
        await desk.wait(lambda: desk.notifier.outcomes["delivered"] == 1)
    assert len({headers["X-Meshtrain-Id"] for headers, _ in receiver.got}) == 1
    assert desk.notes == []


async def test_what_is_never_taken_is_given_up_and_told(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    receiver.statuses = [500] * 10
    desk = Desk(tmp_path, master, notify_tries_max=3)
    master.submit(told_to(small_sweep(), "end", webhook=receiver.url))
    async with desk.running():
        play(master, desk)
        await desk.wait(lambda: desk.notifier.outcomes["given_up"] == 1)
    assert len(receiver.got) == 3
    assert desk.notes == ["nobody could be told of sweep mix by webhook: it answered 500: said so"]


@pytest.mark.parametrize("status", [400, 404, 302])
async def test_a_refusal_is_final_and_a_redirect_is_not_followed(
    tmp_path: Path, master: MasterDouble, receiver: Receiver, status: int
) -> None:
    receiver.statuses = [status]
    desk = Desk(tmp_path, master)
    master.submit(told_to(small_sweep(), "end", webhook=receiver.url))
    async with desk.running():
        play(master, desk)
        await desk.wait(lambda: desk.notifier.outcomes["given_up"] == 1)
    assert len(receiver.got) == 1


async def test_a_receiver_that_hangs_holds_up_nobody(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    async with Receiver().running() as slow:
        slow.holds = asyncio.Event()
        desk = Desk(tmp_path, master)
        master.submit(told_to(small_sweep("a"), "end", webhook=slow.url))
        master.submit(told_to(small_sweep("b"), "end", webhook=receiver.url))
        async with desk.running():
            play(master, desk)
            await slow.wait(1)
            await receiver.wait(1)
            assert desk.notifier.waiting >= 1


async def test_a_receiver_that_takes_too_long_is_tried_again(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    receiver.holds = asyncio.Event()
    desk = Desk(tmp_path, master, notify_timeout_s=0.05, notify_tries_max=2)
    master.submit(told_to(small_sweep(), "end", webhook=receiver.url))
    async with desk.running():
        play(master, desk)
        await desk.wait(lambda: desk.notifier.outcomes["given_up"] == 1)
    assert desk.notes[-1].endswith("it did not answer in time")


async def test_the_queue_is_bounded_and_what_is_dropped_is_told(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    receiver.holds = asyncio.Event()
    desk = Desk(tmp_path, master)
    for number in range(7):
        master.submit(told_to(small_sweep(f"s{number}"), "end", webhook=receiver.url))
    async with desk.running():
        play(master, desk)
        assert desk.notifier.outcomes["dropped"] == 2
        assert desk.notifier.waiting == 5
        await receiver.wait(4)
    assert any("5 notifications wait already" in note for note in desk.notes)


# --- signed, and where it may go --------------------------------------------------------------


async def test_a_secret_signs_the_time_and_the_body(
    tmp_path: Path, master: MasterDouble, receiver: Receiver
) -> None:
    (tmp_path / "notify").mkdir(mode=0o700)
    secret = tmp_path / "notify" / "hook"
    secret.write_bytes(SECRET + b"\n")
    secret.chmod(0o600)
    desk = Desk(tmp_path, master)
    master.submit(told_to(small_sweep(), "end", webhook=receiver.url, secret="hook"))
    async with desk.running():
        play(master, desk)
        await receiver.wait(1)
    headers, body = receiver.got[0]
    told = dict(part.split("=") for part in headers["X-Meshtrain-Signature"].split(","))
    wanted = hmac.new(SECRET, told["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert told["v1"] == wanted
    assert signature(b"other", body, int(told["t"])) != headers["X-Meshtrain-Signature"]
    assert SECRET not in body


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
        *("100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0"),
        *("fd00::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "nonsense"),
        *("2001:db8::1", "192.0.2.1", "64:ff9b:1::a00:1", "fec0::1", "192.0.0.192", "::7f00:1"),
        *("::ffff:0:7f00:1", "5f00::1", "3fff::1", "192.88.99.1", "100::1"),
    ],
)
def test_private_addresses_are_known_in_every_dress(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_public_addresses_are_known(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.org/x",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://localhost:8443/x",
        "https://a.localhost/x",
        "https://169.254.169.254/latest/meta-data",
    ],
)
async def test_p10_a_webhook_goes_to_no_private_address_and_by_https_alone(url: str) -> None:
    assert "notify_hosts" in problem_of(url, ())
    webhooks = Webhooks((), 5.0)
    with pytest.raises(NeverSentError, match="notify_hosts"):
        await webhooks.send(url, b"{}", {}, b"", 0.0)
    await webhooks.close()


@pytest.mark.parametrize(
    "url",
    [
        *("https://xn--/", "https://a\\b", "https://[::1]x", "https://[::1"),
        *("https://a:99999/", "https://a:b/"),
    ],
)
async def test_p11_an_url_that_nothing_can_be_made_of_is_refused_and_no_bug(url: str) -> None:
    """Such a line in a job file ended the master, and again at each start."""
    assert "names no host that can be looked up" in problem_of(url, ())
    webhooks = Webhooks((), 5.0)
    with pytest.raises(NeverSentError, match="names no host"):
        await webhooks.send(url, b"{}", {}, b"", 0.0)
    await webhooks.close()


class Rebinding(AbstractResolver):
    """A name that leads to loopback."""

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        return [
            {
                "hostname": host,
                "host": "127.0.0.1",
                "port": port,
                "family": 2,
                "proto": 0,
                "flags": 0,
            }
        ]

    async def close(self) -> None: ...


async def test_p10_a_name_that_leads_to_a_private_address_is_not_followed(
    receiver: Receiver,
) -> None:
    port = receiver.url.rsplit(":", 1)[1]
    assert problem_of("https://hooks.example.org/x", ()) == ""
    webhooks = Webhooks((), 5.0, Rebinding)
    with pytest.raises(NeverSentError, match="has no public address"):
        await webhooks.send(f"https://hooks.example.org:{port}", b"{}", {}, b"", 0.0)
    await webhooks.close()
    named = Webhooks(("hooks.example.org",), 5.0, Rebinding)
    await named.send(f"http://hooks.example.org:{port}", b"{}", {}, b"", 0.0)
    await named.close()
    assert len(receiver.got) == 1


# --- commands -----------------------------------------------------------------------------


def script(folder: Path, text: str) -> str:
    path = folder / "tell"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


async def test_a_command_gets_the_notice_and_little_else(
    tmp_path: Path, master: MasterDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHTRAIN_TOKEN_OF_SOMETHING", "secret")
    line = script(tmp_path, 'cat > "$2"; echo; env > "$2.env"\n') + f" 'a b' {tmp_path / 'out'}"
    desk = Desk(tmp_path, master, notify_commands={"mail": line})
    master.submit(told_to(small_sweep(), "end", command="mail"))
    async with desk.running():
        play(master, desk)
        await desk.wait(lambda: desk.notifier.outcomes["delivered"] == 1)
    told = json.loads((tmp_path / "out").read_bytes())
    assert told["id"] == "mix-00000001/end/0"
    environment = (tmp_path / "out.env").read_text()
    assert "MESHTRAIN_NOTICE=mix-00000001/end/0" in environment
    assert "MESHTRAIN_OCCASION=end" in environment
    assert "secret" not in environment


async def test_a_command_that_fails_is_tried_again_and_its_word_is_told(
    tmp_path: Path, master: MasterDouble
) -> None:
    line = script(tmp_path, f"echo x >> {tmp_path}/tries; echo no mail today >&2; exit 3\n")
    desk = Desk(tmp_path, master, notify_commands={"mail": line}, notify_tries_max=2)
    master.submit(told_to(small_sweep(), "end", command="mail"))
    async with desk.running():
        play(master, desk)
        await desk.wait(lambda: desk.notifier.outcomes["given_up"] == 1)
    assert (tmp_path / "tries").read_text() == "x\nx\n"
    assert desk.notes[-1].endswith("by command: exit code 3: no mail today")


async def test_P8_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    with pytest.raises(NotSentError, match=r"it took over 0\.05 s"):
        await run_command("/bin/sleep 600", b"{}", {}, tmp_path, 0.05)
    child = tmp_path / "child"
    text = f"sleep 600 & echo $! > {child}.new; mv {child}.new {child}; sleep 600\n"  # sleeping
    running = asyncio.create_task(run_command(script(tmp_path, text), b"{}", {}, tmp_path, 600.0))
    async with asyncio.timeout(30):
        while not child.exists():
            await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        while _lives(int(child.read_text())):
            await asyncio.sleep(0.005)


async def test_P8_a_command_that_is_given_up_while_it_starts_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child"
    text = f"sleep 600 & echo $! > {child}.new; mv {child}.new {child}; sleep 600\n"  # sleeping
    spawn = asyncio.create_subprocess_exec

    async def told_late(*line: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await spawn(*line, **options)
        while not child.exists():
            await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.sleep(0)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", told_late)
    running = asyncio.create_task(run_command(script(tmp_path, text), b"{}", {}, tmp_path, 600.0))
    async with asyncio.timeout(30):
        await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled()
        while _lives(int(child.read_text())):
            await asyncio.sleep(0.005)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state != b"Z"


async def test_a_command_that_reads_nothing_may_do_its_work(tmp_path: Path) -> None:
    line = script(tmp_path, f"exec < /dev/null; echo done > {tmp_path}/out\n")
    await run_command(line, b"x" * (1 << 20), {}, tmp_path, 30.0)
    assert (tmp_path / "out").read_text() == "done\n"
    with pytest.raises(NeverSentError, match="No such file"):
        await run_command("/nowhere/at/all", b"", {}, tmp_path, 30.0)


# --- refused while somebody can mend it ------------------------------------------------------


@pytest.mark.parametrize(
    ("notify", "expected"),
    [
        (NotifySpec(("end",)), "names nobody"),
        (NotifySpec(("end",), command="mial"), "no command 'mial'; known: mail"),
        (NotifySpec(("end",), webhook="http://hooks.example.org"), "go by https"),
        (NotifySpec(("end",), webhook="https://10.0.0.1/x"), "no public address"),
        (NotifySpec(("end",), webhook="https://a.org/x", secret="none"), "notify.secret"),
        (NotifySpec(("end",), webhook="https://a.org/x", secret="open"), "reached by others"),
        (NotifySpec(("end",), webhook="https://a.org/x", secret="empty"), "is empty"),
        (NotifySpec(("end",), webhook="https://a.org/x", secret="journal.jsonl"), "no secret"),
    ],
)
def test_P11_what_can_never_be_sent_is_refused_at_the_submission(
    tmp_path: Path, notify: NotifySpec, expected: str
) -> None:
    folder = tmp_path / "notify"
    folder.mkdir()
    for name, mode in (("open", 0o644), ("empty", 0o600)):
        (folder / name).write_text("" if name == "empty" else "x")
        (folder / name).chmod(mode)
    settings = MasterSettings(home=tmp_path, notify_commands={"mail": "/bin/true"})
    with pytest.raises(UserError, match=expected):
        demand_sendable(notify, settings, tmp_path)
    demand_sendable(None, settings, tmp_path)
    demand_sendable(NotifySpec(()), settings, tmp_path)
    demand_sendable(NotifySpec(("end",), command="mail"), settings, tmp_path)


def test_p10_a_secret_is_no_path(tmp_path: Path) -> None:
    """A job file names a file below HOME/notify, and can't lead out of it."""
    for secret in ("../keys/sign.key", "/etc/passwd", ".hidden"):
        text = f"command: 'true'\nnotify: {{webhook: 'https://a.org', secret: {secret}}}\n"
        with pytest.raises(JobFileError, match="secret"):
            parse_job_file(text.encode(), "a.yaml")
