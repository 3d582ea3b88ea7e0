"""Carries actions out: asks first, sends what the command sends, tells the outcome, undoes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from textual.app import App

from meshtrain.errors import MeshtrainError, UserError
from meshtrain.spec.jobfile import parse_job_file
from meshtrain.spec.reader import FILE_SIZE_MAX_BYTES
from meshtrain.wire.messages import Done
from meshtrain_tui.desk import Desk, desk_of
from meshtrain_tui.screens.confirm import Confirm
from meshtrain_tui.screens.notice import Notice
from meshtrain_tui.screens.pick_file import PickFile
from meshtrain_tui.steering.action import Action, cancel_sweep, command_of
from meshtrain_tui.steering.submission import Receipt
from meshtrain_tui.words import plural

UNDO_MAX = 20


class Steerer:
    """What changes the mesh from the dashboard goes through here.

    Args:
        app: the dashboard; for its screens it is a desk.Desk.
        submit: gives a job file to the mesh; None where that can't be done.
        undo: where it keeps what takes back what was done; emptied by whoever shows another mesh.
    """

    def __init__(
        self,
        app: App[Any],
        submit: Callable[[Path], Awaitable[Receipt]] | None,
        undo: list[Action],
    ) -> None:
        self._app = app
        self._submit = submit
        self._undo = undo

    @property
    def _desk(self) -> Desk:
        return desk_of(self._app)

    @property
    def undoes(self) -> Action | None:
        """What `undo` would do."""
        return self._undo[-1] if self._undo else None

    @property
    def submits(self) -> bool:
        """Whether job files can be given to the mesh."""
        return self._submit is not None

    def steer(self, action: Action) -> None:
        """Ask whether to do it, and do it when the answer is yes."""

        def answered(yes: bool | None) -> None:
            if yes:
                self._app.run_worker(self._carry_out(action), name="action")

        self._app.push_screen(Confirm(action.title, action.consequence, action.command), answered)

    def undo(self) -> None:
        """Take back what was done last, if anything takes it back."""
        if self._undo:
            self._app.run_worker(self._carry_out(self._undo.pop()), name="undo")

    def submit(self) -> None:
        """Let somebody choose a job file, and give it to the mesh."""

        def picked(path: Path | None) -> None:
            if path is not None:
                self._app.run_worker(self._look_into(path), name="submit")

        self._app.push_screen(PickFile(Path.cwd()), picked)

    async def _carry_out(self, action: Action) -> None:
        answers: list[Done] = []
        trouble = ""
        try:
            for message in action.messages:
                answer = await self._desk.ask(message)
                if not isinstance(answer, Done):
                    raise UserError("the master answered a request as if it were a query")
                answers.append(answer)
        except MeshtrainError as error:
            trouble = f"{action.title}: {error}"
            self._desk.say(trouble, bad=True)
        # What was done before the one that failed can still be taken back.
        undo = action.undo(answers) if answers else None
        if undo is not None:
            self._remember(undo)
        if not trouble:
            key = self._desk.key_of("app.undo", "u")
            offer = f"\n{key} undo: {undo.title}" if undo is not None else ""
            self._desk.say(f"{action.told(answers)}{offer}")
        self._desk.changed()

    def _remember(self, undo: Action) -> None:
        self._undo.append(undo)
        del self._undo[:-UNDO_MAX]

    async def _look_into(self, path: Path) -> None:
        """Say what is wrong with a job file, or ask whether to submit it."""
        try:
            data = await asyncio.to_thread(_read, path)
            job_file = parse_job_file(data, path.name)
        except OSError as error:
            words = f"{path} can't be read: {error.strerror}"
            self._app.push_screen(Notice(f"{path.name} can't be submitted", words))
            return
        except MeshtrainError as error:
            self._app.push_screen(Notice(f"{path.name} can't be submitted", str(error)))
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._app.run_worker(self._hand_in(path), name="submit")

        title = f"Submit {job_file.name} from {path.name}"
        command = command_of("submit", str(path))
        self._app.push_screen(
            Confirm(title, "Its code and data are brought along.", command), answered
        )

    async def _hand_in(self, path: Path) -> None:
        if self._submit is None:
            return
        self._desk.say(f"{path.name} is being submitted")
        try:
            receipt = await self._submit(path)
        except MeshtrainError as error:
            self._app.push_screen(Notice(f"{path.name} was not accepted", str(error)))
            return
        self._remember(cancel_sweep(receipt.row()))
        jobs = plural(receipt.jobs, "job")
        key = self._desk.key_of("app.undo", "u")
        told = (f"{receipt.sweep_id}: {jobs}, submitted", *receipt.notes, f"{key} undo: cancel it")
        self._desk.say("\n".join(told))
        self._desk.changed()


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        # One more than is allowed: the parser tells that it is too large.
        return file.read(FILE_SIZE_MAX_BYTES + 1)
