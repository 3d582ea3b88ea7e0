"""The hands of a node: what the agent decides reaches processes, disk and links, in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from worker_records import assignment, made_folder

from meshtrain.artifacts.fetch import FetchReport, Source
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.core.commands import ArtifactNeed, ArtifactSource
from meshtrain.core.inventory import Holding, InventoryChange
from meshtrain.core.job import FailureClass
from meshtrain.core.manifest import artifact_id
from meshtrain.core.node import NodeSpec
from meshtrain.errors import FetchError
from meshtrain.ids import digest
from meshtrain.spec.jobs import CommandWork
from meshtrain.wire import messages as msg
from meshtrain_daemon.worker import outputs
from meshtrain_daemon.worker.adoption import Adopted, Found
from meshtrain_daemon.worker.apply import Hands
from meshtrain_daemon.worker.aside import DiskWork
from meshtrain_daemon.worker.assignment_record import Stage, read_assignment
from meshtrain_daemon.worker.attempt_folder import HostRules
from meshtrain_daemon.worker.attempt_processes import AttemptProcesses
from meshtrain_daemon.worker.gpu_watch import GpuWatch
from meshtrain_daemon.worker.launch import EndCause, Exited, Launch, LaunchFailed, Started
from meshtrain_daemon.worker.preparation import Prepared
from meshtrain_daemon.worker.streams import Streamer

SOURCE = ArtifactSource("n2", "http://n2")
MODEL = digest(b"model")


class Runner:
    """Writes down what it is asked for."""

    def __init__(self) -> None:
        self.launched: list[Launch] = []
        self.ended: list[str] = []
        self.graces: list[float | None] = []
        self.adopted: list[tuple[str, str, Started]] = []

    def launch(self, launches: Sequence[Launch]) -> None:
        self.launched.extend(launches)

    def end(self, attempt_id: str, grace_s: float | None = None) -> None:
        self.ended.append(attempt_id)
        self.graces.append(grace_s)

    def adopt(self, attempt_id: str, folder: str, started: Started) -> None:
        self.adopted.append((attempt_id, folder, started))

    async def close(self) -> None:
        pass


class Node:
    """Hands over fakes of all that lies around them; it is the sockets and the fetcher too."""

    def __init__(self, root: Path) -> None:
        self.attempts = root / "attempts"
        self.attempts.mkdir()
        self.store = ArtifactStore(root / "artifacts")
        self.posted: list[io.AgentEvent] = []
        self.sent: list[list[msg.FromNode]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.fetch_error: Exception | None = None
        self.sources: list[Source] = []
        self.streamer = Streamer(lambda message: True)
        disk = DiskWork()
        self.processes = AttemptProcesses(
            node_id="n1",
            attempts=self.attempts,
            store=self.store,
            streamer=self.streamer,
            gpu_watch=GpuWatch(()),
            gpu_free_wait_s=0.0,
            spare=lambda: None,
            prepared=Prepared(root / "prepared", 1 << 30),
            rules=HostRules(kill_grace_s=5.0),
            warm_training=False,
            disk=disk,
            say=lambda line: None,
            post=self.posted.append,
            spawn=self.spawn,
        )
        self.hands = Hands(
            spec=NodeSpec("n1", "http://n1", cpu_slots=2),
            home=root,
            store=self.store,
            fetcher=self,  # type: ignore[arg-type]
            processes=self.processes,
            use=lambda: None,
            disk=disk,
            say=lambda line: None,
            sockets=self,
            post=self.posted.append,
            spawn=self.spawn,
            on_leave=lambda: self.posted.append(io.StopAsked(0.0)),
        )
        self.runner = self.processes._commands = Runner()  # type: ignore[assignment]

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> object:
        self.tasks.append(asyncio.create_task(coroutine))
        return self.tasks[-1]

    async def settle(self) -> None:
        while self.tasks:
            await self.tasks.pop()

    def send(self, messages: Sequence[msg.FromNode]) -> bool:
        self.sent.append(list(messages))
        return True

    async def fetch(self, artifact_id: str, sources: list[Source]) -> FetchReport:
        self.sources += sources
        if self.fetch_error is not None:
            raise self.fetch_error
        return FetchReport(artifact_id, {"n2": 5}, 1.0, chunks=1, banned=())

    def add_source(self, artifact_id: str, source: Source) -> bool:
        self.sources.append(source)
        return True

    async def run(self, attempt_id: str = "j.1", **fields: Any) -> None:
        self.hands.apply([io.LaunchProcess(assignment(attempt_id, **fields))])
        await self.settle()

    def exit(self, attempt_id: str = "j.1", code: int = 0) -> None:
        self.processes._on_runner_events(
            [Exited(attempt_id, EndCause.FINISHED, code, duration_s=2.0)]
        )


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_an_attempt_is_launched_runs_and_is_stored(node: Node) -> None:
    await node.run()
    (launch,) = node.runner.launched
    assert launch.argv == ("true",) and Path(launch.cwd).is_dir()
    node.processes._on_runner_events([Started("j.1", 1, 2, 3, "boot", 4.0)])
    output = node.attempts / "j.1" / "output"
    (output / "metrics.json").write_text('{"accuracy": 1}')
    node.exit()
    node.hands.apply([io.StoreOutput(assignment())])
    await node.settle()
    started, ended, stored = node.posted
    assert started == io.ProcessStarted("j.1")
    assert ended == io.ProcessEnded("j.1", None, 2.0)
    assert isinstance(stored, io.OutputStored) and stored.metrics == {"accuracy": 1.0}
    node.hands.apply([io.DropAttempt("j.1")])
    assert not (node.attempts / "j.1").exists()
    node.hands.apply([io.DropAttempt("j.1")])


@pytest.mark.parametrize("base", [None, ArtifactNeed(MODEL, (SOURCE,))])
async def test_what_is_launched_and_ended_in_one_breath_does_not_run_on(
    node: Node, base: ArtifactNeed | None
) -> None:
    node.hands.apply([io.LaunchProcess(assignment(base=base)), io.EndProcess("j.1")])
    await node.settle()
    if node.runner.launched:
        assert node.runner.ended == ["j.1"]
    else:
        (ended,) = node.posted
        assert isinstance(ended, io.ProcessEnded) and ended.failure is not None


async def test_a_running_attempt_is_ended_by_its_runner_and_a_gone_one_left_alone(
    node: Node,
) -> None:
    await node.run()
    node.hands.apply([io.EndProcess("j.1"), io.EndProcess("j.9")])
    assert node.runner.ended == ["j.1"]


@pytest.mark.parametrize("attempt_id", ["../x", "..", "a/b", ""])
async def test_an_id_that_is_no_name_touches_nothing(
    node: Node, tmp_path: Path, attempt_id: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    await node.run(attempt_id)
    (ended,) = node.posted
    assert isinstance(ended, io.ProcessEnded) and ended.failure is not None
    assert "is no name" in ended.failure.message
    assert sorted(tmp_path.rglob("*")) == before and not node.runner.launched
    node.hands.apply([io.DropAttempt(attempt_id)])


async def test_a_base_that_is_gone_is_no_fault_of_the_job(node: Node) -> None:
    await node.run(base=ArtifactNeed(MODEL, (SOURCE,)))
    (ended,) = node.posted
    assert isinstance(ended, io.ProcessEnded) and ended.failure is not None
    assert ended.failure.failure_class is FailureClass.NETWORK
    assert not node.runner.launched


async def test_a_disk_that_refuses_the_folder_is_told_as_such(node: Node) -> None:
    node.attempts.rmdir()
    node.attempts.write_text("no folder")
    await node.run()
    (ended,) = node.posted
    assert isinstance(ended, io.ProcessEnded) and ended.failure is not None
    assert ended.failure.failure_class is FailureClass.DISK


async def test_a_command_that_is_no_text_is_the_jobs_fault(node: Node) -> None:
    work = CommandWork("true", env={"A": "x"})
    await node.run(work=work)
    node.processes._on_runner_events([LaunchFailed("j.1", "command not found: true")])
    (ended,) = node.posted
    assert isinstance(ended, io.ProcessEnded) and ended.failure is not None
    assert ended.failure.failure_class is FailureClass.USER_ERROR


async def test_a_job_that_left_nothing_has_no_artifact(node: Node) -> None:
    await node.run()
    node.exit()
    (node.attempts / "j.1" / "output").rmdir()
    node.hands.apply([io.StoreOutput(assignment())])
    assert node.posted[-1] == io.OutputStored("j.1", None)


async def test_fetches_come_back_as_events(node: Node) -> None:
    master = ArtifactSource("master", "http://m")
    there = node.attempts.parent / "there"
    there.mkdir()
    (there / "weights").write_bytes(b"123")
    model = artifact_id(node.store.add_tree(there))
    node.hands.apply([io.FetchArtifact(model, (SOURCE, master))])
    await node.settle()
    assert [(s.node_id, s.last_resort) for s in node.sources] == [("n2", False), ("master", True)]
    node.fetch_error = FetchError("nobody has it")
    node.hands.apply([io.FetchArtifact(MODEL, ()), io.AddFetchSources(MODEL, (SOURCE,))])
    await node.settle()
    fetched, gave_up = node.posted
    assert fetched == io.ArtifactFetched(model, {"n2": 5}, 1.0, size_bytes=3)
    assert isinstance(gave_up, io.FetchGaveUp)
    assert gave_up.failure.failure_class is FailureClass.NETWORK
    # Told to the fetch that is to begin, and to one that may run.
    assert [source.node_id for source in node.sources[2:]] == ["n2", "n2"]


async def test_messages_of_a_batch_travel_together_and_leaving_is_told(node: Node) -> None:
    report = io.Report("j.1", 1, artifact_id=MODEL, metrics={"a": 1.0})
    node.hands.apply(
        [
            io.SendHello("s/0", (), (), 2, True, ""),
            io.SendEnded("s/0", report, 3, 4),
            io.SendHolds("s/0", 1, (InventoryChange(MODEL, Holding.HELD),), {"n2": 5}, 1.0),
            io.SendGoodbye("s/0"),
            io.LeaveMesh(),
        ]
    )
    ((hello, ended, holds, goodbye),) = node.sent
    assert isinstance(hello, msg.Hello) and hello.spec.node_id == "n1"
    assert isinstance(ended, msg.Ended) and (ended.grant, ended.seen_seq) == (3, 4)
    assert isinstance(holds, msg.Holds) and holds.bytes_by_node == {"n2": 5}
    assert goodbye == msg.Goodbye("s/0")
    assert node.posted == [io.StopAsked(0.0)]


# --- what a former daemon left -----------------------------------------------------------------


async def test_p7_what_is_adopted_ends_as_if_it_was_launched_here(node: Node) -> None:
    runs, over = (made_folder(node.attempts, name) for name in ("runs.1", "over.1"))
    (Path(over.output) / "metrics.json").write_text('{"accuracy": 1}')
    Path(over.log).write_text("printed")
    started = Started("runs.1", 1, 2, 3, "boot", 4.0, 5)
    ended = Exited("over.1", EndCause.FINISHED, 0, duration_s=3.0)
    node.processes.adopt(Found([Adopted(runs, started), Adopted(over, started, ended)]))
    assert node.runner.adopted == [("runs.1", runs.path, started)]
    assert node.posted == [io.ProcessEnded("over.1", None, 3.0, {"log": 7})]
    node.hands.apply([io.StoreOutput(over.assignment), io.EndProcess("runs.1", 2.5)])
    await node.settle()
    assert node.runner.ended == ["runs.1"] and node.runner.graces == [2.5]
    stored = node.posted[-1]
    assert isinstance(stored, io.OutputStored) and stored.metrics == {"accuracy": 1.0}
    node.exit("runs.1", 3)
    failed = node.posted[-1]
    assert isinstance(failed, io.ProcessEnded) and failed.failure is not None
    assert failed.failure.exit_code == 3


async def test_p7_an_output_that_a_former_daemon_had_stored_is_told_and_not_stored_as_empty(
    node: Node,
) -> None:
    folder = made_folder(node.attempts)
    (Path(folder.output) / "model").write_text("x")
    stored = outputs.store_output(folder, node.store, "n1")
    assert not Path(folder.output).exists()
    ended = Exited("j.1", EndCause.FINISHED, 0)
    node.processes.adopt(Found([Adopted(folder, None, ended)]))
    node.hands.apply([io.StoreOutput(folder.assignment)])
    await node.settle()
    assert node.posted[-1] == stored


async def test_p6_bytes_of_forgotten_attempts_are_shipped_before_their_folders_go(
    node: Node,
) -> None:
    silent, printed = (made_folder(node.attempts, name) for name in ("silent.1", "printed.1"))
    Path(printed.log).write_text("printed")
    node.processes.adopt(Found([], [silent, printed]))
    assert node.posted == []
    assert not Path(silent.path).exists() and Path(printed.path).exists()
    node.streamer.stored(msg.StreamStored("printed.1", "log", 7))
    assert not Path(printed.path).exists()


async def test_p7_what_the_master_forgot_is_not_adopted_again(node: Node) -> None:
    await node.run()
    (node.attempts / "j.1" / "log").write_text("not shipped yet")
    node.exit()
    node.hands.apply([io.DropAttempt("j.1")])
    record = read_assignment(str(node.attempts / "j.1"))
    assert record == (assignment(), Stage.FORGOTTEN)


# --- checkpoints -------------------------------------------------------------------------------


async def test_a_checkpoint_is_kept_beside_the_event_loop_and_removed_on_word(
    node: Node,
) -> None:
    one = msgspec.structs.replace(assignment(), checkpoint_every_s=60.0)
    node.hands.apply([io.LaunchProcess(one)])
    (node.attempts / "j.1" / "checkpoint" / "step-1").write_text("weights")
    node.hands.apply([io.StoreCheckpoint(one)])
    await node.settle()
    kept = node.posted[-1]
    assert isinstance(kept, io.CheckpointStored) and kept.artifact_id is not None
    assert node.store.ids() == [kept.artifact_id]
    node.hands.apply([io.StoreCheckpoint(one)])
    await node.settle()
    assert node.posted[-1] == io.CheckpointStored("j.1", None)
    node.hands.apply([io.RemoveArtifact(kept.artifact_id), io.RemoveArtifact("no id")])
    await node.settle()
    assert node.store.ids() == []
    node.hands.apply([io.DropAttempt("j.1"), io.StoreCheckpoint(one)])
    assert node.posted[-1] == io.CheckpointStored("j.1", None)


async def test_an_account_that_is_not_allowed_is_the_jobs_error(node: Node) -> None:
    one = msgspec.structs.replace(assignment(), user="no-such-account")
    node.hands.apply([io.LaunchProcess(one)])
    await node.settle()
    (ended,) = node.posted
    assert isinstance(ended, io.ProcessEnded) and ended.failure is not None
    assert ended.failure.failure_class is FailureClass.USER_ERROR
    assert "job_users" in ended.failure.message and not node.runner.launched
