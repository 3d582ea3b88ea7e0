"""The shell scripts of a sweep that is dealt out to servers without a daemon.

A script stands alone: what every script does lies in split_runtime.bash and
split_end.bash, between them come the bases and the cells of this one.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from meshtrain.core.bases import base_job_id
from meshtrain.core.split import Part
from meshtrain.errors import UserError
from meshtrain.ids import short
from meshtrain.results.brought import CELL_VERSION, cell_path
from meshtrain.results.folder import folder_name
from meshtrain.spec.inputs import PREPARED_VARIABLE, prepared_key, variable_of
from meshtrain.spec.jobs import (
    BaseSpec,
    CommandWork,
    JobSpec,
    Limits,
    SweepSpec,
    TrainingWork,
    Work,
)
from meshtrain.spec.placeholders import INPUTS, fill_on_node

MARK = "@@"
GROUPS_SHOWN_MAX = 12
COMMENT_WIDTH = 96

_HERE = Path(__file__).parent


class Script(msgspec.Struct, frozen=True):
    """One script."""

    name: str
    """Its file's name, `few_shot-1-of-4.sh`."""
    text: str
    part: Part


def scripts(sweep: SweepSpec, parts: Sequence[Part], file_name: str) -> tuple[Script, ...]:
    """A script for each part.

    Args:
        file_name: the job file, as people name it when they merge.

    Raises UserError where a job can't run without a daemon.
    """
    return tuple(
        Script(
            script_name(sweep.name, number, len(parts)),
            _Writer(sweep, part, number, len(parts), file_name).text(),
            part,
        )
        for number, part in enumerate(parts, start=1)
    )


def script_name(sweep_name: str, number: int, of: int) -> str:
    """A script's file name; those of one sweep and one split sort in their order."""
    return f"{sweep_name}-{number:0{len(str(of))}}-of-{of}.sh"


