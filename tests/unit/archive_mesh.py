"""A master's archive over a scheduler with one node, its store in memory, its archive a folder."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from meshtrain.archive.failures import ArchiveAwayError
from meshtrain.archive.folder_target import FolderTarget
from meshtrain.archive.opening import try_out
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import commands as cmd
from meshtrain.core import effects as fx
from meshtrain.core import events as ev
from meshtrain.core.manifest import artifact_id
from meshtrain.core.node import MASTER_NODE_ID, NodeSpec
from meshtrain.core.scheduler import Scheduler
from meshtrain.core.state import SchedulerConfig
from meshtrain.ids import digest
from meshtrain.spec.archive_url import ArchiveWhat
from meshtrain.spec.jobs import BaseSpec, CommandWork, JobSpec, SweepSpec
from meshtrain.store.memory import MemoryStore
from meshtrain_daemon.master.archive_opening import OpenArchive
from meshtrain_daemon.master.archive_restorer import Restorer
from meshtrain_daemon.master.archive_transfers import Transfers
from meshtrain_daemon.master.archivist import Archivist
from meshtrain_daemon.master.logbook import Logbook
from meshtrain_daemon.master.loops import Writer
from meshtrain_daemon.master.plotter import Plotter
from meshtrain_daemon.master.reporter import Reporter
from meshtrain_daemon.master.result_folders import ResultFolders

RECIPE = digest(b"recipe")
MARK = "word"
WAIT_S = 20.0


class Share(FolderTarget):
    """A folder that is away as long as a test wants, or hangs until it lets it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.away = False
        self.refused: set[str] = set()
        self.hangs = threading.Event()
        self.hangs.set()
        self.written: list[str] = []
        self.writing_most = 0
        self._writing = 0
        self._lock = threading.Lock()

    def demand_root(self) -> None:
        self.hangs.wait(WAIT_S)
        if self.away:
            raise ArchiveAwayError("the share is away")
        super().demand_root()

    def write(self, path: str, blocks: Iterable[bytes], size_bytes: int) -> None:
        if any(word in path for word in self.refused):
            raise ArchiveAwayError(f"not {path}")
        with self._lock:
            self._writing += 1
            self.writing_most = max(self.writing_most, self._writing)
        super().write(path, blocks, size_bytes)
        with self._lock:
            self._writing -= 1
            self.written.append(path)


