"""Tells people how sweeps went, by a command or a webhook, beside everything else.

    JobFinished ─► due? ─► written down ─► tried ─► delivered, or tried later ─► given up

The queue is bounded, a few are sent at a time, each has its time, and what
fails is tried again after a longer and longer while. Nothing here is waited
for by the loop of decisions. A notification is delivered at least once over
any restart; its id tells who gets it twice.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, ParamSpec, TypeVar

import msgspec

from meshtrain.clock import lease_now_s, wall_now_s
from meshtrain.core import effects as fx
from meshtrain.core import notices
from meshtrain.core.job import Job, JobState, Sweep
from meshtrain.core.notices import Notice
from meshtrain.core.state import MeshState
from meshtrain.errors import SettingsError, UserError
from meshtrain.security.private_file import read_private
from meshtrain.spec.notify_kinds import NotifySpec, Occasion
from meshtrain.spec.notify_settings import NotifySettings
from meshtrain_daemon.master.notice_command import run_command
from meshtrain_daemon.master.notice_journal import (
    JOURNAL_FILE,
    NoticeJournal,
    Sending,
    Standing,
    Way,
)
from meshtrain_daemon.master.webhook import NeverSentError, NotSentError, Webhooks, problem_of

FOLDER: Final = "notify"
QUEUE_MAX: Final = 1000
AT_ONCE_MAX: Final = 4
RETRY_AFTER_S: Final = (2.0, 15.0, 60.0, 300.0, 900.0)
"""How long to wait after the first, second, … try that failed; after more, as after the last."""
SECRET_BYTES_MAX: Final = 4096
JOURNAL_AGAIN_S: Final = 5.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Due(NamedTuple):
    at_s: float
    number: int
    sending: Sending
    tries: int


def spec_of(wanted: NotifySpec | None, settings: NotifySettings) -> NotifySpec:
    """Who is told of a sweep: what it says, over what the settings say."""
    default = NotifySpec(
        settings.notify_on,
        settings.notify_command,
        settings.notify_webhook,
        settings.notify_secret,
    )
    if wanted is None:
        return default
    if wanted.command is None and wanted.webhook is None:
        return msgspec.structs.replace(default, on=wanted.on)
    return wanted


def demand_sendable(wanted: NotifySpec | None, settings: NotifySettings, home: Path) -> None:
    """Refuses what could never be sent, while somebody is there who can mend it.

    Raises UserError that says what is wrong with `notify`.
    """
    if wanted is None or not wanted.on:
        return
    spec = spec_of(wanted, settings)
    if spec.command is None and spec.webhook is None:
        raise UserError(
            "notify names nobody, and neither do the master's settings: write command or webhook"
        )
    if spec.command is not None and spec.command not in settings.notify_commands:
        known = ", ".join(sorted(settings.notify_commands)) or "none"
        raise UserError(
            f"notify.command: the master's settings have no command '{spec.command}'; known: "
            f"{known}. Commands are written there (notify_commands), never in a job file"
        )
    if spec.webhook is not None and (problem := problem_of(spec.webhook, settings.notify_hosts)):
        raise UserError(f"notify.webhook: {problem}")
    if spec.secret is not None:
        try:
            _secret(home, spec.secret)
        except (OSError, SettingsError) as error:
            raise UserError(f"notify.secret: {error}") from error


class Notifier:
    """Sends what is due.

    Args:
        settings: the master's.
        home: its home; the journal and secrets lie below it.
        state: the scheduler's, only read.
        results_folder: tells where a sweep's results lie.
        note: shows a line to everybody who looks.
        webhooks: not given, real ones.
        retry_after_s: the waits between tries, in seconds.
        queue_max: how many may be waiting.
    """

    def __init__(
        self,
        settings: NotifySettings,
        home: Path,
        state: MeshState,
        *,
        results_folder: Callable[[Sweep], str],
        note: Callable[[str], None],
        webhooks: Webhooks | None = None,
        retry_after_s: tuple[float, ...] = RETRY_AFTER_S,
        queue_max: int = QUEUE_MAX,
    ) -> None:
        self._settings = settings
        self._home = home
        self._state = state
        self._results_folder = results_folder
        self._note = note
        self._webhooks = webhooks or Webhooks(settings.notify_hosts, settings.notify_timeout_s)
        self._retry_after_s = retry_after_s
        self._queue_max = queue_max
        self.outcomes: Counter[str] = Counter()
        """How notifications ended: delivered, given_up, dropped."""
        self._thread = ThreadPoolExecutor(1, "notify")
        self._journal: NoticeJournal | None = None
        self._told: set[str] = set()
        #: what is not written down yet
        self._new: deque[Sending] = deque()
        self._due: list[_Due] = []
        self._sending = 0
        self._number = 0
        self._wake = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many are still to be sent."""
        return sum(one.way is not Way.NOBODY for one in self._new) + len(self._due) + self._sending

    def take(self, finished: fx.JobFinished) -> None:
        """A job came to its end, and that is on the disk; never waits."""
        job = finished.job
        for sweep in notices.sweeps_of(self._state, job):
            if job.state is JobState.FAILED:
                self._first_failure(sweep, job)
            if notices.has_ended(self._state, sweep):
                self._end(sweep)

    async def run(self) -> None:
        """Send for ever."""
        await self._take_up()
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                written = await self._write_down()
                now_s = lease_now_s()
                while self._due and self._due[0].at_s <= now_s and self._sending < AT_ONCE_MAX:
                    self._sending += 1
                    tasks.create_task(self._try(heapq.heappop(self._due)))
                wait_s = None
                if self._due and self._sending < AT_ONCE_MAX:
                    wait_s = max(0.0, self._due[0].at_s - now_s)
                if not written:
                    wait_s = min(wait_s or JOURNAL_AGAIN_S, JOURNAL_AGAIN_S)
                try:
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def close(self) -> None:
        """Send no more; what waits is sent by the next master."""
        await self._webhooks.close()
        await asyncio.to_thread(self._thread.shutdown)

    # --- what is due --------------------------------------------------------------------------

    def _first_failure(self, sweep: Sweep, job: Job) -> None:
        notice_id = notices.first_failure_id(sweep)
        if self._is_told(notice_id):
            return
        spec = spec_of(sweep.results.notify, self._settings)
        notice = None
        if Occasion.FIRST_FAILURE in spec.on:
            folder = self._results_folder(sweep)
            notice = notices.first_failure_of(self._state, sweep, job, folder)
        self._queue(notice_id, notice, spec, sweep)

    def _end(self, sweep: Sweep) -> None:
        notice_id = notices.end_id(self._state, sweep)
        if self._is_told(notice_id):
            return
        spec = spec_of(sweep.results.notify, self._settings)
        folder = self._results_folder(sweep)
        notice = notices.end_of(self._state, sweep, spec.on, folder)
        self._queue(notice_id, notice, spec, sweep)

    def _is_told(self, notice_id: str) -> bool:
        return notice_id in self._told or (
            self._journal is not None and self._journal.has(notice_id)
        )

    def _queue(self, notice_id: str, notice: Notice | None, spec: NotifySpec, sweep: Sweep) -> None:
        self._told.add(notice_id)
        sendings = [] if notice is None else list(_sendings(notice, spec))
        if sendings and self.waiting + len(sendings) > self._queue_max:
            self.outcomes[Standing.DROPPED] += len(sendings)
            self._note(
                f"nobody is told of sweep {sweep.name}: {self.waiting} notifications wait already"
            )
            sendings = []
        if not sendings:
            empty = Notice(notice_id, "", sweep.sweep_id, sweep.name, 0.0, "", 0, {})
            sendings = [Sending(empty, Way.NOBODY, "")]
        self._new.extend(sendings)
        self._wake.set()

    async def _take_up(self) -> None:
        """What a master that was killed had still to send, and what it had no time to write."""
        told = False
        while self._journal is None:
            try:
                self._journal = await self._in_thread(
                    NoticeJournal, self._home / FOLDER, wall_now_s()
                )
            except OSError as error:
                if not told:
                    self._note(f"notifications wait: their journal can't be kept: {error}")
                told = True
                await asyncio.sleep(JOURNAL_AGAIN_S)
        for sending in self._journal.open():
            self._push(sending, 0)
        since_s = self._journal.since_wall_s
        for sweep in list(self._state.sweeps.values()):
            jobs = notices.jobs_of(self._state, sweep)
            failed = notices.first_failed(jobs)
            if failed is not None and (failed.ended_wall_s or 0.0) > since_s:
                self._first_failure(sweep, failed)
            ended_s = max((job.ended_wall_s or 0.0 for job in jobs), default=0.0)
            if ended_s > since_s and notices.has_ended(self._state, sweep):
                self._end(sweep)

    # --- the queue ----------------------------------------------------------------------------

    async def _write_down(self) -> bool:
        """Whether all that is new is on the disk, and so may be sent."""
        assert self._journal is not None
        if not self._new:
            return True
        new = list(self._new)
        try:
            await self._in_thread(self._journal.queued, new)
        except OSError:
            # The next start finds them too; there will be room again.
            return False
        for sending in new:
            self._new.popleft()
            self._told.discard(sending.notice.id)
            if sending.way is not Way.NOBODY:
                self._push(sending, 0)
        return True

    def _push(self, sending: Sending, tries: int) -> None:
        after_s = 0.0
        if tries:
            after_s = self._retry_after_s[min(tries, len(self._retry_after_s)) - 1]
        self._number += 1
        heapq.heappush(self._due, _Due(lease_now_s() + after_s, self._number, sending, tries))
        self._wake.set()

    async def _try(self, due: _Due) -> None:
        sending, tries = due.sending, due.tries + 1
        try:
            try:
                await self._send(sending)
            except NotSentError as error:
                is_last = tries >= self._settings.notify_tries_max
                if not (is_last or isinstance(error, NeverSentError)):
                    self._push(sending, tries)
                    return
                self._note(
                    f"nobody could be told of sweep {sending.notice.sweep} by {sending.way}: "
                    f"{error}"
                )
                await self._ended(sending, Standing.GIVEN_UP)
            else:
                await self._ended(sending, Standing.DELIVERED)
        finally:
            self._sending -= 1
            self._wake.set()

    async def _send(self, sending: Sending) -> None:
        notice = sending.notice
        body = msgspec.json.encode(notice)
        if sending.way is Way.COMMAND:
            line = self._settings.notify_commands.get(sending.to)
            if line is None:
                raise NeverSentError(f"the settings have no command '{sending.to}' any more")
            about = {
                "MESHTRAIN_NOTICE": notice.id,
                "MESHTRAIN_OCCASION": notice.occasion,
                "MESHTRAIN_SWEEP": notice.sweep_id,
            }
            timeout_s = self._settings.notify_timeout_s
            await run_command(line, body, about, self._home, timeout_s)
            return
        secret = b""
        if sending.secret is not None:
            try:
                secret = await self._in_thread(_secret, self._home, sending.secret)
            except (OSError, SettingsError) as error:
                raise NotSentError(f"its secret can't be read: {error}") from error
        headers = {"X-Meshtrain-Id": notice.id, "X-Meshtrain-Occasion": notice.occasion}
        await self._webhooks.send(sending.to, body, headers, secret, wall_now_s())

    async def _ended(self, sending: Sending, standing: Standing) -> None:
        assert self._journal is not None
        self.outcomes[standing] += 1
        try:
            await self._in_thread(self._journal.ended, sending, standing)
        except OSError as error:
            # Sent again after a restart: at least once.
            self._note(f"the journal of notifications can't be written: {error.strerror}")

    async def _in_thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: work(*args, **kwargs))


def _sendings(notice: Notice, spec: NotifySpec) -> Iterable[Sending]:
    if spec.command is not None:
        yield Sending(notice, Way.COMMAND, spec.command)
    if spec.webhook is not None:
        yield Sending(notice, Way.WEBHOOK, spec.webhook, spec.secret)


def _secret(home: Path, name: str) -> bytes:
    path = home / FOLDER / name
    if name == JOURNAL_FILE:
        raise SettingsError(f"{path} is the journal, and no secret: name another file")
    secret = read_private(path, SECRET_BYTES_MAX).strip()
    if not secret:
        raise SettingsError(f"{path} is empty: put the secret there")
    return secret