class _Writer:
    def __init__(self, sweep: SweepSpec, part: Part, number: int, of: int, file_name: str) -> None:
        self._sweep = sweep
        self._part = part
        self._number = number
        self._of = of
        self._file_name = file_name
        specs = {base.recipe_hash: base for base in sweep.bases}
        self._bases = [specs[recipe_hash] for recipe_hash in part.recipe_hashes]
        self._works: list[Work] = [*(b.work for b in self._bases), *(j.work for j in part.jobs)]
        commands = [work for work in self._works if isinstance(work, CommandWork)]
        self._sources = list(
            dict.fromkeys(data.source for work in commands for data in work.inputs.values())
        )
        self._mark = _mark_for(commands)
        for job in part.jobs:
            if job.limits.user is not None:
                raise UserError(
                    f"{job.name} runs as the account {job.limits.user}: a script runs as whoever "
                    "starts it. Leave user: out, and start it as that account"
                )

    def text(self) -> str:
        parts = [
            "#!/usr/bin/env bash\n" + "\n".join(self._head()),
            "\n".join(self._variables()),
            (_HERE / "split_runtime.bash").read_text(encoding="utf-8").rstrip(),
            "\n".join([*self._preparations(), *map(self._base, self._bases)]),
            "\n".join(map(self._cell, self._part.jobs)),
            (_HERE / "split_end.bash").read_text(encoding="utf-8").rstrip(),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    # --- the head, for people ------------------------------------------------------------

    def _head(self) -> Iterator[str]:
        jobs = len(self._part.jobs)
        yield (
            f"# {self._sweep.name}, script {self._number} of {self._of}: "
            f"{jobs} of {len(self._sweep.jobs)} cells"
        )
        for group in self._part.groups[:GROUPS_SHOWN_MAX]:
            yield f"#   {_comment(group)}"
        if len(self._part.groups) > GROUPS_SHOWN_MAX:
            yield f"#   … and {len(self._part.groups) - GROUPS_SHOWN_MAX} more groups"
        yield "#"
        yield "# Run it from the folder of the code, as it is checked out on this server:"
        yield f"#   bash {self._name} --gpus 0"
        yield "# It needs no daemon. It runs its cells one after the other; run it again after a"
        yield "# crash or a failure, and what is done is kept. All it can be told: --help"
        if self._bases:
            yield "#"
            yield "# Bases: trained once by each script that needs them, unless --base FOLDER gives"
            yield "# them; scripts that write to one folder of results share them:"
            for base in self._bases:
                yield f"#   {base.recipe_hash}  {_comment(base.label)}"
                if base.parent is not None:
                    yield (
                        f"#     continues from {short(base.parent.recipe_hash)}, model "
                        f"{base.parent.artifact_id}: give its folder with --from"
                    )
        code = next((w.code for w in self._works if isinstance(w, CommandWork) and w.code), None)
        if code is not None:
            yield "#"
            yield "# The code is what lies in that folder; when this was written its snapshot was"
            yield f"# {code}. Check out the same everywhere."
        needs = sorted({_needs(job) for job in self._part.jobs} - {""})
        if needs:
            yield "#"
            yield f"# The job file asks for {'; '.join(needs)}: see that this server has it."

    @property
    def _name(self) -> str:
        return script_name(self._sweep.name, self._number, self._of)

    # --- what the runtime reads -----------------------------------------------------------

    def _variables(self) -> Iterator[str]:
        marker = {"version": CELL_VERSION, "sweep": self._sweep.name, "id": self._sweep.sweep_id}
        has_code = any(isinstance(work, CommandWork) and work.code for work in self._works)
        trains = any(isinstance(work, TrainingWork) for work in self._works)
        folder = f"results/{folder_name(self._sweep.name)}"
        yield f"SCRIPT={shlex.quote(self._name.removesuffix('.sh'))}"
        yield f"SWEEP_JSON={shlex.quote(_json(marker))}"
        yield f"DEFAULT_RESULTS={shlex.quote(folder)}"
        merge = f"meshtrain results {shlex.quote(self._file_name)} --from FOLDER"
        yield f"MERGE={shlex.quote(merge)}"
        yield f"CELLS={len(self._part.jobs)}"
        yield f"BASES=({' '.join(base.recipe_hash for base in self._bases)})"
        yield f"SOURCES=({_words(self._sources)})"
        yield f"MARK={self._mark}"
        yield f"NEEDS_CODE={int(has_code)}"
        yield f"NEEDS_TRAINER={int(trains)}"

    def _preparations(self) -> Iterator[str]:
        found: dict[str, CommandWork] = {}
        for work in self._works:
            if isinstance(work, CommandWork) and work.prepare is not None:
                found.setdefault(_key(work), work)
        for key, work in found.items():
            line = self._filled(work, work.prepare or "", for_shell=True, prepares=True)
            yield f"prepare_{key}() {{ prepare {key} {_words([line, *self._inputs(work)])}; }}"

    def _base(self, base: BaseSpec) -> str:
        words = [
            base.recipe_hash,
            base.label,
            base_job_id(base.recipe_hash),
            *self._run_words(base.work, base.limits),
            "1" if base.parent is not None else "0",
            _key(base.work),
            *self._environment(base.work),
        ]
        return f"base_{base.recipe_hash}() {{ make_base {_words(words)}; }}"

    def _cell(self, job: JobSpec) -> str:
        document = {
            "version": CELL_VERSION,
            "sweep": self._sweep.name,
            "sweep_id": self._sweep.sweep_id,
            "job_id": job.job_id,
            "name": job.name,
            "cell": job.cell,
            "group": job.group,
            "recipe_hash": job.recipe_hash,
        }
        words = [
            cell_path(self._sweep.name, job.name),
            job.name,
            job.job_id,
            job.recipe_hash or "",
            *self._run_words(job.work, job.limits),
            _json(document),
            _key(job.work),
            *self._environment(job.work),
        ]
        return f"cell {_words(words)}"

    def _run_words(self, work: Work, limits: Limits) -> tuple[str, str, str, str]:
        """Timeout and interval of checkpoints in seconds, the kind, and what runs."""
        timeout = "" if limits.timeout_s is None else f"{limits.timeout_s:g}"
        every = "" if limits.checkpoint_every_s is None else f"{limits.checkpoint_every_s:g}"
        if isinstance(work, TrainingWork):
            return timeout, every, "training", _json(work.config)
        return timeout, every, "command", self._filled(work, work.command, for_shell=True)

    def _environment(self, work: Work) -> list[str]:
        if isinstance(work, TrainingWork):
            device = work.config.get("device")
            return [] if device is None else [f"CUDA_VISIBLE_DEVICES={device}"]
        found = self._inputs(work)
        if work.prepare is not None:
            found.append(f"{PREPARED_VARIABLE}={self._marked('prepared')}")
        return found + [
            f"{name}={self._filled(work, value, for_shell=False)}"
            for name, value in work.env.items()
        ]

    def _inputs(self, work: CommandWork) -> list[str]:
        return [
            f"{variable_of(name)}={self._source(data.source)}" for name, data in work.inputs.items()
        ]

    def _filled(
        self, work: CommandWork, template: str, *, for_shell: bool, prepares: bool = False
    ) -> str:
        """The line with marks for the folders, which only the script knows."""
        folders = {name: self._marked(name) for name in ("output", "base", "from", "code")}
        # What prepares writes to the folder that others read.
        folders["prepared"] = self._marked("output" if prepares else "prepared")
        for name, data in work.inputs.items():
            folders[INPUTS + name] = self._source(data.source)
        return fill_on_node(template, folders, for_shell=for_shell)

    def _marked(self, name: str) -> str:
        return f"{self._mark}{name}{self._mark}"

    def _source(self, source: str) -> str:
        return self._marked(f"input{self._sources.index(source)}")


def _mark_for(works: Iterable[CommandWork]) -> str:
    """What stands around the names of folders: nothing that anybody wrote."""
    written = "\0".join(
        text for work in works for text in (work.command, work.prepare or "", *work.env.values())
    )
    number, mark = 0, MARK
    while mark in written:
        number += 1
        mark = f"{MARK}{number}@"
    return mark


def _key(work: Work) -> str:
    """The name of what prepares a job; empty where nothing does."""
    if isinstance(work, TrainingWork) or work.prepare is None:
        return ""
    return prepared_key(work, None)


def _words(words: Iterable[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)


def _json(document: Mapping[str, Any]) -> str:
    return msgspec.json.encode(document).decode()


def _comment(text: str) -> str:
    """Text that stays on its line."""
    shown = "".join(char if char.isprintable() else "?" for char in text)
    return shown if len(shown) <= COMMENT_WIDTH else shown[: COMMENT_WIDTH - 1] + "…"


def _needs(job: JobSpec) -> str:
    resources = job.resources
    told = []
    if resources.gpus:
        told.append(f"{resources.gpus} GPU{'s' if resources.gpus > 1 else ''}")
    if resources.gpu_memory_bytes:
        told.append(f"{resources.gpu_memory_bytes / 1e9:.3g} GB of GPU memory")
    if resources.memory_bytes:
        told.append(f"{resources.memory_bytes / 1e9:.3g} GB of memory")
    return ", ".join(told)
