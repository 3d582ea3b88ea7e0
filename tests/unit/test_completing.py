"""How names go on that somebody has begun to type, over a real scheduler's state."""

from __future__ import annotations

from typing import Any

import pytest
from master_double import MasterDouble, over_the_wire, small_sweep

from meshtrain.wire import messages as msg
from meshtrain_daemon.master import completing
from meshtrain_daemon.master.queries import answer


@pytest.fixture
def master() -> MasterDouble:
    master = MasterDouble()
    master.add_node("gpu-1")
    master.add_node("gpu-10")
    master.add_node("cpu-1")
    master.submit(small_sweep("few_shot"))
    master.submit(small_sweep("mix"))
    return master


def told(master: MasterDouble, kind: str, beginning: str) -> dict[str, str]:
    query = msg.Query("q", "names", (kind, beginning))
    found: Any = over_the_wire(answer(master.state, query, master))
    assert not found.error, found.error
    assert found.total == len(found.rows)
    return dict(found.rows)


def test_sweeps_then_their_jobs(master: MasterDouble) -> None:
    assert told(master, "any", "f") == {"few_shot": "4 jobs, 4 to do"}
    assert list(told(master, "any", "")) == ["mix", "few_shot"]
    jobs = told(master, "any", "few_shot/share=0.1")
    assert jobs == {
        "few_shot/share=0.1,fold=0": "waiting",
        "few_shot/share=0.1,fold=1": "waiting",
    }
    assert told(master, "any", "nothing") == {}
    assert told(master, "any", "nothing/x") == {}


def test_one_job_is_gone_on_to_by_its_sweep(master: MasterDouble) -> None:
    assert list(told(master, "job", "m")) == ["mix/"]
    master.submit(small_sweep("alone", shares=(0.5,), folds=1))
    assert list(told(master, "job", "a")) == ["alone"]


def test_a_sweeps_id_is_told_once_its_name_is_typed(master: MasterDouble) -> None:
    assert list(told(master, "sweep", "mix")) == ["mix"]
    assert list(told(master, "sweep", "mix-")) == ["mix-00000001"]
    jobs = told(master, "any", "mix-00000001/share=0.5,")
    assert list(jobs) == [
        "mix-00000001/share=0.5,fold=0",
        "mix-00000001/share=0.5,fold=1",
    ]


def test_of_many_jobs_the_next_pair_is_told(master: MasterDouble) -> None:
    shares = tuple(round(0.01 * n, 2) for n in range(1, 21))
    master.submit(small_sweep("wide", shares=shares, folds=5))
    names = told(master, "any", "wide/")
    assert len(names) == 20
    assert names["wide/share=0.01,"] == "5 jobs"
    assert len(told(master, "any", "wide/share=0.01,")) == 5


def test_nodes_bases_and_kinds_that_are_none(master: MasterDouble) -> None:
    assert told(master, "node", "gpu") == {"gpu-1": "ready", "gpu-10": "ready"}
    recipe_hash = small_sweep().bases[0].recipe_hash
    (name,) = told(master, "base", recipe_hash[:4])
    assert name == recipe_hash[: completing.HASH_LEN]
    assert list(told(master, "base", recipe_hash[:20])) == [recipe_hash]
    assert list(told(master, "any", "bas")) == ["base/"]
    (job,) = told(master, "job", "base/")
    assert job.startswith(f"base/{recipe_hash[:4]}")
    query = msg.Query("q", "names", ("planet", ""))
    assert "there are any, job" in answer(master.state, query, master).error
    query = msg.Query("q", "names", ("node",))
    assert "takes a kind" in answer(master.state, query, master).error


def test_data_sets_and_their_versions(master: MasterDouble) -> None:
    for number in range(2):
        master.request(msg.PublishInput(f"p{number}", "voc", f"{number:032x}"))
    assert told(master, "input", "v") == {"voc": "version 2"}
    assert list(told(master, "input", "voc@")) == ["voc@2", "voc@1"]


def test_no_answer_grows_without_end(master: MasterDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completing, "NAMES_MAX", 3)
    shares = tuple(round(0.01 * n, 2) for n in range(1, 21))
    master.submit(small_sweep("wide", shares=shares, folds=5))
    assert len(told(master, "any", "wide/")) == 3
    assert told(master, "any", "x" * 600) == {}
