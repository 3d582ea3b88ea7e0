"""What travels with a submission, in words: the code and its largest files, the inputs."""

from __future__ import annotations

import os
from typing import Any

from meshtrain.cli import words
from meshtrain.cli.submission import Snapshot, Submission
from meshtrain.ids import short
from meshtrain.results.formats import clip_middle
from meshtrain.spec.forms import CommandSweep
from meshtrain.spec.jobs import CommandWork, InputData, SweepSpec

INPUTS_SHOWN_MAX = 10
PATH_SHOWN_MAX = 60
ALLOW_LARGE_CODE_HELP = "Take a snapshot of the code however large it is."


def inputs_of(sweep: SweepSpec) -> dict[tuple[str, str], tuple[InputData, int]]:
    """What the jobs and bases of a sweep read: (name, source) → the data, and for how many."""
    found: dict[tuple[str, str], tuple[InputData, int]] = {}
    for work in (*(job.work for job in sweep.jobs), *(base.work for base in sweep.bases)):
        if isinstance(work, CommandWork):
            for name, data in work.inputs.items():
                known = found.get((name, data.source), (data, 0))
                found[name, data.source] = (data, known[1] + 1)
    return found


# --- as JSON --------------------------------------------------------------------------


def code_document(submission: Submission) -> list[dict[str, Any]]:
    """The snapshots as `--json` prints them."""
    return [
        {
            "folder": snapshot.written,
            "id": snapshot.digests.artifact_id,
            "size_bytes": snapshot.size_bytes,
            "files": len(snapshot.files),
            "largest": [{"path": path, "size_bytes": size} for path, size in snapshot.largest],
        }
        for snapshot in submission.snapshots.values()
    ]


def inputs_document(sweep: SweepSpec) -> list[dict[str, Any]]:
    """The inputs as `--json` prints them."""
    return [
        {
            "name": name,
            "source": source,
            "id": data.digest,
            "on_share": data.on_share,
            "size_bytes": data.size_bytes,
            "files": data.files_count,
            "runs": runs,
        }
        for (name, source), (data, runs) in inputs_of(sweep).items()
    ]


# --- for people -----------------------------------------------------------------------


def code_texts(submission: Submission) -> list[str]:
    """Each snapshot, and what of it makes a base anew."""
    texts = []
    form = submission.job_file.form
    for snapshot in submission.snapshots.values():
        files = words.count(len(snapshot.files), "file")
        # As seen from here: the job file may lie elsewhere.
        folder = os.path.normpath(submission.path.parent / snapshot.written).rstrip("/") + "/"
        texts.append(f"snapshot of {folder} {words.size(snapshot.size_bytes)} in {files}")
    if isinstance(form, CommandSweep) and form.base is not None and form.code is not None:
        if form.base.code is None:
            texts.append("the base is made again when anything in it changes;")
            texts.append("with base.code: [FILES], when those change")
        else:
            verb = (
                "change" if len(form.base.code) > 1 or form.base.code[0][-1:] == "/" else "changes"
            )
            texts.append(f"the base is made again when {words.listed(form.base.code)} {verb}")
    return texts


def largest_texts(snapshot: Snapshot) -> list[str]:
    """The largest files of a snapshot of several, a line each."""
    if len(snapshot.files) < 2:
        return []
    return [
        f"{words.size(size_bytes):>7}  {clip_middle(path, PATH_SHOWN_MAX)}"
        for path, size_bytes in snapshot.largest
    ]


def input_texts(sweep: SweepSpec) -> list[str]:
    """Each input: which version it is pinned to, how large it is."""
    found = inputs_of(sweep)
    width = max((len(name) for name, _ in found), default=0)
    sources = max((len(source) for _, source in found), default=0)
    texts = []
    for (name, source), (data, _) in list(found.items())[:INPUTS_SHOWN_MAX]:
        size = f"{words.size(data.size_bytes)} in {words.count(data.files_count, 'file')}"
        where = "  on the share" if data.on_share else ""
        source = clip_middle(source, PATH_SHOWN_MAX)
        texts.append(
            f"{name:<{width}}  {source:<{min(sources, PATH_SHOWN_MAX)}}  {short(data.digest)}  "
            f"{size}{where}"
        )
    if len(found) > INPUTS_SHOWN_MAX:
        texts.append(f"… and {len(found) - INPUTS_SHOWN_MAX} more: --json lists all")
    return texts
