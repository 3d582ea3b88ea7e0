"""One run: a mesh under a stream of jobs, hurt for a while, healed, and looked at."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from meshtrain.chaos import checks
from meshtrain.chaos.checks import Ledger
from meshtrain.chaos.faults import Faults, Victim
from meshtrain.chaos.jobs import TOKEN_FILE, Kind, Stream, Submission
from meshtrain.chaos.mesh import MASTER, Mesh
from meshtrain.chaos.verdict import Verdict
from meshtrain.core.job import TERMINAL
from meshtrain.errors import MeshtrainError
from meshtrain.ids import new_id
from meshtrain.net.base import MasterAwayError
from meshtrain.net.zmq_client import MasterClient
from meshtrain.results.folder import cell_folder
from meshtrain.wire import messages as msg

ASK_TIMEOUT_S = 2.0
"""Patience with one answer while the mesh is being hurt."""
CALM_TIMEOUT_S = 15.0
"""Patience with one answer once it is whole again."""
SUBMIT_AGAIN_S = 0.3
WATCH_S = 0.1
PROGRESS_S = 5.0
SETTLE_LOOK_S = 1.0
OPEN_MAX = 300
"""Jobs that are given and have not ended; above, no more are given."""


class Plan(msgspec.Struct, frozen=True):
    """What is to be done."""

    home: Path
    for_s: float = 60.0
    seed: int = 0
    nodes: int = 4
    slots: int = 2
    lease_s: float = 6.0
    jobs_per_s: float = 1.0
    fault_every_s: float = 1.0
    victims: tuple[Victim, ...] = tuple(Victim)
    kinds: tuple[Kind, ...] = (Kind.SHORT,)
    settle_timeout_s: float = 180.0
    mild: bool = False
    """Whether no fault outlasts a lease. Then a job runs again for a killed shim alone."""


class Outcome(msgspec.Struct):
    """What came of a run."""

    plan: Plan
    verdict: Verdict
    faults: Counter[tuple[str, str]]
    submissions: Counter[str]
    """By kind, the acknowledged ones."""
    unsure: int
    """Given, and never acknowledged."""
    counts: Counter[str]
    took_s: float
    settled_s: float
    """How long it took from the healing until all had ended."""


class ChaosRun:
    """Carries out a plan.

    Args:
        say: shows a line to people.
        note: takes a line for the run's own log; each fault, each submission.
    """

    def __init__(self, plan: Plan, say: Callable[[str], None], note: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self._note = note
        self._random = random.Random(f"run {plan.seed}")
        self._verdict = Verdict()
        self._mesh = Mesh(
            plan.home, nodes=plan.nodes, slots=plan.slots, lease_s=plan.lease_s, seed=plan.seed
        )
        self._faults = Faults(
            self._mesh,
            seed=plan.seed,
            victims=plan.victims,
            every_s=plan.fault_every_s,
            mild=plan.mild,
            say=lambda text: note(f"fault: {text}"),
        )
        self._ledger = plan.home / "ledger" / "jobs.ledger"
        self._stream = Stream(plan.seed, self._ledger, plan.kinds)
        #: sweep name → what was given
        self._acknowledged: dict[str, Submission] = {}
        self._unsure: dict[str, Submission] = {}
        self._dropped: dict[str, Submission] = {}
        self._cancels: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(8, "ask")
        self._ended_jobs = 0
        self._calm = False

    async def carry_out(self) -> Outcome:
        """The whole run; whatever happens, nothing of the mesh is left running."""
        begun_s = time.monotonic()
        self._ledger.parent.mkdir(parents=True, exist_ok=True)
        mesh = self._mesh
        try:
            await mesh.start()
            await self._hurt()
            healed_s = time.monotonic()
            self._say("healing: everything is started, let go on and connected again")
            await self._faults.heal()
            await self._settle()
            settled_s = time.monotonic() - healed_s
            counts = await self._in_thread(self._look)
            await self._stop()
            self._look_at_what_is_left()
        finally:
            for task in self._cancels:
                task.cancel()
            await asyncio.gather(*self._cancels, return_exceptions=True)
            await mesh.close()
            self._threads.shutdown(cancel_futures=True)
        submissions = Counter(str(s.kind) for s in self._acknowledged.values())
        return Outcome(
            plan=self._plan,
            verdict=self._verdict,
            faults=self._faults.done,
            submissions=submissions,
            unsure=len(self._unsure),
            counts=counts,
            took_s=time.monotonic() - begun_s,
            settled_s=settled_s,
        )

    # --- hurting -----------------------------------------------------------------------

    async def _hurt(self) -> None:
        """Jobs come, things break, until the time is over."""
        loops = [self._give(), self._watch(), self._tell()]
        if self._plan.victims:
            loops.append(self._faults.run())
        tasks = [asyncio.ensure_future(loop) for loop in loops]
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=self._plan.for_s, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _give(self) -> None:
        givers: set[asyncio.Task[None]] = set()
        try:
            while True:
                await asyncio.sleep(self._random.expovariate(self._plan.jobs_per_s))
                given = sum(s.jobs for s in self._acknowledged.values())
                if given - self._ended_jobs > OPEN_MAX or len(givers) > 20:
                    continue
                submission = self._stream.next()
                if submission.by_inbox:
                    self._drop(submission)
                    continue
                giver = asyncio.ensure_future(self._submit(submission))
                givers.add(giver)
                giver.add_done_callback(givers.discard)
        finally:
            for giver in givers:
                giver.cancel()
            await asyncio.gather(*givers, return_exceptions=True)

    def _drop(self, submission: Submission) -> None:
        hidden = self._mesh.inbox / f".{submission.file_name}.part"
        hidden.write_bytes(submission.data)
        hidden.rename(self._mesh.inbox / submission.file_name)
        self._acknowledged[submission.name] = submission
        self._dropped[submission.name] = submission
        self._note(f"dropped {submission.name}")

    async def _submit(self, submission: Submission) -> None:
        """Give a job file until it is acknowledged; given twice it is the same sweep."""
        self._unsure[submission.name] = submission
        message = msg.Submit(new_id("request"), submission.file_name, submission.data)
        refused = self._verdict.check("answers", "P11: nothing that is right is refused")
        while True:
            try:
                done = await self._in_thread(self._request, message)
                break
            except MasterAwayError:
                await asyncio.sleep(SUBMIT_AGAIN_S)
        if not refused.demand(not done.error, f"{submission.name} was refused: {done.error}"):
            return
        self._acknowledged[submission.name] = self._unsure.pop(submission.name)
        self._note(f"acknowledged {submission.name}")
        if submission.cancel_after_s is not None:
            task = asyncio.ensure_future(self._cancel(submission))
            self._cancels.add(task)
            task.add_done_callback(self._cancels.discard)

    async def _cancel(self, submission: Submission) -> None:
        await asyncio.sleep(submission.cancel_after_s or 0.0)
        refused = self._verdict.check("answers", "P11: nothing that is right is refused")
        while True:
            try:
                message = msg.Cancel(new_id("request"), (submission.name,))
                done = await self._in_thread(self._request, message)
            except MasterAwayError:
                await asyncio.sleep(SUBMIT_AGAIN_S)
                continue
            refused.demand(not done.error, f"{submission.name} can't be cancelled: {done.error}")
            self._note(f"cancelled {submission.name}")
            return

    async def _watch(self) -> None:
        """Who ends without being told to is a bug; it is started again, as by systemd."""
        lives = self._verdict.check("daemons", "no daemon ends by itself")
        while True:
            for daemon in self._mesh.ended_by_themselves():
                code = daemon.process.returncode if daemon.process is not None else None
                lives.demand(
                    False,
                    f"{daemon.name} ended by itself with {code}; its log {daemon.log}:\n"
                    f"{daemon.tail()}",
                )
                self._mesh.launch(daemon.name)
            # Sessions are noted while their processes live.
            self._mesh.processes()
            await asyncio.sleep(WATCH_S * 5)

    async def _tell(self) -> None:
        """Show every few seconds how far it is."""
        begun_s = time.monotonic()
        while True:
            await asyncio.sleep(PROGRESS_S)
            with contextlib.suppress(MeshtrainError):
                await self._in_thread(self._count_ended)
            spent_s = round(time.monotonic() - begun_s)
            given = sum(s.jobs for s in self._acknowledged.values())
            self._say(
                f"{spent_s // 60:3d}:{spent_s % 60:02d}  {given} jobs given, "
                f"{self._ended_jobs} ended, {self._faults.count} faults"
                + (f", the last: {self._faults.last}" if self._faults.last else "")
            )

    def _count_ended(self) -> None:
        sweeps = checks.all_rows(self._ask, "sweeps")
        self._ended_jobs = sum(
            count for row in sweeps for state, count in row["states"].items() if state in TERMINAL
        )

    # --- the end -------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Wait until every job has ended and all that is to come of them has come."""
        self._calm = True
        settled = self._verdict.check("rest", "once whole again, all comes to its end")
        deadline_s = time.monotonic() + self._plan.settle_timeout_s
        watching = asyncio.ensure_future(self._watch())
        waits_for = "an answer"
        try:
            while time.monotonic() < deadline_s:
                try:
                    waits_for = await self._in_thread(self._unfinished)
                except MeshtrainError as error:
                    waits_for = str(error)
                if not waits_for and not self._cancels:
                    break
                await asyncio.sleep(SETTLE_LOOK_S)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        settled.demand(
            not waits_for,
            f"{self._plan.settle_timeout_s:g} s after the healing it still waits for {waits_for}",
        )

    def _unfinished(self) -> str:
        """What the mesh is not done with; empty when it is."""
        away = [row["node_id"] for row in self._ask("nodes") if not row["connected"]]
        if away or len(self._ask("nodes")) < len(self._mesh.nodes):
            return f"the nodes {away or 'that never came'}"
        waiting = [name for name in self._dropped if (self._mesh.inbox / f"{name}.json").exists()]
        if waiting:
            return f"{len(waiting)} files in the inbox: {waiting[0]}"
        open_jobs = [r for r in checks.all_rows(self._ask, "jobs") if r["state"] not in TERMINAL]
        if open_jobs:
            job = open_jobs[0]
            return f"{len(open_jobs)} jobs: {job['name']} is {job['state']}, {job['reason']}"
        thin = [
            row["job"]
            for row in checks.all_rows(self._ask, "bases")
            if row["state"] == "committed" and MASTER not in row["holders"]
        ]
        if thin:
            return f"the copy of {len(thin)} bases: {thin[0]}"
        return self._unwritten()

    def _unwritten(self) -> str:
        results = self._mesh.master_home / "results"
        for row in checks.all_rows(self._ask, "jobs"):
            sweep_name = row["name"].partition("/")[0]
            submission = self._given.get(sweep_name)
            if submission is None or row["sweep_id"] is None:
                continue
            if submission.log is not None:
                for stream, expected in (("log", submission.log), ("metrics", submission.metrics)):
                    stored = self._ask("log", row["job_id"], stream, limit=1)[0]
                    if not stored["ended"] and stored["size_bytes"] < len(expected):
                        return f"the {stream} of {row['name']}: {stored['size_bytes']} bytes"
            if submission.writes_token and row["state"] == "succeeded":
                cell = cell_folder(results, sweep_name, row["name"])
                if not (cell / TOKEN_FILE).exists():
                    return f"the result of {row['name']}"
        return ""

    @property
    def _given(self) -> dict[str, Submission]:
        return {**self._unsure, **self._acknowledged}

    def _look(self) -> Counter[str]:
        """All checks that need the running master."""
        verdict, ask = self._verdict, self._ask
        checks.check_submissions(verdict, ask, self._acknowledged, self._unsure)
        ledger = Ledger(self._ledger)
        counts = checks.check_jobs(verdict, ask, self._given, ledger)
        if self._plan.mild and Victim.SHIM not in self._plan.victims:
            checks.check_adopted(verdict, ask, ledger)
        checks.check_results(verdict, ask, self._given, self._mesh.master_home / "results")
        checks.check_bases(verdict, ask)
        checks.check_inbox(verdict, self._mesh.inbox, self._dropped.values())
        return counts

    async def _stop(self) -> None:
        """End all daemons in good order; the master last, so that all can still be told."""
        ends = self._verdict.check("stops", "a daemon that is asked to end does so")
        for name in (*self._mesh.nodes, MASTER):
            ends.demand(await self._mesh.terminate(name), f"{name} didn't end well when asked to")
        for told in self._faults.bad_ends:
            ends.demand(False, told)
        lives = self._verdict.check("daemons", "no daemon ends by itself")
        lives.looked_at += sum(daemon.lives for daemon in self._mesh.daemons.values())

    def _look_at_what_is_left(self) -> None:
        verdict, mesh = self._verdict, self._mesh
        checks.check_processes(verdict, mesh.processes())
        checks.check_folders(verdict, [self._plan.home / name for name in mesh.daemons])
        checks.check_store(verdict, mesh.master_home / "state", self._plan.lease_s)

    # --- asking ----------------------------------------------------------------------------

    async def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    def _request(self, message: msg.FromPerson) -> msg.Done | msg.Answer:
        timeout_s = CALM_TIMEOUT_S if self._calm else ASK_TIMEOUT_S
        with MasterClient(self._mesh.address, timeout_s) as client:
            return client.request(message)

    def _ask(self, what: str, *names: str, offset: int = 0, limit: int = 1000) -> list[Any]:
        answer = self._request(msg.Query(new_id("query"), what, names, offset, limit))
        if answer.error or not isinstance(answer, msg.Answer):
            raise MeshtrainError(f"the query {what} {' '.join(names)}: {answer.error}")
        return answer.rows


def victims_of(names: Sequence[str]) -> tuple[Victim, ...]:
    """The victims of these names; raises ValueError for one that is none."""
    return tuple(Victim(name) for name in names)
