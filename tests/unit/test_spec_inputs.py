"""Inputs and preparations in job files: what is read, refused, filled in and hashed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshtrain.errors import UserError
from meshtrain.spec.expand import CodeDigests, Digests, expand, needed
from meshtrain.spec.inputs import prepared_key, split_reference, variable_of
from meshtrain.spec.jobfile import JobFile, JobFileError, parse_job_file
from meshtrain.spec.jobs import CommandWork, InputData, SweepSpec

VOC = InputData("pascal5i@2", "a" * 32, size_bytes=10, files_count=1)
VOC_3 = InputData("pascal5i@3", "d" * 32, size_bytes=10, files_count=1)
COCO = InputData("coco20i@1", "b" * 32)
SHARE = InputData("/mnt/coco", "c" * 32, on_share=True)
FOUND = {"pascal5i": VOC, "pascal5i@2": VOC, "coco20i": COCO, "/mnt/coco": SHARE}


def parse(tree: Any) -> JobFile:
    return parse_job_file(json.dumps(tree).encode(), "x.json")


def sweep_of(tree: Any, **found: InputData) -> SweepSpec:
    code = {".": CodeDigests("e" * 32, {"a.py": "f" * 32})}
    return expand(parse(tree), Digests(code=code, inputs={**FOUND, **found}))


def work_of(tree: Any) -> CommandWork:
    work = sweep_of(tree).jobs[0].work
    assert isinstance(work, CommandWork)
    return work


def problems(tree: Any) -> str:
    with pytest.raises(JobFileError) as caught:
        parse(tree)
    return str(caught.value)


# --- what is written ------------------------------------------------------------------


def test_names_paths_and_lists_are_read() -> None:
    as_map = {"inputs": {"data": "pascal5i", "coco": {"path": "/mnt/coco/"}}, "command": "x"}
    assert needed(parse(as_map)).inputs == ("/mnt/coco", "pascal5i")
    assert work_of(as_map).inputs == {"data": VOC, "coco": SHARE}
    as_list = {"inputs": ["pascal5i@2", "coco20i"], "command": "x"}
    assert work_of(as_list).inputs == {"pascal5i": VOC, "coco20i": COCO}


def test_a_matrix_may_choose_the_data() -> None:
    tree = {
        "command": "x {inputs.data} {dataset}",
        "inputs": {"data": "{dataset}"},
        "matrix": {"dataset": ["pascal5i", "coco20i"]},
    }
    assert needed(parse(tree)).inputs == ("coco20i", "pascal5i")
    jobs = sweep_of(tree).jobs
    assert [job.work.inputs["data"] for job in jobs] == [VOC, COCO]  # type: ignore[union-attr]
    assert jobs[0].work.command == "x {inputs.data} pascal5i"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ("pascal5i", "expected names with data sets"),
        ({"data": "/mnt/coco"}, "data: a path on a share is written {path: /mnt/coco}"),
        ({"data": {"path": "coco"}}, 'data: "coco" is not an absolute path'),
        ({"data": {"path": "/mnt/../etc"}}, "leads up by .."),
        ({"data": {"folder": "/x"}}, "data: "),
        ({"data": 5}, "data: 5 is no input"),
        ({"data": "a/b"}, 'data: "a/b" is not a data set\'s name'),
        ({"data": "a@0"}, 'data: "a@0" is not'),
        ({"data": "a@new"}, 'data: "a@new" is not'),
        (["/mnt/coco"], "is not a data set's name"),
        ([{"path": "/mnt/coco"}], "a path needs a name"),
        (["a", "a@2"], '"a" is listed twice'),
        ({"a b": "x"}, '"a b" is not a name'),
        ({"a-b": "x", "a_b": "y"}, "come to the same variable MESHTRAIN_INPUT_A_B"),
        ({f"n{i}": "x" for i in range(65)}, "65 inputs; at most 64"),
    ],
)
def test_p11_what_is_no_input_is_refused(inputs: Any, told: str) -> None:
    assert told in problems({"command": "x", "inputs": inputs})


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"command": "x {inputs.dta}", "inputs": ["data"]}, 'did you mean "inputs.data"?'),
        ({"command": "x {prepared}"}, "unknown placeholder {prepared}"),
        ({"command": "x", "prepare": "y {output}"}, "unknown placeholder {output}"),
        ({"command": "x", "prepare": []}, "the list is empty"),
        ({"command": "x", "prepare": 3}, "expected text"),
        ({"command": "x", "inputs": {"d": "{nope}"}}, "unknown placeholder {nope}"),
        ({"command": "x", "matrix": {"prepared": [1]}}, "is filled on the node"),
        (
            {"command": "x", "inputs": ["data"], "base": {"command": "y", "inputs": ["dat"]}},
            'did you mean "data"?',
        ),
        (
            {"command": "x", "inputs": ["data"], "base": {"command": "y {inputs.data}"}},
            "unknown placeholder {inputs.data}",
        ),
        ({"base": {"participants": ["a"], "model": "cnn"}, "inputs": ["d"]}, "belongs to a comm"),
        ({"base": {"command": "y"}, "prepare": "z"}, "has no effect without command"),
    ],
)
def test_p11_what_does_not_go_together_is_refused(tree: Any, told: str) -> None:
    assert told in problems(tree)


def test_p11_a_cell_whose_data_set_can_have_no_such_name_is_refused() -> None:
    tree = {"command": "x", "inputs": {"d": "{n}"}, "matrix": {"n": ["pascal5i", "a/b"]}}
    assert needed(parse(tree)).inputs == ("pascal5i",)
    with pytest.raises(JobFileError, match=r'in a cell of the matrix: "a/b" is not'):
        sweep_of(tree)


def test_p11_a_sweep_of_too_many_data_sets_is_refused_before_any_is_looked_up() -> None:
    tree = {"command": "x", "inputs": {"d": "s{n}"}, "matrix": {"n": {"range": [0, 1001]}}}
    with pytest.raises(UserError, match="read 1,001 data sets, at most 1,000"):
        needed(parse(tree))


def test_a_reference_is_a_name_and_perhaps_a_version() -> None:
    assert split_reference("pascal5i") == ("pascal5i", None)
    assert split_reference("pascal5i@12") == ("pascal5i", 12)
    assert variable_of("coco-20i") == "MESHTRAIN_INPUT_COCO_20I"


# --- what is hashed -------------------------------------------------------------------

BASED: dict[str, Any] = {
    "command": "x {inputs.data} {inputs.more}",
    "inputs": {"data": "pascal5i", "more": "coco20i"},
    "base": {"command": "y {inputs.data} {output}", "inputs": ["data"]},
}


def test_a_recipe_holds_the_digests_of_the_inputs_that_the_base_names() -> None:
    (base,) = sweep_of(BASED).bases
    assert base.recipe["inputs"] == {"data": VOC.digest}
    assert "prepare" not in base.recipe
    assert isinstance(base.work, CommandWork)
    assert base.work.inputs == {"data": VOC}
    (other,) = sweep_of(BASED, pascal5i=VOC_3).bases
    assert other.recipe_hash != base.recipe_hash
    (same,) = sweep_of(BASED, coco20i=VOC_3).bases
    assert same.recipe_hash == base.recipe_hash


def test_a_base_without_inputs_keeps_the_hash_that_it_had_before_there_were_any() -> None:
    plain = {"command": "x", "base": {"command": "y {output}"}}
    read = {**plain, "command": "x {inputs.d}", "inputs": {"d": "pascal5i"}}
    assert sweep_of(plain).bases[0].recipe_hash == sweep_of(read).bases[0].recipe_hash


def test_the_lines_that_prepare_a_base_are_hashed() -> None:
    tree = {**BASED, "base": {**BASED["base"], "prepare": "unpack {inputs.data} {prepared}"}}
    (base,) = sweep_of(tree).bases
    assert base.recipe["prepare"] == "unpack {inputs.data} {prepared}"
    assert base.recipe_hash != sweep_of(BASED).bases[0].recipe_hash


def test_another_version_of_the_data_is_another_sweep() -> None:
    ids = {sweep_of(BASED).sweep_id, sweep_of(BASED, coco20i=VOC_3).sweep_id}
    assert len(ids) == 2
    assert sweep_of(BASED).sweep_id in ids


# --- prepare --------------------------------------------------------------------------

PREPARED: dict[str, Any] = {
    "command": "x {prepared} {shots}",
    "code": ".",
    "inputs": ["pascal5i"],
    "prepare": ["unpack {inputs.pascal5i}", "index {width} > {prepared}/i"],
    "matrix": {"width": [1, 2], "shots": [1, 5]},
}


def test_the_lines_of_a_preparation_are_one_script_that_ends_at_the_first_failure() -> None:
    assert work_of(PREPARED).prepare == ("set -e\nunpack {inputs.pascal5i}\nindex 1 > {prepared}/i")


def test_cells_share_a_preparation_as_far_as_its_lines_are_the_same() -> None:
    keys = [prepared_key(job.work, None) for job in sweep_of(PREPARED).jobs]  # type: ignore[arg-type]
    assert keys[0] == keys[1]
    assert keys[2] == keys[3]
    assert len(set(keys)) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"prepare": "other"},
        {"code": None},
        {"inputs": {"pascal5i": VOC_3}},
        {"inputs": {}},
        {"inputs": {"data": VOC}},
    ],
)
def test_a_preparation_is_another_one_when_what_it_depends_on_changes(changed: Any) -> None:
    from msgspec.structs import replace

    work = work_of(PREPARED)
    assert prepared_key(replace(work, **changed), None) != prepared_key(work, None)
    assert prepared_key(replace(work, command="y", env={"A": "1"}), None) == prepared_key(
        work, None
    )


def test_a_preparation_is_no_other_account_s() -> None:
    work = work_of(PREPARED)
    assert prepared_key(work, "ada") != prepared_key(work, None)


def test_a_share_in_another_place_is_prepared_anew() -> None:
    from msgspec.structs import replace

    here = CommandWork("x", prepare="y", inputs={"c": SHARE})
    there = replace(here, inputs={"c": replace(SHARE, source="/srv/coco")})
    assert prepared_key(here, None) != prepared_key(there, None)
