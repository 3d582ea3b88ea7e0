"""Digests that stand in for those of code and data, where only the names of jobs matter.

Results that were brought home are merged wherever the job file is: the code, the
data and the mesh that they came from need not be there.
"""

from __future__ import annotations

from meshtrain.spec.expand import Digests, needed
from meshtrain.spec.forms import CommandSweep, TrainingSweep
from meshtrain.spec.jobfile import JobFile
from meshtrain.spec.jobs import CodeDigests, InputData
from meshtrain.spec.lineage import Parent, ResolvedParent

NO_DIGEST = "0" * 32


def stand_in_digests(job_file: JobFile) -> Digests:
    """Digests with which a job file expands to its jobs; none of their hashes mean anything."""
    wanted = needed(job_file)
    form = job_file.form
    parents = {}
    if wanted.parent is not None:
        pin = Parent(NO_DIGEST, NO_DIGEST)
        training = isinstance(form, TrainingSweep)
        parents[wanted.parent] = ResolvedParent(pin, "", training, _model(job_file))
    return Digests(
        code={folder: CodeDigests(NO_DIGEST, _files(form)) for folder in wanted.code},
        data=dict.fromkeys(wanted.participants, NO_DIGEST),
        parents=parents,
        inputs={name: InputData(name, NO_DIGEST, name.startswith("/")) for name in wanted.inputs},
    )


def _files(form: object) -> dict[str, str]:
    """Every file and folder that `base.code` names is there."""
    if not isinstance(form, CommandSweep) or form.base is None:
        return {}
    paths = [
        "/".join(step for step in p.split("/") if step not in ("", "."))
        for p in form.base.code or ()
    ]
    return {name: NO_DIGEST for path in paths if path for name in (path, f"{path}/file")}


def _model(job_file: JobFile) -> str | None:
    """The model of the base, which is that of what it continues from."""
    form = job_file.form
    if not isinstance(form, TrainingSweep) or form.base is None:
        return None
    varied = job_file.matrix.values_of("base.model")
    return str(varied[0]) if varied else form.base.model
