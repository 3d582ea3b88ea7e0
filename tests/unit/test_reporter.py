"""Results are laid out as jobs end: folder, table, records; also after a crash, and never half."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import msgspec
import pytest

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.job import Failure, FailureClass, Job
from meshtrain.core.manifest import artifact_id
from meshtrain.core.node import MASTER_NODE_ID, NodeSpec
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import Loaded, SchedulerConfig
from meshtrain.ids import digest
from meshtrain.spec.jobs import BaseSpec, CommandWork, JobSpec, ResultsSpec, SweepSpec
from meshtrain.store.memory import MemoryStore
from meshtrain.wire.messages import StreamBytes
from meshtrain_daemon.master import reporter as reporter_module
from meshtrain_daemon.master import result_folders
from meshtrain_daemon.master.hidden_values import HIDDEN
from meshtrain_daemon.master.logbook import Logbook
from meshtrain_daemon.master.plotter import Plotter
from meshtrain_daemon.master.reporter import Reporter
from meshtrain_daemon.master.result_folders import ResultFolders

RECIPE = digest(b"recipe")


class Mesh:
    """A scheduler with one node, and a reporter beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = MemoryStore()
        self.scheduler = Scheduler(SchedulerConfig(), Loaded())
        self.state = self.scheduler.state
        self.artifacts = ArtifactStore(root / "artifacts")
        self.logbook = Logbook(root / "logs", ())
        self.said: list[str] = []
        self.new_reporter()
        self.given: dict[str, cmd.AssignAttempt] = {}
        self.do(ev.Tick(wall_s=1e9))
        spec = NodeSpec("n1", "http://n1", cpu_slots=100)
        self.do(ev.NodeSaidHello(spec, "life/0", (), (), grant=100))

    def new_reporter(self) -> None:
        self.plotter = Plotter(self.said.append)
        self.reporter = Reporter(
            folders=ResultFolders(
                results=self.root / "results",
                bases=self.root / "bases",
                state=self.state,
                artifacts=self.artifacts,
                logbook=self.logbook,
            ),
            plotter=self.plotter,
            state=self.state,
            store=self.store,
            say=self.said.append,
        )

    def do(self, event: ev.Event) -> None:
        effects = self.scheduler.handle(event, 0.0) + self.scheduler.handle(ev.PlaceJobs(), 0.0)
        self.store.save([effect for effect in effects if isinstance(effect, fx.Save)])
        self.store.commit()
        for effect in effects:
            if isinstance(effect, fx.SendCommand) and isinstance(effect.command, cmd.AssignAttempt):
                self.given[effect.command.job_id] = effect.command
            elif isinstance(effect, fx.JobFinished):
                self.reporter.job_ended(effect.job)

    def submit(
        self,
        sweep_id: str = "s1",
        jobs: int = 2,
        *,
        name: str = "study",
        work: CommandWork = CommandWork("true"),
    ) -> None:
        specs = tuple(
            JobSpec(f"{sweep_id}-{i}", f"{name}/fold={i}", {"fold": i}, work) for i in range(jobs)
        )
        results = ResultsSpec(metric="accuracy", over=("fold",))
        self.do(ev.SweepSubmitted("r", SweepSpec(sweep_id, name, specs, (), results, "source")))

    def end(self, job_id: str, accuracy: float | None = None, failure: str = "") -> None:
        given = self.given[job_id]
        output = self.root / f"output-{job_id}"
        output.mkdir()
        (output / "metrics.json").write_text(f'{{"accuracy": {accuracy}}}')
        result = artifact_id(self.artifacts.add_tree(output, move=True))
        self.do(ev.ArtifactHeld(MASTER_NODE_ID, (result,)))
        self.do(
            ev.AttemptEnded(
                "n1",
                given.attempt_id,
                given.epoch,
                failure=Failure(FailureClass.USER_ERROR, failure) if failure else None,
                artifact_id=None if failure else result,
                metrics={} if accuracy is None or failure else {"accuracy": accuracy},
            )
        )

    async def lay_out(self) -> None:
        await self.reporter._lay_out_all()
        await self.reporter._merge_all()

    def job(self, job_id: str) -> Job:
        return self.state.jobs[job_id]

    @property
    def folder(self) -> Path:
        return self.root / "results" / "study"


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


