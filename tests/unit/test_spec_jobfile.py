"""Whole job files: what is accepted, and how all problems of one are told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshtrain.spec import validate
from meshtrain.spec.forms import CommandSweep, TrainingSweep
from meshtrain.spec.jobfile import JobFile, JobFileError, parse_job_file
from meshtrain.spec.reader import Document

SOUND: dict[str, Any] = {
    "base": {"participants": ["p01", "p02"], "model": "cnn"},
    "target": {"mode": "full_fine_tuning", "participant": "p07"},
}


def sweep(**changes: Any) -> dict[str, Any]:
    """A sound training sweep with some sections changed."""
    tree = {key: dict(value) for key, value in SOUND.items()}
    for key, value in changes.items():
        if isinstance(value, dict) and key in tree:
            tree[key] = {**tree[key], **value}
        else:
            tree[key] = value
    return tree


def parse(tree: Any, **options: Any) -> JobFile:
    return parse_job_file(json.dumps(tree).encode(), "x.json", **options)


def problems(tree: Any, **options: Any) -> list[str]:
    """`path: text` of every problem."""
    with pytest.raises(JobFileError) as caught:
        parse(tree, **options)
    from meshtrain.spec.problems import path_text

    return [f"{path_text(problem.path)}: {problem.text}" for problem in caught.value.problems]


def test_the_whole_error_text() -> None:
    text = """\
name: sweep
base:
  participants: [p01, p02]
  model: cnn
  lerning_rate: 0.01
  batch_size: 64
matrix:
  target_batch_pct: [0.25,
                     1.5]
target:
  mode: full_fine_tuning
  participant: p02
