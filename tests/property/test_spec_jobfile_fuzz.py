"""P11: whatever a job file holds, it is a job file or a JobFileError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrain.errors import UserError
from meshtrain.spec.expand import CodeDigests, Digests, expand, needed
from meshtrain.spec.forms import (
    CommandBase,
    CommandSweep,
    FlatJob,
    ResultsSection,
    TargetSection,
    TrainingBase,
    TrainingSweep,
)
from meshtrain.spec.jobfile import JobFile, JobFileError, parse_job_file
from meshtrain.spec.jobs import InputData, SweepSpec
from meshtrain.spec.lineage import Parent, ResolvedParent
from meshtrain.spec.stand_in import stand_in_digests

EXAMPLES = Path(__file__).parents[2] / "configs" / "examples"
SOUND = [
    (path.name, path.read_bytes())
    for path in [
        *sorted(EXAMPLES.glob("*.*")),
        *(EXAMPLES / name / "sweep.yaml" for name in ("few_shot", "inputs")),
    ]
]
PARENT = ResolvedParent(Parent("4" * 32, "5" * 32), "cnn", True, "cnn", ("w01", "w02"))
SUFFIXES = st.sampled_from([".yaml", ".json", ".toml"])
CELLS_MAX = 200


def survives(data: bytes, name: str) -> None:
    """Parses, and expands what was accepted; every refusal is told with a place."""
    try:
        job_file = parse_job_file(data, name, cells_max=CELLS_MAX)
    except JobFileError as error:
        assert error.problems
        assert str(error).startswith(f"{name} was not accepted: ")
        lines = data.count(b"\n") + data.count(b"\r") + 1
        for problem in error.problems:
            assert problem.text
            assert "\n" not in problem.text
            assert problem.spot is None or 1 <= problem.spot.line <= lines + 1
        return
    assert isinstance(job_file, JobFile)
    wanted = needed(job_file)
    digests = Digests(
        code={folder: CodeDigests("0" * 32, {"train.py": "1" * 32}) for folder in wanted.code},
        data=dict.fromkeys(wanted.participants, "2" * 32),
        parents=dict.fromkeys([wanted.parent] if wanted.parent else [], PARENT),
        inputs={name: InputData(name, "3" * 32) for name in wanted.inputs},
    )
    try:
        expand(job_file, stand_in_digests(job_file))
        sweep = expand(job_file, digests)
    except UserError as error:
        assert str(error)
        return
    assert isinstance(sweep, SweepSpec)
    assert len({job.job_id for job in sweep.jobs}) == len(sweep.jobs)
    assert len({base.recipe_hash for base in sweep.bases}) == len(sweep.bases)
    known = {base.recipe_hash for base in sweep.bases}
    assert all(job.recipe_hash in known for job in sweep.jobs if job.recipe_hash is not None)


@given(st.binary(max_size=300), SUFFIXES)
@settings(max_examples=150, deadline=None)
def test_random_bytes(data: bytes, suffix: str) -> None:
    survives(data, "x" + suffix)


MARKS = ["\n", "  ", ": ", "- ", "{", "}", "[", "]", ",", '"', "'", "&a ", "*a", "!!", "#", "|\n"]
MARKS += ["? ", "%", "---\n", "base", "matrix", "=", ".", "1e-3", "\\u0000", "\t", "\r\n", "é", "0"]


@given(st.lists(st.sampled_from(MARKS), max_size=40), SUFFIXES)
@settings(max_examples=150, deadline=None)
def test_random_marks(marks: list[str], suffix: str) -> None:
    survives("".join(marks).encode(), "x" + suffix)


@given(st.sampled_from(SOUND), st.data())
@settings(max_examples=100, deadline=None)
def test_examples_with_a_piece_replaced(example: tuple[str, bytes], data: st.DataObject) -> None:
    name, sound = example
    start = data.draw(st.integers(0, len(sound)))
    stop = min(len(sound), start + data.draw(st.integers(0, 12)))
    piece = data.draw(st.binary(max_size=6) | st.sampled_from(MARKS).map(str.encode))
    survives(sound[:start] + piece + sound[stop:], name)


FORMS = (
    CommandBase, CommandSweep, FlatJob, ResultsSection, TargetSection, TrainingBase, TrainingSweep
)  # fmt: skip
KEYS = sorted({key for form in FORMS for key in form.model_fields} | {"exclude", "include"})
WORDS = ["cnn", "w01", "w02", "full_fine_tuning", "target_only", "{fold}", "{output}", "{base}"]
WORDS += ["{", "}}", "true", ".", "/d", "../x", "2h", "12GB", "fold", "base.lr", "", "a/b"]
VALUES = (
    st.sampled_from(WORDS)
    | st.sampled_from([0, 1, 2, 0.5, 1.0, -1, 1e300, 2**63 - 1, True, None])
    | st.text(max_size=5)
)
TREES = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=25,
)


@given(TREES)
@settings(max_examples=250, deadline=None)
def test_random_trees(tree: Any) -> None:
    survives(json.dumps(tree).encode(), "x.json")


@given(st.data())
@settings(max_examples=250, deadline=None)
def test_sound_trees_with_a_branch_replaced(data: st.DataObject) -> None:
    name, sound = data.draw(st.sampled_from(SOUND))
    tree = parse_job_file(sound, name).tree
    node = tree
    while True:
        steps = list(node) if isinstance(node, dict) else list(range(len(node)))
        step = data.draw(st.sampled_from(steps + ([data.draw(st.sampled_from(KEYS))]
                                                  if isinstance(node, dict) else [])))  # fmt: skip
        inner = node[step] if step in steps else None
        if isinstance(inner, dict | list) and inner and data.draw(st.booleans()):
            node = inner
            continue
        node[step] = data.draw(TREES)
        break
    survives(json.dumps(tree).encode(), "x.json")