async def test_a_job_that_ended_has_its_folder_and_its_place_in_the_table(mesh: Mesh) -> None:
    mesh.submit()
    mesh.end("s1-0", 0.5)
    await mesh.lay_out()
    (cell,) = [path for path in mesh.folder.iterdir() if path.is_dir()]
    assert (cell / "metrics.json").exists()
    told = msgspec.json.decode((cell / "job.json").read_bytes())
    assert (told["job"], told["state"], told["node"]) == ("s1-0", "succeeded", "n1")
    assert msgspec.json.decode((cell / "config.json").read_bytes())["command"] == "true"
    assert (mesh.folder / "sweep.txt").read_text() == "source"
    assert "0.5" in (mesh.folder / "table.csv").read_text()
    mesh.end("s1-1", 0.7)
    await mesh.lay_out()
    assert "0.6" in (mesh.folder / "table.csv").read_text()
    assert mesh.plotter.waiting == ("study",)
    assert mesh.said == []


async def test_values_of_an_environment_are_not_laid_out_for_others_to_read(mesh: Mesh) -> None:
    mesh.submit(jobs=1, work=CommandWork("run", env={"WANDB_API_KEY": "s3cr3t-of-a-service"}))
    mesh.end("s1-0", 0.5)
    await mesh.lay_out()
    (cell,) = [path for path in mesh.folder.iterdir() if path.is_dir()]
    told = msgspec.json.decode((cell / "job.json").read_bytes())
    assert told["work"]["type"] == "command" and told["work"]["command"] == "run"
    assert told["work"]["env"] == {"WANDB_API_KEY": HIDDEN}
    # The same is sent to an archive.
    assert "s3cr3t" not in str(result_folders.describe_job(mesh.job("s1-0")))
    assert all(b"s3cr3t" not in path.read_bytes() for path in cell.rglob("*") if path.is_file())


async def test_a_failed_job_is_a_gap_with_a_reason_and_keeps_its_log(mesh: Mesh) -> None:
    mesh.submit()
    attempt_id = mesh.given["s1-0"].attempt_id
    message = StreamBytes(attempt_id, "s1-0", "log", 0, b"Traceback\n")
    mesh.logbook.counted(mesh.logbook.write([message]))
    mesh.end("s1-0", failure="KeyError: x")
    await mesh.lay_out()
    (cell,) = [path for path in mesh.folder.iterdir() if path.is_dir()]
    assert (cell / "log").read_bytes() == b"Traceback\n"
    assert not (cell / "metrics.json").exists()
    records = (mesh.folder / "phase2_experiments.json").read_text()
    assert "KeyError: x" in records
    assert mesh.said == []


async def test_a_log_that_comes_late_is_laid_beside_the_result(mesh: Mesh) -> None:
    mesh.submit()
    mesh.end("s1-0", 0.5)
    await mesh.lay_out()
    message = StreamBytes(mesh.given["s1-0"].attempt_id, "s1-0", "log", 0, b"late\n")
    mesh.logbook.counted(mesh.logbook.write([message]))
    mesh.reporter.job_ended(mesh.job("s1-0"))
    await mesh.lay_out()
    (cell,) = [path for path in mesh.folder.iterdir() if path.is_dir()]
    assert (cell / "log").read_bytes() == b"late\n"


async def test_two_sweeps_of_one_name_do_not_share_a_folder(mesh: Mesh) -> None:
    mesh.submit("s1")
    mesh.submit("s2")
    first, second = mesh.state.sweeps.values()
    assert mesh.reporter.folders.folder(first) == mesh.folder
    assert mesh.reporter.folders.folder(second) == mesh.root / "results" / "s2"