class ArchiveMesh:
    """Jobs that end when the test says so."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "share").mkdir(parents=True)
        self.share = Share(root / "share")
        self.store = MemoryStore()
        self.artifacts = ArtifactStore(root / "artifacts")
        self.notes: list[str] = []
        self.posted: list[ev.Event] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.given: dict[str, cmd.AssignAttempt] = {}
        self.rest: Callable[[int], float] = lambda failures: 0.0
        self.stall_s = WAIT_S
        self.start_master()
        try_out(self.share, MARK, used=False)
        self.store.mark_archive(self.share.url, MARK)
        self.store.commit()
        self.share.written.clear()

    def start_master(self) -> None:
        """All but the archive; what was in memory is gone."""
        self.store = self.store.reopened()
        self.scheduler = Scheduler(SchedulerConfig(), self.store.load(), 0.0)
        self.state = self.scheduler.state
        self.reporter = Reporter(
            folders=ResultFolders(
                results=self.root / "results",
                bases=self.root / "bases",
                state=self.state,
                artifacts=self.artifacts,
                logbook=Logbook(self.root / "logs", ()),
            ),
            plotter=Plotter(self.notes.append),
            state=self.state,
            store=self.store,
            say=self.notes.append,
        )
        self.do(ev.Tick(wall_s=1e9))
        self.do(ev.NodeSaidHello(NodeSpec("n1", "http://n1", cpu_slots=100), "life/0", (), (), 100))

    def archive(self, what: ArchiveWhat = ArchiveWhat.BOTH, at_once: int = 2) -> Archivist:
        """Begin to archive."""
        self.writer = Writer(self.store)
        self.transfers = Transfers(self.stall_s)
        self.archivist = Archivist(
            OpenArchive(self.share, MARK),
            self.transfers,
            what=what,
            at_once=at_once,
            state=self.state,
            artifacts=self.artifacts,
            folders=self.reporter.folders,
            store=self.store,
            writer=self.writer,
            base_done=lambda artifact: self.posted.append(ev.BasesArchived((artifact,))),
            spawn=self.spawn,
            note=self.notes.append,
            rest=self.rest,
        )
        self.restorer = Restorer(
            self.share,
            self.transfers,
            state=self.state,
            artifacts=self.artifacts,
            place_of=self.archivist.base_place,
            held=self.reporter.base_held,
            post=self.posted.append,
            spawn=self.spawn,
            note=self.notes.append,
        )
        self.reporter.on_ended = self.archivist.take
        self.spawn(self.archivist.run())
        return self.archivist

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> object:
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        return task

    async def stop(self) -> None:
        """As a master stops; what nobody expected is raised."""
        for task in self.tasks:
            task.cancel()
        ended = await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        await self.transfers.close()
        self.writer.close()
        for error in ended:
            if error is not None and not isinstance(error, asyncio.CancelledError):
                raise error

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                for task in self.tasks:
                    if task.done() and not task.cancelled() and task.exception():
                        task.result()
                await asyncio.sleep(0.005)

    async def until_done(self, count: int) -> None:
        """Wait until so many things are in the archive, and the store knows it."""
        url = self.share.url

        def known() -> bool:
            states = [str(entry.state) for entry in self.store.archive_entries(url)]
            return states.count("done") == count and len(states) == count

        await self.until(lambda: self.archivist.status()["done"] == count and known())

    # --- what happens in the mesh ---------------------------------------------------------

    def do(self, event: ev.Event) -> list[fx.Effect]:
        effects = self.scheduler.handle(event, 0.0) + self.scheduler.handle(ev.PlaceJobs(), 0.0)
        self.store.save([effect for effect in effects if isinstance(effect, fx.Save)])
        self.store.commit()
        for effect in effects:
            if isinstance(effect, fx.SendCommand) and isinstance(effect.command, cmd.AssignAttempt):
                self.given[effect.command.job_id] = effect.command
            elif isinstance(effect, fx.JobFinished):
                self.reporter.job_ended(effect.job)
        return effects

    def submit(self, sweep_id: str = "s1", jobs: int = 2, *, base: bool = False) -> None:
        recipe_hash = RECIPE if base else None
        specs = tuple(
            JobSpec(
                f"{sweep_id}-{i}", f"study/fold={i}", {"fold": i}, CommandWork("true"), recipe_hash
            )
            for i in range(jobs)
        )
        bases = (BaseSpec(RECIPE, {"lr": 1}, "cnn", CommandWork("train")),) if base else ()
        self.do(ev.SweepSubmitted("r", SweepSpec(sweep_id, "study", specs, bases)))

    def end(self, job_id: str, content: str = "") -> str:
        """A job ends well; its artifact."""
        given = self.given[job_id]
        output = self.root / f"output-{job_id}"
        output.mkdir()
        (output / "metrics.json").write_text(content or job_id)
        artifact = artifact_id(self.artifacts.add_tree(output, move=True))
        self.do(ev.ArtifactHeld(MASTER_NODE_ID, (artifact,)))
        self.do(
            ev.AttemptEnded("n1", given.attempt_id, given.epoch, artifact_id=artifact, size_bytes=2)
        )
        return artifact

    @property
    def base_job(self) -> str:
        return self.state.bases[RECIPE].job_id

    def lies_there(self) -> set[str]:
        """The folders in the archive that are whole."""
        root = self.root / "share"
        return {path.parent.relative_to(root).as_posix() for path in root.rglob("manifest.json")}
