"""Real small processes under the runner: how they start, end, and leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from meshtrain_daemon.worker import control, frames, processes
from meshtrain_daemon.worker.command_line import argv_of
from meshtrain_daemon.worker.launch import (
    EndCause,
    Event,
    Exited,
    Launch,
    LaunchError,
    LaunchFailed,
    Started,
    encode_launch,
    read_outcome,
)
from meshtrain_daemon.worker.orphans import sweep_orphans
from meshtrain_daemon.worker.runner import Runner, RunnerError

WAIT_S = 30.0
DAEMON_FOLDER = str(Path(processes.__file__).resolve().parents[2])
PROJECT_FOLDER = str(Path(DAEMON_FOLDER).parent)

WARM_MODULE = """
import os, sys, json
READY = []
def preload():
    READY.append("preloaded")
def run(argument):
    request = json.loads(argument)
    print("argument", request, READY, os.environ.get("COLOUR"), os.getcwd(), flush=True)
    if "raise" in request:
        raise ValueError(request["raise"])
    if "exit" in request:
        sys.exit(request["exit"])
    if "fds" in request:
        print(sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                     if os.path.exists(f"/proc/self/fd/{fd}")))
    if "forever" in request:
        import signal
        print("waiting", flush=True)
        signal.pause()
    return request.get("code", 0)
"""


class Mesh:
    """A runner, the attempts launched on it, and all that it told."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.folder = folder
        # Marks are found on the whole host, where other runs of these tests may be at work.
        self.token = uuid.uuid4().hex[:12]
        self.events: list[Event] = []
        self.runner = Runner(self._hear, **options)  # type: ignore[arg-type]

    def _hear(self, events: list[Event]) -> None:
        self.events.extend(events)

    def id(self, name: str) -> str:
        return f"{name}.{self.token}"

    def marked(self, name: str) -> list[int]:
        return processes.marked(f"{frames.ATTEMPT_VARIABLE}={self.id(name)}".encode())

    def attempt(self, name: str, argv: tuple[str, ...] | str = (), **options: object) -> Launch:
        folder = self.folder / name
        folder.mkdir()
        return Launch(
            attempt_id=self.id(name),
            folder=str(folder),
            log_path=str(options.pop("log_path", folder / "log")),
            cwd=str(options.pop("cwd", folder)),
            argv=("/bin/sh", "-c", argv) if isinstance(argv, str) else argv,
            **options,  # type: ignore[arg-type]
        )

    def launch(self, name: str, argv: tuple[str, ...] | str = (), **options: object) -> Launch:
        launch = self.attempt(name, argv, **options)
        self.runner.launch([launch])
        return launch

    def log(self, name: str) -> bytes:
        path = self.folder / name / "log"
        return path.read_bytes() if path.exists() else b""

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def log_has(self, name: str, text: bytes) -> None:
        await self.until(lambda: text in self.log(name))

    async def outcome(self, name: str) -> Exited | LaunchFailed:
        def outcomes() -> list[Exited | LaunchFailed]:
            return [
                event
                for event in self.events
                if isinstance(event, Exited | LaunchFailed) and event.attempt_id == self.id(name)
            ]

        await self.until(lambda: bool(outcomes()))
        assert len(outcomes()) == 1
        return outcomes()[0]

    async def exited(self, name: str) -> Exited:
        outcome = await self.outcome(name)
        assert isinstance(outcome, Exited), outcome
        return outcome

    async def started(self, name: str) -> Started:
        def starts() -> list[Started]:
            return [
                event
                for event in self.events
                if isinstance(event, Started) and event.attempt_id == self.id(name)
            ]

        await self.until(lambda: bool(starts()))
        return starts()[0]


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    mesh = Mesh(tmp_path)
    await mesh.runner.start()
    yield mesh
    async with asyncio.timeout(WAIT_S):
        await mesh.runner.close()