async def test_a_master_that_was_killed_lays_out_what_it_had_not(mesh: Mesh) -> None:
    mesh.submit()
    mesh.end("s1-0", 0.5)
    mesh.new_reporter()
    mesh.reporter.catch_up()
    await mesh.lay_out()
    assert (mesh.folder / "table.csv").exists()
    assert len([path for path in mesh.folder.iterdir() if path.is_dir()]) == 1


async def test_a_result_that_can_not_be_laid_out_is_told_and_stops_no_other(mesh: Mesh) -> None:
    mesh.submit()
    mesh.end("s1-0", 0.5)
    lost = mesh.job("s1-0").attempt
    assert lost is not None and lost.artifact_id is not None
    mesh.artifacts.remove(lost.artifact_id)
    mesh.end("s1-1", 0.7)
    await mesh.lay_out()
    assert len(mesh.said) == 1 and "study/fold=0 can't be laid out" in mesh.said[0]
    assert "0.6" in (mesh.folder / "table.csv").read_text()


async def test_p1_what_a_full_disk_prevented_is_written_once_there_is_room(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.submit()
    mesh.end("s1-0", 0.5)
    await mesh.lay_out()

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    mesh.end("s1-1", 0.7)
    with monkeypatch.context() as patch:
        patch.setattr(result_folders, "place_result", full)
        patch.setattr(reporter_module, "write_results", full)
        await mesh.lay_out()
        mesh.reporter.try_again()
        await mesh.lay_out()
    # Told once, however often it is tried.
    assert len(mesh.said) == 2 and all("No space left" in line for line in mesh.said)
    assert mesh.plotter.waiting == ()
    mesh.reporter.try_again()
    await mesh.lay_out()
    assert len([path for path in mesh.folder.iterdir() if path.is_dir()]) == 2
    assert "0.6" in (mesh.folder / "table.csv").read_text()
    assert mesh.plotter.waiting == ("study",)


async def test_results_that_somebody_removed_are_written_again(mesh: Mesh) -> None:
    mesh.submit()
    mesh.end("s1-0", 0.5)
    await mesh.lay_out()
    shutil.rmtree(mesh.root / "results")
    mesh.reporter.job_ended(mesh.job("s1-0"))
    await mesh.lay_out()
    assert (mesh.folder / "table.csv").exists() and mesh.said == []


async def test_a_base_is_shown_under_its_recipe_once_the_master_holds_it(mesh: Mesh) -> None:
    base = BaseSpec(RECIPE, {"lr": 1}, "cnn", CommandWork("train"))
    mesh.do(ev.SweepSubmitted("r", SweepSpec("b", "bases", (), (base,))))
    mesh.end(mesh.state.bases[RECIPE].job_id, 0.1)
    await mesh.lay_out()
    folder = mesh.root / "bases" / RECIPE
    assert (folder / "metrics.json").exists()
    shown = msgspec.json.decode((folder / "recipe.json").read_bytes())
    assert (shown["recipe"], shown["trained_on"]) == ({"lr": 1}, "n1")
    assert (mesh.root / "results" / "bases" / "phase1_base_models.json").exists()


async def test_no_process_to_draw_with_is_told_and_the_next_is_tried(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    mesh.submit(jobs=1)
    mesh.end("s1-0", 0.5)
    await mesh.lay_out()
    await mesh.plotter.draw_waiting()
    assert mesh.said == ["no plot of study: no process for it: Resource temporarily unavailable"]


async def test_sweeps_that_come_in_while_folders_are_looked_up_disturb_nothing(mesh: Mesh) -> None:
    for number in range(50):
        mesh.submit(f"s{number}", jobs=1, name=f"study{number}")
    sweep = mesh.state.sweeps["s49"]
    stop = False

    def look_up() -> int:
        looked = 0
        while not stop:
            mesh.reporter.folders.folder(sweep)
            looked += 1
        return looked

    looking = asyncio.create_task(asyncio.to_thread(look_up))
    for number in range(50, 150):
        mesh.submit(f"s{number}", jobs=1, name=f"study{number}")
        await asyncio.sleep(0)
    stop = True
    assert await looking > 0
