"""Assignments and folders for the tests of the worker daemon's parts."""

from __future__ import annotations

from pathlib import Path

from meshtrain.core.commands import ArtifactNeed, AssignAttempt
from meshtrain.spec.jobs import CommandWork, Work
from meshtrain_daemon.worker.attempt_folder import AttemptFolder


def assignment(
    attempt_id: str = "j.1",
    *,
    work: Work | None = None,
    gpus: tuple[int, ...] = (),
    base: ArtifactNeed | None = None,
    code: ArtifactNeed | None = None,
    timeout_s: float | None = None,
) -> AssignAttempt:
    return AssignAttempt(
        attempt_id=attempt_id,
        job_id=attempt_id.rpartition(".")[0] or "j",
        name="sweep/i=1",
        epoch=1,
        work=work or CommandWork("true"),
        gpus=gpus,
        timeout_s=timeout_s,
        recipe_hash=None,
        base=base,
        code=code,
    )


def made_folder(attempts: Path, attempt_id: str = "j.1") -> AttemptFolder:
    folder = AttemptFolder(attempts, assignment(attempt_id))
    folder.make()
    return folder