@pytest.fixture
async def warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "warm_module_of_test.py").write_text(WARM_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    mesh = Mesh(tmp_path, preload="warm_module_of_test")
    await mesh.runner.start()
    yield mesh
    async with asyncio.timeout(WAIT_S):
        await mesh.runner.close()


class TestHowAJobEnds:
    @pytest.mark.parametrize("code", [0, 1, 3, 255])
    async def test_its_exit_code_is_told_and_lies_on_disk(self, mesh: Mesh, code: int) -> None:
        launch = mesh.launch("a", f"exit {code}")
        exited = await mesh.exited("a")
        assert (exited.code, exited.signal, exited.cause) == (code, None, EndCause.FINISHED)
        assert read_outcome(launch.folder, mesh.id("a")) == exited
        assert read_outcome(launch.folder, mesh.id("b")) is None
        assert exited.ended_at_s >= exited.started_at_s > 0
        assert exited.rss_bytes_max > 0

    async def test_a_start_is_told_before_the_end_and_identifies_the_process(
        self, mesh: Mesh
    ) -> None:
        launch = mesh.launch("a", "echo up; read line < /dev/null; exec sleep 1000")
        started = await mesh.started("a")
        assert started.start_ticks == processes.start_ticks(started.pid)
        assert started.boot_id == processes.boot_id()
        recorded = json.loads((Path(launch.folder) / frames.STARTED_FILE).read_bytes())
        assert recorded["pid"] == started.pid
        assert os.getpgid(started.pid) == started.pid
        assert os.getsid(started.pid) == started.shim_pid
        mesh.runner.end(mesh.id("a"))
        await mesh.exited("a")
        assert isinstance(mesh.events[0], Started)

    async def test_a_signal_of_its_own_is_told_as_a_signal(self, mesh: Mesh) -> None:
        mesh.launch("a", "kill -SEGV $$")
        exited = await mesh.exited("a")
        assert (exited.code, exited.signal) == (None, signal.SIGSEGV)
        assert exited.cause is EndCause.FINISHED

    async def test_a_signal_that_was_asked_for_reaches_the_job(self, mesh: Mesh) -> None:
        mesh.launch("a", "trap 'exit 7' USR1; echo up; while :; do sleep 0.01; done")
        await mesh.log_has("a", b"up")
        mesh.runner.signal(mesh.id("a"), signal.SIGUSR1)
        assert (await mesh.exited("a")).code == 7

    async def test_a_timeout_ends_it(self, mesh: Mesh) -> None:
        mesh.launch("a", "exec sleep 1000", timeout_s=0.02)
        exited = await mesh.exited("a")
        assert (exited.cause, exited.signal) == (EndCause.TIMED_OUT, signal.SIGTERM)

    async def test_a_job_that_ends_in_time_is_not_timed_out(self, mesh: Mesh) -> None:
        mesh.launch("a", ("true",), timeout_s=1000)
        assert (await mesh.exited("a")).cause is EndCause.FINISHED

    async def test_after_the_grace_it_is_killed(self, mesh: Mesh) -> None:
        mesh.launch("a", "trap '' TERM; echo up; while :; do sleep 0.01; done", kill_grace_s=0.05)
        await mesh.log_has("a", b"up")
        mesh.runner.end(mesh.id("a"))
        exited = await mesh.exited("a")
        assert (exited.cause, exited.signal) == (EndCause.REQUESTED, signal.SIGKILL)

    async def test_a_later_end_can_cut_the_grace_short(self, mesh: Mesh) -> None:
        mesh.launch("a", "trap '' TERM; echo up; while :; do sleep 0.01; done", kill_grace_s=1000)
        await mesh.log_has("a", b"up")
        mesh.runner.end(mesh.id("a"))
        mesh.runner.end(mesh.id("a"), grace_s=0)
        assert (await mesh.exited("a")).signal == signal.SIGKILL

    async def test_a_job_may_end_well_within_its_grace(self, mesh: Mesh) -> None:
        mesh.launch("a", "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.01; done")
        await mesh.log_has("a", b"up")
        mesh.runner.end(mesh.id("a"))
        exited = await mesh.exited("a")
        assert (exited.cause, exited.code) == (EndCause.REQUESTED, 0)
        assert mesh.log("a").endswith(b"saved\n")

    async def test_a_stopped_job_ends_too(self, mesh: Mesh) -> None:
        mesh.launch("a", "echo up; kill -STOP $$; exit 0")
        pid = (await mesh.started("a")).pid
        await mesh.until(lambda: b") T " in Path(f"/proc/{pid}/stat").read_bytes())
        mesh.runner.end(mesh.id("a"))
        assert (await mesh.exited("a")).signal == signal.SIGTERM

    async def test_to_end_what_is_over_or_unknown_does_nothing(self, mesh: Mesh) -> None:
        mesh.launch("a", ("true",))
        await mesh.exited("a")
        mesh.runner.end(mesh.id("a"))
        mesh.runner.end(mesh.id("never"))
        mesh.launch("b", "exit 4")
        exited = await mesh.exited("b")
        assert (exited.code, exited.cause) == (4, EndCause.FINISHED)


class TestWhatCanNotStart:
    async def test_a_command_that_is_not_there(self, mesh: Mesh) -> None:
        launch = mesh.launch("a", ("no-such-program-here", "x"))
        failed = await mesh.outcome("a")
        assert isinstance(failed, LaunchFailed)
        assert "command not found: no-such-program-here" in failed.reason
        assert read_outcome(launch.folder, mesh.id("a")) == failed

    async def test_a_path_that_is_not_there(self, mesh: Mesh) -> None:
        mesh.launch("a", ("/no/such/program",))
        failed = await mesh.outcome("a")
        assert isinstance(failed, LaunchFailed)
        assert "/no/such/program" in failed.reason

    async def test_a_file_that_is_no_program(self, mesh: Mesh, tmp_path: Path) -> None:
        (tmp_path / "plain").write_text("hello")
        (tmp_path / "plain").chmod(0o644)
        mesh.launch("a", (str(tmp_path / "plain"),))
        mesh.launch("b", ("plain",), env={"PATH": str(tmp_path)})
        for name in "ab":
            failed = await mesh.outcome(name)
            assert isinstance(failed, LaunchFailed)
            assert str(tmp_path / "plain") in failed.reason

    async def test_a_script_with_no_interpreter_runs_in_a_shell(
        self, mesh: Mesh, tmp_path: Path
    ) -> None:
        (tmp_path / "script").write_text('echo "got $1"; exit 5')
        (tmp_path / "script").chmod(0o755)
        mesh.launch("a", (str(tmp_path / "script"), "this"))
        assert (await mesh.exited("a")).code == 5
        assert mesh.log("a") == b"got this\n"

    async def test_a_working_folder_or_log_that_is_not_there(self, mesh: Mesh) -> None:
        mesh.launch("a", ("true",), cwd="/no/such/folder")
        mesh.launch("b", ("true",), log_path="/no/such/folder/log")
        for name, word in (("a", "working folder"), ("b", "log")):
            failed = await mesh.outcome(name)
            assert isinstance(failed, LaunchFailed)
            assert word in failed.reason and "/no/such/folder" in failed.reason

    async def test_strange_names_come_back_as_clean_reasons(self, mesh: Mesh) -> None:
        for number, name in enumerate(['quo"te\\', "new\nline", "été ☃ \U0001f600", "x" * 3000]):
            mesh.launch(f"a{number}", (name,))
            failed = await mesh.outcome(f"a{number}")
            assert isinstance(failed, LaunchFailed)
        mesh.launch("after", ("true",))
        assert (await mesh.exited("after")).code == 0

    @pytest.mark.parametrize(
        "changes",
        [
            {"attempt_id": "with blank"},
            {"attempt_id": ""},
            {"attempt_id": "x" * 129},
            {"cwd": "here"},
            {"log_path": "log"},
            {"argv": ("a\0b",)},
            {"argv": ()},
            {"call": "both"},
            {"argv": ("x" * 200_000,)},
            {"argv": ("\ud800",)},
            {"env": {"A=B": "c"}},
            {"env": {"A": "b\0c"}},
            {"timeout_s": 0},
            {"timeout_s": float("nan")},
            {"kill_grace_s": -1},
        ],
    )
    async def test_a_launch_that_makes_no_sense_fails_alone(
        self, mesh: Mesh, changes: dict[str, object]
    ) -> None:
        good = mesh.attempt("good", ("true",))
        fields = {name: getattr(good, name) for name in good.__struct_fields__}
        bad = Launch(**{**fields, "attempt_id": "bad", **changes})
        with pytest.raises(LaunchError):
            encode_launch(bad)
        mesh.runner.launch([bad, good])
        await mesh.until(lambda: any(isinstance(event, LaunchFailed) for event in mesh.events))
        assert (await mesh.exited("good")).code == 0

    async def test_the_same_attempt_twice_is_refused_whole(self, mesh: Mesh) -> None:
        launch = mesh.launch("a", "exec sleep 1000")
        other = mesh.attempt("b", ("true",))
        with pytest.raises(RunnerError, match=f"attempt {mesh.id('a')} is launched twice"):
            mesh.runner.launch([other, launch])
        assert mesh.runner.running == 1
        mesh.runner.end(mesh.id("a"), grace_s=0)
        await mesh.exited("a")


class TestWhatAJobSees:
    async def test_both_streams_reach_the_log_byte_for_byte(
        self, mesh: Mesh, tmp_path: Path
    ) -> None:
        data = bytes(range(256)) * 1000
        (tmp_path / "data").write_bytes(data)
        mesh.launch("a", f"cat {tmp_path}/data; cat {tmp_path}/data >&2")
        assert (await mesh.exited("a")).code == 0
        assert mesh.log("a") == data + data

    async def test_a_log_is_appended_to(self, mesh: Mesh, tmp_path: Path) -> None:
        log = tmp_path / "log"
        log.write_bytes(b"before\n")
        mesh.launch("a", "echo after", log_path=log)
        await mesh.exited("a")
        assert log.read_bytes() == b"before\nafter\n"

    async def test_its_environment_folder_and_input(self, mesh: Mesh, tmp_path: Path) -> None:
        (tmp_path / "café").mkdir()
        mesh.launch(
            "a",
            'echo "$COLOUR|$MESHTRAIN_ATTEMPT|$(pwd)|$HOME"; cat',
            env={"COLOUR": "grün = green", "HOME": "/nowhere"},
            cwd=tmp_path / "café",
        )
        await mesh.exited("a")
        expected = f"grün = green|{mesh.id('a')}|{tmp_path}/café|/nowhere\n"
        assert mesh.log("a").decode() == expected

    async def test_a_job_inherits_what_the_runner_was_given(self, tmp_path: Path) -> None:
        mesh = Mesh(tmp_path, environment={"PATH": os.environ["PATH"], "GIVEN": "yes"})
        await mesh.runner.start()
        mesh.launch("a", ("env",))
        await mesh.exited("a")
        names = {line.split(b"=")[0] for line in mesh.log("a").splitlines()}
        assert names == {b"PATH", b"GIVEN", b"MESHTRAIN_ATTEMPT"} | (names & {b"LC_CTYPE"})
        await mesh.runner.close()

    async def test_its_mark_tells_it_from_another_nodes_attempt(self, tmp_path: Path) -> None:
        mesh = Mesh(tmp_path, mark_prefix="node-1/")
        await mesh.runner.start()
        mesh.launch("a", ("printenv", "MESHTRAIN_ATTEMPT"))
        await mesh.exited("a")
        mark = mesh.runner.mark_of(mesh.id("a"))
        assert mark == f"node-1/{mesh.id('a')}"
        assert mesh.log("a").decode() == f"{mark}\n"
        await mesh.runner.close()
        with pytest.raises(RunnerError, match="too long"):
            Mesh(tmp_path, mark_prefix="x" * 200)

    async def test_it_gets_no_descriptor_of_ours(self, mesh: Mesh) -> None:
        mesh.launch("first", ("true",))
        await mesh.exited("first")
        mesh.launch("a", ("ls", "-l", "/proc/self/fd"))
        await mesh.exited("a")
        targets = [line.split(b" -> ")[1] for line in mesh.log("a").splitlines() if b"->" in line]
        log = os.fsencode(mesh.folder / "a" / "log")
        assert targets[:3] == [b"/dev/null", log, log]
        assert len(targets) == 4 and targets[3].startswith(b"/proc/")

    async def test_no_signal_is_blocked_or_ignored(self, mesh: Mesh) -> None:
        mesh.launch("a", ("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"))
        await mesh.exited("a")
        # posix_spawn of glibc ignores 32 and 33, which it keeps for itself.
        own_of_libc = 0b11 << 31
        masks = [int(line.split()[1], 16) for line in mesh.log("a").splitlines()]
        assert [mask & ~own_of_libc for mask in masks] == [0, 0]


class TestNothingIsLeft:
    @pytest.mark.parametrize(
        "child",
        [
            "trap '' TERM; echo up; while :; do sleep 0.05; done",
            "setsid sh -c 'trap \"\" TERM; echo up; while :; do sleep 0.05; done' &",
            "(setsid sh -c 'echo up; exec sleep 1000' &) &",
        ],
        ids=["ignores SIGTERM", "own session", "double fork"],
    )
    async def test_when_it_is_ended_its_children_are_gone(self, mesh: Mesh, child: str) -> None:
        mesh.launch("a", f"({child}) & exec sleep 1000", kill_grace_s=0.1)
        await mesh.log_has("a", b"up")
        mesh.runner.end(mesh.id("a"))
        exited = await mesh.exited("a")
        assert exited.cause is EndCause.REQUESTED
        assert mesh.marked("a") == []

    async def test_what_it_left_behind_is_ended_before_its_end_is_told(self, mesh: Mesh) -> None:
        mesh.launch(
            "a",
            "(setsid sh -c 'trap \"\" TERM; echo up; while :; do sleep 0.05; done' &) ;"
            " while ! grep -q up log; do sleep 0.01; done; exit 3",
            kill_grace_s=0.1,
        )
        exited = await mesh.exited("a")
        assert (exited.code, exited.cause) == (3, EndCause.FINISHED)
        assert exited.leftovers_ended >= 1
        assert mesh.marked("a") == []

    async def test_no_zombies(self, mesh: Mesh) -> None:
        mesh.runner.launch([mesh.attempt(f"a{n}", "(true &) ; exit 0") for n in range(20)])
        for number in range(20):
            await mesh.exited(f"a{number}")
        assert mesh.runner.spawner_pid is not None
        spawner = mesh.runner.spawner_pid

        def zombies() -> list[str]:
            listing = subprocess.run(
                ["ps", "-e", "-o", "ppid=,stat=,pid=,comm="],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.splitlines()
            below = {spawner, *processes.descendants(spawner)}
            return [
                row
                for row in listing
                if int(row.split()[0]) in below and row.split()[1].startswith("Z")
            ]

        assert zombies() == []

    async def test_sweep_finds_a_daemonised_child_by_its_mark(self, tmp_path: Path) -> None:
        ready = tmp_path / "ready"
        code = (
            "import os, signal, sys, time\n"
            "if os.fork(): os._exit(0)\n"
            "os.setsid()\n"
            "if os.fork(): os._exit(0)\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            f"open({str(ready)!r}, 'w').write(str(os.getpid()))\n"
            "signal.pause()\n"
        )
        mark = f"sweep-{uuid.uuid4().hex}"
        environment = {**os.environ, frames.ATTEMPT_VARIABLE: mark}
        subprocess.run([sys.executable, "-S", "-c", code], env=environment, check=True)
        async with asyncio.timeout(WAIT_S):
            while not (ready.exists() and ready.read_text()):
                await asyncio.sleep(0.005)
        pid = int(ready.read_text())
        assert sweep_orphans(mark + "0") == []
        assert pid in await asyncio.to_thread(sweep_orphans, mark, 0.05)
        assert processes.marked(f"{frames.ATTEMPT_VARIABLE}={mark}".encode()) == []


class TestMany:
    async def test_each_of_a_batch_is_told_exactly_once(self, mesh: Mesh) -> None:
        launches = [mesh.attempt(f"a{n}", ("sh", "-c", f"exit {n % 250}")) for n in range(200)]
        mesh.runner.launch(launches)
        await mesh.until(lambda: mesh.runner.running == 0)
        exits = [event for event in mesh.events if isinstance(event, Exited)]
        assert sorted((e.attempt_id, e.code) for e in exits) == sorted(
            (mesh.id(f"a{n}"), n % 250) for n in range(200)
        )
        assert len({e.attempt_id for e in mesh.events if isinstance(e, Started)}) == 200
        assert len(mesh.events) == 400

    async def test_a_batch_that_overflows_the_socket(self, mesh: Mesh) -> None:
        launches = [
            mesh.attempt(f"a{n}", ("true",), env={"BULK": "x" * 100_000}) for n in range(20)
        ]
        mesh.runner.launch(launches)
        for number in range(20):
            assert (await mesh.exited(f"a{number}")).code == 0

    async def test_the_longest_launch_gets_through(self, mesh: Mesh) -> None:
        launch = mesh.attempt("a", "echo ${#BULK}", env={"BULK": ""})
        room = frames.MESSAGE_BYTES_MAX - len(encode_launch(launch))
        longest = msgspec.structs.replace(launch, env={"BULK": "x" * room})
        with pytest.raises(LaunchError, match="limit"):
            encode_launch(msgspec.structs.replace(launch, env={"BULK": "x" * (room + 1)}))
        mesh.runner.launch([longest])
        assert (await mesh.exited("a")).code == 0
        assert int(mesh.log("a")) == room

    async def test_shims_serve_again(self, mesh: Mesh) -> None:
        shims = set()
        for number in range(20):
            mesh.launch(f"a{number}", ("true",))
            shims.add((await mesh.started(f"a{number}")).shim_pid)
            await mesh.exited(f"a{number}")
            # The shim says that it is idle just after it told the exit.
        assert len(shims) < 20


class TestLosses:
    async def test_p7_jobs_outlive_their_spawner_and_it_is_replaced(self, mesh: Mesh) -> None:
        mesh.launch("a", "echo up; while [ ! -e done ]; do sleep 0.01; done; exit 9")
        mesh.launch("ended", "trap 'exit 8' TERM; echo up; while :; do sleep 0.01; done")
        for name in ("a", "ended"):
            await mesh.log_has(name, b"up")
        killed = mesh.runner.spawner_pid
        assert killed is not None
        pid = (await mesh.started("a")).pid
        os.kill(killed, signal.SIGKILL)
        await mesh.until(lambda: mesh.runner.spawner_pid not in (None, killed))
        mesh.launch("b", "exit 2")
        assert (await mesh.exited("b")).code == 2
        mesh.runner.end(mesh.id("ended"))
        exited = await mesh.exited("ended")
        assert (exited.cause, exited.code) == (EndCause.REQUESTED, 8)
        # Beside it there may be the sleep that it just waits for.
        assert pid in mesh.marked("a")
        (mesh.folder / "a" / "done").touch()
        exited = await mesh.exited("a")
        assert (exited.cause, exited.code) == (EndCause.FINISHED, 9)
        assert mesh.marked("a") == []

    @pytest.mark.parametrize("grace_s", [None, 0.0, 0.05])
    async def test_p8_without_its_spawner_a_tree_ends_with_the_grace_it_is_given(
        self, mesh: Mesh, grace_s: float | None
    ) -> None:
        stubborn = "trap '' TERM; echo up; while :; do sleep 0.01; done"
        mesh.launch(
            "a",
            f'(setsid sh -c "{stubborn}" &) ; while ! grep -q up log; do sleep 0.01; done;'
            f" {stubborn}",
            kill_grace_s=0.05 if grace_s is None else 1000,
        )
        await mesh.log_has("a", b"up\nup")
        assert mesh.runner.spawner_pid is not None
        os.kill(mesh.runner.spawner_pid, signal.SIGKILL)
        mesh.runner.end(mesh.id("a"), grace_s)
        exited = await mesh.exited("a")
        assert (exited.cause, exited.signal) == (EndCause.REQUESTED, signal.SIGKILL)
        assert mesh.marked("a") == []

    async def test_p7_without_its_spawner_a_killed_shim_is_told_as_lost(self, mesh: Mesh) -> None:
        mesh.launch("a", "(setsid sleep 1000 &) ; echo up; exec sleep 1000")
        await mesh.log_has("a", b"up")
        shim = (await mesh.started("a")).shim_pid
        assert mesh.runner.spawner_pid is not None
        os.kill(mesh.runner.spawner_pid, signal.SIGKILL)
        os.kill(shim, signal.SIGKILL)
        assert (await mesh.exited("a")).lost
        assert mesh.marked("a") == []

    async def test_without_its_spawner_a_job_still_gets_signals(self, mesh: Mesh) -> None:
        mesh.launch("a", "trap 'exit 7' USR1; echo up; while :; do sleep 0.01; done")
        await mesh.log_has("a", b"up")
        killed = mesh.runner.spawner_pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        await mesh.until(lambda: mesh.runner.spawner_pid not in (None, killed))
        mesh.runner.signal(mesh.id("a"), signal.SIGUSR1)
        assert (await mesh.exited("a")).code == 7

    async def test_launches_to_a_spawner_that_is_gone_are_settled(self, mesh: Mesh) -> None:
        assert mesh.runner.spawner_pid is not None
        os.kill(mesh.runner.spawner_pid, signal.SIGKILL)
        mesh.launch("a", ("true",))
        failed = await mesh.outcome("a")
        assert isinstance(failed, LaunchFailed) and failed.reason.startswith("the spawner ")
        assert mesh.log("a") == b""

    async def test_a_launch_that_a_dead_spawner_lost_is_told_while_its_other_jobs_go_on(
        self, mesh: Mesh
    ) -> None:
        mesh.launch("a", "echo up; exec sleep 1000")
        await mesh.log_has("a", b"up")
        assert mesh.runner.spawner_pid is not None
        os.kill(mesh.runner.spawner_pid, signal.SIGKILL)
        launch = mesh.launch("b", ("true",))
        failed = await mesh.outcome("b")
        assert isinstance(failed, LaunchFailed) and failed.reason.startswith("the spawner ")
        assert not Path(launch.folder).exists()
        assert mesh.marked("a") != []

    async def test_a_late_shim_can_not_start_what_was_given_up(self, mesh: Mesh) -> None:
        launch = mesh.launch("a", "echo up > ../ran; exec sleep 1000", cwd="/")
        Path(launch.folder).rename(mesh.folder / "moved")
        failed = await mesh.outcome("a")
        assert isinstance(failed, LaunchFailed)
        assert mesh.marked("a") == []

    async def test_a_killed_shim_is_told_as_lost_and_its_job_is_ended(self, mesh: Mesh) -> None:
        mesh.launch("other", "echo up; exec sleep 1000")
        mesh.launch("a", "(setsid sleep 1000 &) ; echo up; exec sleep 1000")
        await mesh.log_has("a", b"up")
        os.kill((await mesh.started("a")).shim_pid, signal.SIGKILL)
        exited = await mesh.exited("a")
        assert exited.lost and exited.code is None and exited.signal is None
        assert mesh.marked("a") == []
        assert mesh.marked("other") != []
        mesh.launch("b", "exit 2")
        assert (await mesh.exited("b")).code == 2

    async def test_of_a_killed_shim_the_record_on_disk_is_the_truth(self, mesh: Mesh) -> None:
        launch = mesh.launch("a", "echo up; exec sleep 1000")
        await mesh.log_has("a", b"up")
        truth = Exited(launch.attempt_id, EndCause.FINISHED, code=6)
        (Path(launch.folder) / frames.EXIT_FILE).write_bytes(msgspec.json.encode(truth))
        os.kill((await mesh.started("a")).shim_pid, signal.SIGKILL)
        exited = await mesh.exited("a")
        assert (exited.code, exited.lost) == (6, False)

    async def test_shims_do_not_heed_what_a_service_manager_sends(self, mesh: Mesh) -> None:
        mesh.launch("a", "echo up; while [ ! -e done ]; do sleep 0.01; done; exit 4")
        await mesh.log_has("a", b"up")
        started = await mesh.started("a")
        assert mesh.runner.spawner_pid is not None
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            os.kill(started.shim_pid, number)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            os.kill(mesh.runner.spawner_pid, number)
        (mesh.folder / "a" / "done").touch()
        exited = await mesh.exited("a")
        assert (exited.code, exited.cause) == (4, EndCause.FINISHED)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
    async def test_a_person_can_have_a_shim_end_its_job(self, mesh: Mesh, number: int) -> None:
        mesh.launch("a", "trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done")
        await mesh.log_has("a", b"up")
        os.kill((await mesh.started("a")).shim_pid, number)
        exited = await mesh.exited("a")
        assert exited.cause is EndCause.REQUESTED
        assert exited.code == (3 if number == signal.SIGTERM else None)
        # What came for one job is not kept for the next one.
        mesh.launch("b", "exit 4")
        assert (await mesh.exited("b")).cause is EndCause.FINISHED

    async def test_a_job_that_kills_its_parent_ends_by_itself(self, mesh: Mesh) -> None:
        mesh.launch("a", "kill -TERM $PPID; kill -USR1 $PPID; (kill -TERM $PPID &); exit 5")
        exited = await mesh.exited("a")
        assert (exited.cause, exited.code) == (EndCause.FINISHED, 5)

    def test_who_has_ended_and_is_not_waited_for_is_still_of_the_job(self) -> None:
        """What sent a signal may be a zombie by the time that it is read."""
        ended = subprocess.Popen(["true"])
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert ended.pid not in processes.descendants(os.getpid())
        assert processes.was_below(ended.pid, os.getpid())
        ended.wait()
        assert processes.was_below(ended.pid, os.getpid()), "gone: it can't be asked"
        assert not processes.was_below(os.getppid(), os.getpid())
        assert not processes.was_below(1, os.getpid())

    async def test_close_ends_what_runs(self, tmp_path: Path) -> None:
        mesh = Mesh(tmp_path)
        await mesh.runner.start()
        spawner = mesh.runner.spawner_pid
        mesh.launch("a", "echo up; exec sleep 1000")
        await mesh.log_has("a", b"up")
        async with asyncio.timeout(WAIT_S):
            await mesh.runner.close()
        assert (await mesh.exited("a")).cause is EndCause.REQUESTED
        assert not os.path.exists(f"/proc/{spawner}")
        with pytest.raises(RunnerError, match="closed"):
            mesh.runner.launch([])


class TestWarm:
    async def test_it_calls_run_in_a_forked_process(self, warm: Mesh) -> None:
        warm.launch("a", call='{"code": 5}', env={"COLOUR": "red"})
        exited = await warm.exited("a")
        assert (exited.code, exited.cause) == (5, EndCause.FINISHED)
        log = warm.log("a").decode()
        assert "preloaded" in log and "red" in log and str(warm.folder / "a") in log

    async def test_an_exception_is_in_the_log(self, warm: Mesh) -> None:
        warm.launch("a", call='{"raise": "broken thing"}')
        assert (await warm.exited("a")).code == 1
        assert b"ValueError: broken thing" in warm.log("a")

    @pytest.mark.parametrize(("asked", "code"), [("3", 3), ("null", 0), ('"message"', 1)])
    async def test_sys_exit_means_what_it_says(self, warm: Mesh, asked: str, code: int) -> None:
        warm.launch("a", call=json.dumps({"exit": json.loads(asked)}))
        assert (await warm.exited("a")).code == code

    async def test_it_keeps_no_descriptor_of_ours(self, warm: Mesh) -> None:
        warm.launch("a", call='{"fds": 1}')
        await warm.exited("a")
        log = str(warm.folder / "a" / "log")
        assert repr(sorted(["/dev/null", log, log])) in warm.log("a").decode()

    async def test_it_carries_the_mark_and_can_be_ended(self, warm: Mesh) -> None:
        warm.launch("a", call='{"forever": 1}')
        await warm.log_has("a", b"waiting")
        assert warm.marked("a") == [(await warm.started("a")).pid]
        warm.runner.end(warm.id("a"))
        exited = await warm.exited("a")
        assert (exited.cause, exited.signal) == (EndCause.REQUESTED, signal.SIGTERM)

    async def test_it_runs_commands_too(self, warm: Mesh) -> None:
        warm.launch("a", "exit 3")
        assert (await warm.exited("a")).code == 3

    async def test_a_call_needs_a_preloaded_module(self, mesh: Mesh) -> None:
        mesh.launch("a", call="{}")
        failed = await mesh.outcome("a")
        assert isinstance(failed, LaunchFailed) and "preloaded" in failed.reason

    @pytest.mark.parametrize(
        ("module", "reason"),
        [
            ("raise OSError('no data')", "no data"),
            (
                "import threading\n"
                "def preload(): threading.Thread(target=threading.Event().wait).start()\n"
                "def run(argument): return 0",
                "1 threads running",
            ),
        ],
        ids=["fails", "starts a thread"],
    )
    async def test_a_module_that_is_not_fit_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, reason: str
    ) -> None:
        (tmp_path / "unfit_module_of_test.py").write_text(module)
        monkeypatch.syspath_prepend(str(tmp_path))
        mesh = Mesh(tmp_path, preload="unfit_module_of_test")
        with pytest.raises(RunnerError, match=reason):
            await mesh.runner.start()
        async with asyncio.timeout(WAIT_S):
            await mesh.runner.close()


class TestSmallPrograms:
    def test_the_spawner_imports_little(self) -> None:
        code = (
            "import sys; before = set(sys.modules)\n"
            f"sys.path += {[DAEMON_FOLDER, PROJECT_FOLDER]!r}\n"
            "import meshtrain_daemon.worker.spawner\n"
            "print(*sorted(set(sys.modules) - before))"
        )
        result = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
        )
        heavy = {"json", "re", "socket", "typing", "asyncio", "subprocess", "logging", "msgspec"}
        assert heavy.isdisjoint(result.stdout.split())

    def test_words_of_the_small_programs_are_those_of_the_daemon(self) -> None:
        causes = {
            frames.CAUSE_FINISHED,
            frames.CAUSE_TIMED_OUT,
            frames.CAUSE_REQUESTED,
        }
        assert {cause.decode() for cause in causes} == set(EndCause) - {EndCause.LOST}

    def test_the_longest_reason_fits_one_write(self) -> None:
        line = frames.launch_failed_line(b"x" * frames.ATTEMPT_ID_LEN_MAX, "\x01" * 10_000)
        assert len(line) <= frames.EVENT_BYTES_MAX
        assert len(json.loads(line)["reason"]) == frames.REASON_CHARS_MAX

    def test_frames_come_apart_as_they_were_put_together(self) -> None:
        messages = [b"\x01abc", b"\x02", b"\x03" + b"x" * 1000]
        stream = b"".join(map(frames.frame, messages))
        for cut in range(len(stream)):
            first, rest = frames.take_messages(stream[:cut])
            second, empty = frames.take_messages(rest + stream[cut:])
            assert first + second == messages and empty == b""
        with pytest.raises(ValueError, match="limit"):
            frames.take_messages(b"\xff\xff\xff\xff")


