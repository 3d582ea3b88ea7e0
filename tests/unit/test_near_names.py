"""What somebody may have meant by a job's name that names none."""

from __future__ import annotations

import pytest
from cli_double import run
from master_double import MasterDouble, small_sweep

from meshtrain_daemon.master.near_names import VALUES_SHOWN_MAX, why_none


@pytest.fixture(scope="module")
def master() -> MasterDouble:
    master = MasterDouble()
    master.add_node("gpu1")
    master.submit(small_sweep("few_shot"))
    return master


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fewshot/fold=1", 'no sweep is called "fewshot"; did you mean "few_shot"?'),
        ("few_shot/flod=1", 'few_shot has no axis "flod"; did you mean "fold"?'),
        ("few_shot/zzz=1", "its axes are share and fold"),
        ("few_shot/share=0.1,fold=7", "no job of few_shot has fold=7: there are fold 0 and 1"),
        ("few_shot/*fold=7", "no job of few_shot has fold=7"),
        ("few_shot/what", "no job, sweep or base is called"),
        ("base/zzzz", "no job, sweep or base is called"),
        ("few_shoot", 'did you mean "few_shot"?'),
    ],
)
def test_a_name_that_names_none_gets_the_mend(master: MasterDouble, name: str, words: str) -> None:
    for command in ("jobs", "cancel", "logs"):
        result = run(master, command, name)
        assert result.exit_code == 2
        assert words in result.stderr
        assert "List them: meshtrain jobs" in result.stderr


def test_a_sweep_of_many_jobs_is_no_job(master: MasterDouble) -> None:
    master.submit(small_sweep("wide", shares=(0.1, 0.2, 0.3)))
    result = run(master, "logs", "wide")
    assert result.stderr == (
        '"wide" names 6 jobs: name one of them, such as wide/share=0.1,fold=0. '
        "List them: meshtrain jobs 'wide'\n"
    )


def test_many_values_are_cut() -> None:
    names = [f"a/seed={number}" for number in range(50)]
    told = why_none("a", "seed=99", names, ["a"])
    assert told.count(",") == VALUES_SHOWN_MAX - 2
    assert told.endswith("45 more")


def test_a_node_that_is_none_gets_a_did_you_mean(master: MasterDouble) -> None:
    for arguments in (
        ("drain", "gpu2"),
        ("nodes", "show", "gpu2"),
        ("nodes", "release", "gpu2"),
        ("bases", "pin", "3e9d", "--node", "gpu2"),
        ("bases", "evict", "3e9d", "--node", "gpu2"),
    ):
        result = run(master, *arguments)
        assert result.exit_code == 2
        assert 'no node is called "gpu2"; did you mean "gpu1"?' in result.stderr, arguments