"""
    with pytest.raises(JobFileError) as caught:
        parse_job_file(text.encode(), "sweep.yaml")
    assert str(caught.value) == (
        "sweep.yaml was not accepted: 3 problems. Nothing was started.\n"
        "\n"
        '  line 5, column 3   base.lerning_rate   unknown key; did you mean "lr"?\n'
        "  line 9, column 22  matrix.target_batch_pct[1]   "
        "1.5 is not a share: between 0 and 1\n"
        "  line 12            target.participant   "
        "p02 is also in base.participants: its test data would leak into the base\n"
        "\n"
        "Mend the file and drop it again. All keys: meshtrain schema --explain"
    )


def test_one_problem_without_a_place() -> None:
    with pytest.raises(JobFileError) as caught:
        parse_job_file(b"", "a.yaml")
    assert str(caught.value) == (
        "a.yaml was not accepted: 1 problem. Nothing was started.\n"
        "\n"
        "  the file is empty\n"
        "\n"
        "Mend the file and drop it again. All keys: meshtrain schema --explain"
    )


def test_toml_problems_have_their_line_too() -> None:
    text = (
        '[base]\nparticipants = ["a"]\nmodle = "cnn"\n'
        '[target]\nmode = "target_only_fine_tuning"\nparticipant = "b"\nlr = "0.1"\n'
    )
    with pytest.raises(JobFileError) as caught:
        parse_job_file(text.encode(), "a.toml")
    assert str(caught.value).splitlines()[2:5] == [
        "  line 1, column 1  base.model   missing: softmax, mlp, cnn or cnn_wide",
        '  line 3, column 1  base.modle   unknown key; did you mean "model"?',
        '  line 7, column 6  target.lr   "0.1" is not a number; leave the quotes out',
    ]


def test_many_problems_are_cut_short() -> None:
    tree = sweep(matrix={"fold": [f"x{index}" for index in range(80)]})
    with pytest.raises(JobFileError) as caught:
        parse(tree)
    assert "80 problems" in str(caught.value)
    assert "  … and 30 more" in str(caught.value)


def test_p11_of_very_many_problems_the_first_are_kept_and_the_others_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hinted: list[str] = []

    def hint(word: str, choices: object) -> str:
        hinted.append(word)
        return ""

    monkeypatch.setattr(validate, "hint", hint)
    with pytest.raises(JobFileError) as caught:
        parse({"name": "x", "command": "e", **{f"k{number}": 1 for number in range(1000)}})
    assert len(caught.value.problems) == 200
    assert "x.json was not accepted: 1000 problems." in str(caught.value)
    assert "  … and 950 more" in str(caught.value)
    assert len(hinted) == 200, "to look for what was meant takes long"


def test_p11_a_problem_is_held_against_few_others_however_many_there_are() -> None:
    """Against each that was known, a file of 1 MB took a core for minutes."""
    compared = 0

    class Key(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    findings = validate.Findings("x.json", Document(""))
    for number in range(300):
        findings.at_key("unknown key", (Key("base"), Key(f"k{number}")))
        findings.at_key("and what is in it", (Key("base"), Key(f"k{number}"), Key("inside")))
    findings.at_value("what lies around them", (Key("base"),))
    assert len(findings) == 300
    assert compared < 20 * 300


def test_forms_are_told_apart() -> None:
    assert isinstance(parse(sweep()).form, TrainingSweep)
    assert isinstance(parse({"command": "true"}).form, CommandSweep)
    assert isinstance(parse({"code": ".", "base": {"command": "true"}}).form, CommandSweep)
    flat = parse([{"mode": "base_only", "participants": ["a"], "model": "cnn"}])
    assert isinstance(flat.form, tuple)


def test_the_name_is_the_files_when_none_is_given() -> None:
    assert parse_job_file(b"command: 'true'", "my sweep (2).yaml").name == "my_sweep_2"
    assert parse_job_file(b"command: 'true'", "….yaml").name == "sweep"
    assert parse_job_file(b"command: 'true'\nname: a", "b.yaml").name == "a"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"base": {"model": "cn"}}, 'base.model: "cn" is not one of softmax, mlp, cnn, cnn_wide; '
         'did you mean "cnn"?'),
        ({"base": {"augmentation": "shfit"}}, 'base.augmentation: "shfit" is not one of none, '
         'shift, affine; did you mean "shift"?'),
        ({"base": {"optimizer": "rmsprop"}}, 'base.optimizer: "rmsprop" is not one of adam, sgd'),
        ({"base": {"batch_size": "64"}}, 'base.batch_size: "64" is not a whole number; '
         "leave the quotes out"),
        ({"base": {"batch_size": True}}, "base.batch_size: true is not a whole number"),
        ({"base": {"batch_size": 0}}, "base.batch_size: 0 is out of range: "
         "a whole number from 1 to 1000000"),
        ({"base": {"lr": 0}}, "base.lr: 0 is out of range: above 0, at most 1000"),
        ({"base": {"participants": []}}, "base.participants: the list is empty: a base needs data"),
        ({"base": {"participants": "p01"}}, 'base.participants: expected a list, got "p01"'),
        ({"base": {"participants": ["p01", 2]}}, "base.participants[1]: 2 is not a name: letters, "
         'digits, dot, dash and underscore, at most 64; write "2"'),
        ({"base": {"participants": ["../x"]}}, 'base.participants[0]: "../x" is not a name: '
         "letters, digits, dot, dash and underscore, at most 64"),
        ({"base": {"data": "mnist"}}, 'base.data: "mnist" is no data source: '
         "write digits, or {folder: /abs/path}"),
        ({"data": {"folder": "data"}}, 'data: "data" is not an absolute path: it begins with /'),
        ({"data": "digits", "base": {"data": {"folder": "/d"}}},
         "base.data: another source than data at the top; write it in one place"),
        ({"target": {"mode": "base_alone"}},
         'target.mode: "base_alone" trains nothing: write references: [base_alone]'),
        ({"target": {"mode": "fine_tuning"}}, 'target.mode: "fine_tuning" is not one of base_only, '
         'full_fine_tuning, target_only_fine_tuning, target_only; '
         'did you mean "full_fine_tuning"?'),
        ({"target": {"target_data_pct": 0}},
         "target.target_data_pct: 0 leaves the target no samples: a share above 0, at most 1"),
        ({"target": {"fold": 5}},
         "target.fold: fold 5: there are 5 folds, counted from 0; raise target.folds"),
        ({"target": {"model": "mlp"}},
         "target.model: a target that starts from the base has its model; set base.model"),
        ({"target": {"mode": "target_only_fine_tuning", "target_batch_pct": 0.5}},
         "target.target_batch_pct: has no effect: only full_fine_tuning mixes batches"),
        ({"fold": 1}, 'fold: unknown key; did you mean "target.fold"?'),
        ({"lr": 1}, 'lr: unknown key; did you mean "target.lr"?'),
        ({"grid": {}}, 'grid: unknown key; did you mean "matrix"?'),
        ({"target": 3}, "target: expected keys with values, got 3"),
        ({"references": ["base"]}, 'references[0]: "base" is not one of base_alone, target_only, '
         "target_only_fine_tuning"),
        ({"references": ["base_alone", "base_alone"]}, "references: a reference is here twice"),
        ({"results": {"over": "fold"}}, 'results.over: "fold" is no axis of the matrix'),
        ({"results": {"over": ["flod"]}, "matrix": {"fold": [0]}},
         'results.over[0]: "flod" is no axis of the matrix; did you mean "fold"?'),
        ({"results": {"file": "../x"}},
         'results.file: "../x" leads out of its folder: write a path below it'),
        ({"resources": {"gpu_memory": "12 apples"}}, 'resources.gpu_memory: "12 apples" is not a '
         'size: write "12GB", "512MiB" or bytes'),
        ({"timeout": "soon"}, 'timeout: "soon" is not a duration: write "90s", "30m", "2h" '
         "or seconds"),
        ({"checkpoint_every": 0}, "checkpoint_every: 0 is out of range: above 0, at most ten "
         "years"),
        ({"user": "-rf"}, 'user: "-rf" is not an account\'s name: a letter or underscore, then '
         "letters, digits, dot, dash and underscore, at most 32"),
        ({"user": 1000}, "user: 1000 is not an account's name: a letter or underscore, then "
         "letters, digits, dot, dash and underscore, at most 32"),
        ({"user": "root"}, "user: jobs don't run as root: name an account that only owns what "
         "they need"),
        ({"code": "."}, "code: belongs to a command, and this sweep is built-in training"),
        ({"name": "a/b"}, 'name: "a/b" is not a name: letters, digits, dot, dash and '
         "underscore, at most 64"),
        ({"matrix": {"target_batch_pct": [0.5], "target.target_batch_pct": [0.7]}},
         'matrix.target_batch_pct: the same as "target.target_batch_pct"; leave one out'),
        ({"matrix": {"participant": ["p07", "p01"]}}, "matrix.participant[1]: p01 is also in "
         "base.participants: its test data would leak into the base"),
        ({"matrix": {"fold": [0, 7]}},
         "matrix.fold[1]: fold 7: there are 5 folds, counted from 0; raise target.folds"),
        ({"matrix": {"fold": {"range": [0, 7]}}},
         "matrix.fold: fold 6: there are 5 folds, counted from 0; raise target.folds"),
        ({"matrix": {"model": ["mlp"]}},
         "matrix.model: a target that starts from the base has its model; set base.model"),
        ({"matrix": {"base.rl": [0.1]}}, 'matrix.base.rl: no key that can vary; can vary: model, '
         "batch_size, lr, augmentation, epochs, seed, optimizer, weight_decay"),
        ({"matrix": {"base.batchsize": [1]}},
         'matrix.base.batchsize: no key that can vary; did you mean "base.batch_size"?'),
        ({"matrix": {"mode": ["base_only", "target_only"]}},
         "matrix.mode: base_only has no target to vary; leave it out of the list"),
    ],
)  # fmt: skip
def test_a_training_sweep_is_refused(changes: dict[str, Any], problem: str) -> None:
    assert problems(sweep(**changes)) == [problem]


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ({}, ": the file has no keys; a sweep needs base or command"),
        (3, ": expected the keys of a sweep, or a list of jobs, got 3"),
        ("x", ': expected the keys of a sweep, or a list of jobs, got "x"'),
        ([], ": the list is empty: it needs a job"),
        ([1], "[0]: expected keys with values, got 1"),
        ({"target": SOUND["target"]}, "base: missing: the model that the runs start from"),
        ({"base": {"model": "cnn"}},
         "base.participants: missing: whose data the base is trained on"),
        (
            {"base": SOUND["base"], "target": {"participant": "p07"}},
            "target.mode: missing: base_only, full_fine_tuning, target_only_fine_tuning or "
            "target_only",
        ),
        (
            {"base": SOUND["base"], "target": {"mode": "full_fine_tuning"}},
            "target.participant: missing: whose model is wanted",
        ),
        (
            {"target": {"mode": "target_only", "participant": "a"}},
            "target.model: missing: softmax, mlp, cnn or cnn_wide",
        ),
        (
            {"base": SOUND["base"], "matrix": {"lr": [0.1]}},
            'matrix.lr: there is no target; for the base write "base.lr"',
        ),
        (
            {"base": SOUND["base"], "references": ["base_alone"]},
            "references: there is no target to compare with",
        ),
        ({"command": "a", "target": {}}, "target: belongs to built-in training, and this sweep "
         "runs a command"),
        ({"command": "run {shot}", "matrix": {"shots": [1]}},
         'command: unknown placeholder {shot}; did you mean "shots"?'),
        ({"command": "run {base}"}, "command: unknown placeholder {base}; known here: {output}"),
        ({"command": "awk '{print $1}'"}, 'command: a lone "{"; write {{ for a plain brace'),
        ({"command": "a", "env": {"X": "{y}"}},
         "env.X: unknown placeholder {y}; known here: {output}"),
        ({"command": "a", "env": {"A-B": "1"}},
         'env.A-B: "A-B" is not a variable\'s name: letters, digits and underscore'),
        ({"command": "a", "params": {"x": [1]}},
         "params.x: expected text, a number or true/false, got a list"),
        ({"command": "a", "params": {"output": 1}},
         "params.output: {output} is filled on the node; give the parameter another name"),
        ({"command": "a", "matrix": {"output": [1]}},
         "matrix.output: {output} is filled on the node; give the axis another name"),
        ({"command": "a", "matrix": {"a b": [1]}}, 'matrix.a b: an axis is a name of letters, '
         'digits, "_" and "-", or "base.params." and one'),
        ({"command": "a", "matrix": {"base.params.x": [1]}},
         "base: missing: the matrix varies its params"),
        ({"command": "a", "base": {}},
         "base.command: missing: the shell line that makes the base"),
        ({"command": "a", "base": {"command": "b", "code": ["x.py"]}},
         "code: missing: base.code names files of it, so write the folder here"),
        ({"command": "a", "code": ".", "base": {"command": "b", "code": ["/etc/passwd"]}},
         'base.code[0]: "/etc/passwd" leads out of its folder: write a path below it'),
        ({"code": "."}, "command: missing: the shell line that each job runs"),
        ({"command": ""}, "command: the text is empty"),
        ({"command": 5}, 'command: expected text, got 5; write "5"'),
        (
            [{"mode": "full_fine_tuning", "participants": ["a"], "target_participant": "a",
              "model": "cnn"}],
            "[0].target_participant: a is also in participants: its test data would leak into "
            "the base",
        ),
        (
            [{"mode": "target_only", "target_participant": "a", "model": "cnn", "batch": 3}],
            '[0].batch: unknown key; did you mean "batch_size"?',
        ),
        (
            [{"mode": "target_only", "target_participant": "a", "model": "cnn", "device": "gpu"}],
            '[0].device: "gpu" is not a device: write 0, "0,1", "cuda:0" or "cpu"',
        ),
        (
            [{"mode": "target_only", "target_participant": "a", "model": "cnn"}] * 2,
            "[1]: the same job as [0]; leave one out",
        ),
    ],
)  # fmt: skip
def test_a_file_is_refused(tree: Any, problem: str) -> None:
    assert problem in problems(tree)
    assert len(problems(tree)) == 1


@pytest.mark.parametrize(
    ("matrix", "problem"),
    [
        ([1], "matrix: expected axes with lists of values, got a list"),
        ({"a": 1}, "matrix.a: expected a list of values, got 1; write [1]"),
        ({"a": []}, "matrix.a: the list is empty: an axis needs a value"),
        ({"a": [None]}, "matrix.a[0]: expected text, a number or true/false, got nothing"),
        ({"a": [[1]]}, "matrix.a[0]: expected text, a number or true/false, got a list"),
        ({"a": [1, "1"]}, 'matrix.a[1]: "1" is the same as [0]; give each value once'),
        ({"a": {"rnage": [0, 1]}},
         'matrix.a.rnage: expected {range: [start, stop, step]}; did you mean "range"?'),
        ({"a": {"range": [0]}},
         "matrix.a.range: expected [start, stop, step]: two or three numbers"),
        ({"a": {"range": [0, 5, 0]}}, "matrix.a.range[2]: a step of 0 never arrives"),
        ({"a": {"range": [5, 0]}},
         "matrix.a.range: the range is empty; the stop is left out, as in Python"),
        ({"a": {"range": [0, 10**18]}}, "matrix.a.range: 1,000,000,000,000,000,000 cells, and the "
         "limit is 1,000; split the sweep, or raise cells_max in master.toml"),
        ({"a": list(range(100)), "b": list(range(11))}, "matrix: 1,100 cells, and the limit is "
         "1,000; split the sweep, or raise cells_max in master.toml"),
        ({"a": [1], "exclude": [{"b": 1}]}, "matrix.exclude[0].b: no axis of the matrix"),
        ({"a": [1], "exclude": [{"a": 2}]},
         "matrix.exclude[0].a: 2 is no value of this axis: nothing would be excluded"),
        ({"a": [1], "exclude": [{"a": 1}]},
         "matrix.exclude: every cell is excluded: nothing is left to run"),
        ({"a": [1], "include": [{}]},
         "matrix.include[0]: expected a cell such as {fold: 0}, got keys with values"),
        ({"include": [{"a": 1}, {"b": 1}]},
         "matrix.include[1]: without axis lists, every cell names the same axes: a"),
        ({f"a{index}": [1] for index in range(40)}, "matrix: 40 axes; at most 32"),
    ],
)  # fmt: skip
def test_a_matrix_is_refused(matrix: Any, problem: str) -> None:
    assert problems({"command": "true", "matrix": matrix}, cells_max=1000) == [problem]


def test_unreadable_values_and_wrong_fields_are_told_together_and_once() -> None:
    text = "base:\n  participants: [a]\n  lr: .nan\n  lr2: 1\n  model: cnn\n  model: mlp\n"
    with pytest.raises(JobFileError) as caught:
        parse_job_file(text.encode(), "x.yaml")
    assert [problem.path[-1] for problem in caught.value.problems] == ["lr", "lr2", "model"]


@pytest.mark.parametrize("matrix", [1, "fold", [], {"fold": [0], "include": 3}, {"include": "a"},
                                    {"participant": ["a", []], "fold": [{}, 0]}])  # fmt: skip
def test_checks_between_sections_bear_a_matrix_that_is_none(matrix: Any) -> None:
    told = problems(sweep(matrix=matrix, results={"over": "fold"}))
    assert any(line.startswith("matrix") for line in told)


def test_shell_variables_and_escaped_braces_are_left_alone() -> None:
    assert parse({"command": "echo ${HOME} ${X:-1} {{a}} {output}"})
