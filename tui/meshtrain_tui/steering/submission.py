"""Gives a job file to the mesh: by `meshtrain submit`, which brings its code and data along.

The command runs as a program of its own: taking stock of a folder of code and sending
it may take long, and must not slow the screen.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from meshtrain.core.changes import SweepRow
from meshtrain.errors import UserError

OUTPUT_BYTES_MAX = 1 << 20
TIMEOUT_S = 900.0


class SubmittedBase(msgspec.Struct, frozen=True):
    hash: str
    reused: bool


class Receipt(msgspec.Struct, frozen=True):
    """What `meshtrain submit --json` prints."""

    sweep_id: str
    sweep: str
    jobs: int
    bases: tuple[SubmittedBase, ...] = ()
    results: str = ""
    notes: tuple[str, ...] = ()

    def row(self) -> SweepRow:
        """The sweep, as far as the receipt tells."""
        reused = sum(base.reused for base in self.bases)
        return SweepRow(self.sweep_id, self.sweep, self.jobs, len(self.bases), reused)


_receipt_decoder = msgspec.json.Decoder(Receipt)


class Submitter:
    """Runs `meshtrain submit`.

    Args:
        address: the master's.
        home: the folder that our keys are in; None for the default.
        program: what starts meshtrain.
    """

    def __init__(
        self,
        address: str,
        home: Path | None = None,
        program: Sequence[str] = (sys.executable, "-m", "meshtrain.cli"),
    ) -> None:
        self._program = tuple(program)
        self._environment = {**os.environ, "MESHTRAIN_MASTER": address, "NO_COLOR": "1"}
        if home is not None:
            self._environment["MESHTRAIN_HOME"] = str(home)

    async def submit(self, file: Path) -> Receipt:
        """The receipt for a job file.

        Raises UserError with all that the command says when it was not accepted.
        """
        running = await asyncio.create_subprocess_exec(
            *self._program,
            "submit",
            "--json",
            str(file),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                out, err = await running.communicate()
        except TimeoutError:
            raise UserError(
                f"`meshtrain submit {file}` took longer than {TIMEOUT_S:g} s and was ended: "
                "run it in a terminal to see what it does"
            ) from None
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()
        if running.returncode:
            said = err[-OUTPUT_BYTES_MAX:].decode(errors="replace").strip()
            raise UserError(said or f"`meshtrain submit {file}` ended with {running.returncode}")
        try:
            return _receipt_decoder.decode(out[:OUTPUT_BYTES_MAX])
        except msgspec.MsgspecError as error:
            raise UserError(
                f"`meshtrain submit {file}` printed no receipt ({error}): see `meshtrain jobs`"
            ) from error