class TestSignalsOfAShim:
    def record(self, kind: int, code: int, sender: int, number: int) -> bytes:
        head = struct.pack("<iiiii", kind, 0, code, sender, 0)
        return (head.ljust(44, b"\0") + struct.pack("<i", number)).ljust(128, b"\0")

    def test_each_comes_to_the_order_that_it_stands_for(self) -> None:
        def of(grace: bytes) -> bytes:
            return b"%c\0%b\0requested" % (frames.END, grace)

        queued = control.SI_QUEUE
        records = [
            self.record(signal.SIGCHLD, 1, 5, 0),
            self.record(control.END, 0, 7, 0),
            self.record(control.END_AT_ONCE, 0, 7, 0),
            self.record(control.END_WITHIN, queued, 7, 2500),
            self.record(control.END_WITHIN, queued, 7, control.GRACE_OF_LAUNCH),
            self.record(control.END_WITHIN, queued, 7, -5),
            self.record(control.PASS_ON, queued, 7, signal.SIGUSR2),
        ]
        orders = control.orders_of(b"".join(records), lambda pid: False)
        assert orders == [
            *(of(b""), of(b"0.0"), of(b"2.5"), of(b""), of(b"0.0")),
            b"%c\0%d" % (frames.SIGNAL, signal.SIGUSR2),
        ]
        from_job = control.orders_of(b"".join(records), lambda pid: pid == 7)
        assert from_job == [of(b"2.5"), of(b""), of(b"0.0"), orders[-1]]
        assert control.orders_of(records[1][:100], lambda pid: False) == []


class TestCommandLine:
    @pytest.mark.parametrize(
        ("line", "argv"),
        [
            ("/bin/true", ("/bin/true",)),
            ("python  train.py\t--lr=0.1 ", ("python", "train.py", "--lr=0.1")),
            ("nice -n 5 python -m pkg.mod a,b:c@d+e%f", None),
        ],
    )
    def test_plain_words_need_no_shell(self, line: str, argv: tuple[str, ...] | None) -> None:
        assert argv_of(line) == (argv or tuple(line.split()))

    @pytest.mark.parametrize(
        "line",
        [
            "",
            "a | b",
            "a && b",
            "a > b",
            "echo x",
            "cd /data",
            "A=1 python x.py",
            "python $X",
            "python 'a b'",
            'python "a"',
            "ls *.py",
            "ls ~/x",
            "a # b",
            "a\nb",
            "exec python x.py",
            "a {b,c}",
            "if true",
            "a\\ b",
        ],
    )
    def test_shell_syntax_gets_a_shell(self, line: str) -> None:
        assert argv_of(line) == ("/bin/sh", "-c", line)


def is_zombie(pid: int) -> bool:
    try:
        return b") Z " in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True
