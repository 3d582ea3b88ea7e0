"""The master's answers to queries, over a real scheduler's state."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from master_double import BASE_BYTES, MasterDouble, over_the_wire, small_sweep, user_error

from meshtrain.core import events as ev
from meshtrain.errors import NotFoundError, UserError
from meshtrain.results.merge import CellResult, merge
from meshtrain.spec.jobs import ResultsSpec
from meshtrain.wire.messages import PROTOCOL_VERSION, Answer, Query
from meshtrain_daemon.master import queries
from meshtrain_daemon.master.names import Resolved, resolve, resolve_base, resolve_job


def ask(master: MasterDouble, what: str, *names: str, **paging: int) -> Answer:
    answer = queries.answer(master.state, Query("r", what, names, **paging), master)
    decoded = over_the_wire(answer)
    assert isinstance(decoded, Answer)
    return decoded


def rows(master: MasterDouble, what: str, *names: str, **paging: int) -> list[Any]:
    answer = ask(master, what, *names, **paging)
    assert answer.error == ""
    return answer.rows


@pytest.fixture
def master() -> MasterDouble:
    master = MasterDouble()
    master.add_node("node-1")
    master.add_node("node-2", cpu_slots=1)
    return master


# --- names ----------------------------------------------------------------------------


def test_a_sweep_is_named_by_id_name_prefix_and_glob(master: MasterDouble) -> None:
    first = small_sweep("mix", sweep_id="mix-aaaaaaaa")
    latest = small_sweep("mix", sweep_id="mix-bbbbbbbb")
    other = small_sweep("other")
    for sweep in (first, latest, other):
        master.submit(sweep)
    for name in ("mix-bbbbbbbb", "mix", "mi", "mix-b"):
        assert resolve(master.state, [name]) == Resolved(sweep_ids=("mix-bbbbbbbb",)), name
    assert resolve(master.state, ["mix-a"]).sweep_ids == ("mix-aaaaaaaa",)
    found = resolve(master.state, ["*", "mix"])
    assert set(found.sweep_ids) == {"mix-aaaaaaaa", "mix-bbbbbbbb", "other-00000001"}
    assert len(found.sweep_ids) == 3
    assert len(found.all_job_ids(master.state)) == 12


def test_a_job_is_named_by_id_name_pairs_and_glob(master: MasterDouble) -> None:
    sweep = small_sweep()
    master.submit(sweep)
    job = sweep.jobs[3]
    for name in (job.job_id, job.job_id[:6], job.name, "mix/fold=1,share=0.5", "mix/share=0.5,f*1"):
        assert resolve(master.state, [name]).job_ids == (job.job_id,), name
    folds = resolve(master.state, ["mix/fold=1"])
    assert folds.job_ids == (sweep.jobs[1].job_id, sweep.jobs[3].job_id)
    assert resolve(master.state, ["*fold=0"]).job_ids == (
        sweep.jobs[0].job_id,
        sweep.jobs[2].job_id,
    )
    assert resolve(master.state, [f"{sweep.sweep_id}/share=0.5"]).job_ids == (
        sweep.jobs[2].job_id,
        job.job_id,
    )
    with pytest.raises(NotFoundError, match="names 2 jobs"):
        resolve_job(master.state, "mix/fold=1")


def test_names_of_the_latest_sweep_win(master: MasterDouble) -> None:
    first = small_sweep("mix", sweep_id="mix-aaaaaaaa")
    latest = small_sweep("mix", sweep_id="mix-bbbbbbbb")
    master.submit(first)
    master.submit(latest)
    assert resolve_job(master.state, latest.jobs[0].name) == latest.jobs[0].job_id
    older = "mix-aaaaaaaa/" + first.jobs[0].name.partition("/")[2]
    assert resolve_job(master.state, older) == first.jobs[0].job_id


def test_a_base_is_named_as_people_see_it(master: MasterDouble) -> None:
    sweep = small_sweep()
    master.submit(sweep)
    recipe_hash = sweep.bases[0].recipe_hash
    job_id = master.state.bases[recipe_hash].job_id
    forms = (
        recipe_hash,
        recipe_hash[:5],
        f"{recipe_hash[:4]}…{recipe_hash[-3:]}",
        f"{recipe_hash[:4]}...{recipe_hash[-3:]}",
        f"base/{recipe_hash[:12]}",
        f"base/{recipe_hash[:6]}",
        "base/*",
    )
    for name in forms:
        assert resolve(master.state, [name]).job_ids == (job_id,), name
    for name in (*forms[:-1], job_id):
        assert resolve_base(master.state, name).recipe_hash == recipe_hash
    with pytest.raises(NotFoundError, match="no base is called"):
        resolve_base(master.state, "mix")


def test_what_names_nothing_gets_a_hint(master: MasterDouble) -> None:
    master.submit(small_sweep("few_shot"))
    with pytest.raises(NotFoundError, match='did you mean "few_shot"'):
        resolve(master.state, ["fewshot"])
    with pytest.raises(NotFoundError, match=r'did you mean "few_shot/share=0\.1,fold=0"'):
        resolve(master.state, ["few_shot/share=0.1,fold0"])
    with pytest.raises(NotFoundError, match="no job matches"):
        resolve(master.state, ["none*such"])
    for name in ("", " ", "x" * 600):
        with pytest.raises(NotFoundError):
            resolve(master.state, [name])


def test_an_ambiguous_beginning_is_refused(master: MasterDouble) -> None:
    master.submit(small_sweep("mix_a"))
    master.submit(small_sweep("mix_b"))
    with pytest.raises(NotFoundError, match="mix_a-00000001 or mix_b-00000001"):
        resolve(master.state, ["mix"])


def test_requests_are_bounded(master: MasterDouble) -> None:
    master.submit(small_sweep())
    with pytest.raises(UserError, match="names in one request"):
        resolve(master.state, ["mix"] * 1001)
    with pytest.raises(UserError, match="cut short"):
        resolve(master.state, ["mi"] * 51)
    # Names in full are looked up, and only those that must be searched for are few.
    assert len(resolve(master.state, ["mix/share=0.1,fold=0", "mix"] * 500).job_ids) == 1


def test_stars_match_in_linear_time(master: MasterDouble) -> None:
    master.submit(small_sweep())
    with pytest.raises(NotFoundError):
        resolve(master.state, ["*a" * 200 + "b"])
    assert len(resolve(master.state, ["m*x/*=*,*=*"]).job_ids) == 4
    with pytest.raises(NotFoundError):
        # The beginning and the end may not overlap.
        resolve(master.state, ["mix/share=0.1,fold=0*,fold=0"])


# --- queries ----------------------------------------------------------------------------


def test_an_unknown_query_names_the_known(master: MasterDouble) -> None:
    answer = ask(master, "job_s")
    assert 'did you mean "jobs"' in answer.error
    assert "history" in answer.error
    assert answer.rows == []
    assert "0 or more" in ask(master, "jobs", offset=-1).error


def test_ports(master: MasterDouble) -> None:
    (row,) = rows(master, "ports")
    assert row.pop("now_s") == pytest.approx(time.time(), abs=60)
    assert [row] == [
        {
            "control": 7470,
            "bulk": 7471,
            "feed": 7472,
            "http": 7473,
            "https": False,
            "home": master.home,
            "inbox": master.inbox,
            "version": "0.1.0",
            "protocol": PROTOCOL_VERSION,
            "incarnation": 1,
        }
    ]


def test_jobs_come_newest_sweep_first_and_in_pages(master: MasterDouble) -> None:
    old, new = small_sweep("old"), small_sweep("new", shares=(0.1,))
    master.submit(old)
    master.submit(new)
    expected = [job.name for job in (*new.jobs, *old.jobs)]
    expected.append(f"base/{old.bases[0].recipe_hash[:12]}")
    assert [row["name"] for row in rows(master, "jobs")] == expected
    paged = []
    for offset in range(0, len(expected), 3):
        answer = ask(master, "jobs", offset=offset, limit=3)
        assert answer.total == len(expected)
        paged += [row["name"] for row in answer.rows]
    assert paged == expected
    assert [row["name"] for row in rows(master, "jobs", "old/fold=1")] == [
        old.jobs[1].name,
        old.jobs[3].name,
    ]
    assert rows(master, "jobs", limit=0) == []


def test_a_page_stays_below_the_size_of_a_message(
    master: MasterDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    master.submit(small_sweep(folds=50))
    monkeypatch.setattr(queries, "ANSWER_BYTES_MAX", 2000)
    answer = ask(master, "jobs")
    assert 0 < len(answer.rows) < 10
    assert answer.total == 101
    monkeypatch.setattr(queries, "ANSWER_BYTES_MAX", 1)
    assert len(rows(master, "jobs")) == 1


def test_sweeps_count_their_jobs_by_state(master: MasterDouble) -> None:
    sweep = small_sweep()
    master.submit(sweep)
    master.run_once()
    master.start_all()
    (row,) = rows(master, "sweeps")
    assert row["states"] == {"running": 3, "waiting": 1}
    assert row["recipe_hashes"] == [sweep.bases[0].recipe_hash]
    assert row["folder"].endswith("results/mix")
    assert "type" not in row


def test_bases_tell_why_there_is_none(master: MasterDouble) -> None:
    master.submit(small_sweep())
    (row,) = rows(master, "bases")
    assert (row["state"], row["waiting"], row["job_node_id"]) == ("needed", 4, "node-1")
    node_id, command = master.assigned.pop()
    failure = user_error("train.py: no such file")
    master.tell(ev.AttemptEnded(node_id, command.attempt_id, command.epoch, failure=failure))
    (row,) = rows(master, "bases", row["recipe_hash"][:8])
    assert row["state"] == "failed"
    assert "no such file" in row["failure"]


def test_nodes_tell_what_runs_there(master: MasterDouble) -> None:
    master.submit(small_sweep())
    first, second = rows(master, "nodes")
    assert first["running"] == [master.state.jobs[master.assigned[0][1].job_id].name]
    assert second["running"] == []
    assert first["spec"]["cpu_slots"] == 2
    assert 'did you mean "node-1"' in ask(master, "nodes", "node1").error


def test_a_job_whole(master: MasterDouble) -> None:
    master.outcome = lambda job: user_error("bad value")
    sweep = small_sweep()
    master.submit(sweep)
    master.run_all()
    (row,) = rows(master, "job", sweep.jobs[0].name)
    assert row["cell"] == {"share": 0.1, "fold": 0}
    assert row["last_failure"]["message"] == "bad value"
    assert [attempt["state"] for attempt in row["attempts"]] == ["failed"]
    assert row["base"]["state"] == "committed"
    assert "takes the name of a job" in ask(master, "job").error


def test_logs_are_read_by_offset(master: MasterDouble) -> None:
    sweep = small_sweep()
    master.submit(sweep)
    name = sweep.jobs[0].name
    (row,) = rows(master, "log", name)
    assert (row["attempt_id"], row["data"], row["ended"]) == (None, b"", False)
    assert "base" in row["reason"]
    master.run_once()
    (attempt,) = master.attempts_of(sweep.jobs[0].job_id)
    master.streams[attempt.attempt_id, "log"] = b"line 1\nline \xff2\n"
    (row,) = rows(master, "log", name, offset=7, limit=6)
    assert (row["data"], row["size_bytes"], row["ended"]) == (b"line \xff", 15, False)
    assert rows(master, "log", name, offset=99)[0]["data"] == b""
    assert rows(master, "log", name, "metrics")[0]["size_bytes"] == 0
    master.run_all()
    assert rows(master, "log", name, "", "1")[0]["ended"]
    assert "attempts 1 to 1" in ask(master, "log", name, "", "2").error
    assert "log and metrics" in ask(master, "log", name, "stderr").error


def test_results_are_what_merge_takes(master: MasterDouble) -> None:
    def outcome(job: Any) -> Any:
        return user_error() if job.spec.cell["fold"] == 1 else {"accuracy": job.spec.cell["share"]}

    master.outcome = outcome
    sweep = small_sweep()
    master.submit(sweep)
    master.run_all()
    (row,) = rows(master, "results", "mix")
    cells = msgspec.convert(row["cells"], list[CellResult])
    table = merge(cells, msgspec.convert(row["results"], ResultsSpec))
    assert [(r.mean, r.n, r.expected) for r in table.rows] == [(0.1, 1, 2), (0.5, 1, 2)]
    assert table.rows[0].missing[0].reason == "user error: exit code 1"
    answer = ask(master, "results", "mix", offset=1, limit=2)
    assert answer.total == 4
    assert [cell["index"] for cell in answer.rows[0]["cells"]] == [1, 2]


def test_a_result_without_metrics_has_its_reason(master: MasterDouble) -> None:
    master.outcome = lambda job: {}
    master.submit(small_sweep())
    master.run_all()
    (row,) = rows(master, "results", "mix")
    assert {cell["reason"] for cell in row["cells"]} == {"no metrics.json in the result"}


def test_recipes_and_history_are_what_plans_need(master: MasterDouble) -> None:
    sweep = small_sweep()
    master.submit(sweep)
    assert rows(master, "history") == []
    master.run_all()
    (recipe,) = rows(master, "recipes")
    assert recipe["recipe"] == sweep.bases[0].recipe
    assert (recipe["size_bytes"], recipe["trained_s"]) == (BASE_BYTES, 60.0)
    base, jobs = rows(master, "history")
    assert (base["kind"], base["count"], base["mean_s"]) == ("base", 1, 60.0)
    assert (jobs["sweep"], jobs["work"], jobs["count"]) == ("mix", "command", 4)
    assert jobs["mean_s"] == pytest.approx(60.0)
