"""The commands that show and change the mesh, over a real scheduler's state."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from cli_double import out, run
from master_double import MasterDouble, small_sweep, user_error

from meshtrain.cli import output
from meshtrain.core import events as ev
from meshtrain.core.inventory import CacheUse
from meshtrain.core.job import Failure, FailureClass
from meshtrain.wire import messages as msg


@pytest.fixture
def master() -> MasterDouble:
    master = MasterDouble()
    master.add_node("node-1")
    return master


# --- jobs -----------------------------------------------------------------------------


def test_an_empty_mesh_says_what_to_do(master: MasterDouble) -> None:
    assert out(master, "jobs") == (
        "No jobs yet: drop a file into /var/lib/meshtrain/inbox, or meshtrain submit FILE\n"
    )
    assert "with a base: section" in out(master, "bases")
    assert out(MasterDouble(), "nodes") == "No nodes yet: start one with meshtrain worker\n"
    for command in ("jobs", "bases"):
        assert json.loads(out(master, command, "--json")) == []


def test_jobs_by_sweep_with_what_they_measured_or_wait_for(master: MasterDouble) -> None:
    master.outcome = lambda job: (
        user_error("exit code 3") if job.spec.cell["fold"] else {"loss": 2.5, "accuracy": 0.8125}
    )
    master.submit(small_sweep())
    text = out(master, "jobs")
    assert "mix-00000001   0 of 4 jobs ended · 4 waiting\n" in text
    assert "waits for base" in text
    master.run_once()
    master.run_once()
    master.start_all()
    master.wait(90)
    text = out(master, "jobs", "mix")
    assert "2 of 4 jobs ended · 2 running · 1 failed" in text
    lines = {line.split()[0]: line for line in text.splitlines() if "share=" in line}
    done = lines["share=0.1,fold=0"].split()
    assert done[1:] == ["succeeded", "node-1", "1", "min", "accuracy", "0.8125"]
    assert "user error: exit code 3" in lines["share=0.1,fold=1"]
    assert "base models" in out(master, "jobs")


def test_jobs_by_state_and_in_part(master: MasterDouble) -> None:
    master.outcome = lambda job: user_error() if job.spec.cell["fold"] else {"accuracy": 0.5}
    master.submit(small_sweep(folds=4))
    master.run_all()
    rows = json.loads(out(master, "jobs", "mix", "--state", "failed", "--json"))
    assert [row["state"] for row in rows] == ["failed"] * 6
    text = out(master, "jobs", "--limit", "3")
    assert text.count("share=") == 3
    assert "… and 6 more jobs: --limit 0 shows all" in text
    assert out(master, "jobs", "--state", "failed", "--limit", "2").count("share=") == 2
    assert out(master, "jobs", "--state", "running") == "No such jobs.\n"
    wrong = run(master, "jobs", "--state", "runing")
    assert wrong.exit_code == 2
    assert 'did you mean "running"' in wrong.stderr


def test_more_jobs_than_a_page(master: MasterDouble) -> None:
    master.submit(small_sweep(folds=600))
    rows = json.loads(out(master, "jobs", "--json"))
    assert len(rows) == 1201
    assert len({row["job_id"] for row in rows}) == 1201


def test_a_name_that_names_nothing_exits_2(master: MasterDouble) -> None:
    master.submit(small_sweep("few_shot"))
    for command in ("jobs", "cancel", "retry", "logs", "results"):
        result = run(master, command, "fewshot")
        assert result.exit_code == 2
        assert 'did you mean "few_shot"?' in result.stderr


def test_what_a_job_says_can_not_drive_the_terminal(master: MasterDouble) -> None:
    master.outcome = lambda job: user_error("\x1b[2Jgone\r\nsecond")
    master.submit(small_sweep())
    master.run_all()
    text = out(master, "jobs")
    assert "\x1b" not in text
    assert "[2Jgone  second" in text


# --- logs -----------------------------------------------------------------------------


def test_logs_are_exact_bytes(master: MasterDouble) -> None:
    sweep = small_sweep()
    master.submit(sweep)
    master.run_all()
    (attempt,) = master.attempts_of(sweep.jobs[0].job_id)
    data = bytes(range(256)) * 9000
    master.streams[attempt.attempt_id, "log"] = data
    master.streams[attempt.attempt_id, "metrics"] = b'{"step": 1}\n'
    result = run(master, "logs", sweep.jobs[0].name)
    assert result.exit_code == 0
    assert result.stdout_bytes == data
    assert run(master, "logs", sweep.jobs[0].name, "--metrics").stdout_bytes == b'{"step": 1}\n'
    assert run(master, "logs", sweep.jobs[0].name, "--attempt", "1").stdout_bytes == data
    assert run(master, "logs", sweep.jobs[0].name, "--attempt", "7").exit_code == 2


def test_P6_logs_show_the_line_about_lost_bytes_once_and_no_byte_of_the_hole(
    master: MasterDouble,
) -> None:
    sweep = small_sweep()
    master.submit(sweep)
    master.run_all()
    (attempt,) = master.attempts_of(sweep.jobs[0].job_id)
    key = (attempt.attempt_id, "log")
    head, tail = b"first\n[meshtrain: 1,000 bytes of this log were lost here]\n", b"last\n"
    # What is asked for at once ends at the hole.
    master.streams[key] = head + bytes(3 << 20) + tail
    master.lost[key] = {len(head): len(head) + (3 << 20)}
    result = run(master, "logs", sweep.jobs[0].name)
    assert result.stdout_bytes == head + tail


def test_the_log_of_a_job_that_waits(master: MasterDouble) -> None:
    sweep = small_sweep()
    master.submit(sweep)
    result = run(master, "logs", sweep.jobs[0].name)
    assert result.exit_code == 2
    assert "has not started: waits for base" in result.stderr


def test_a_job_that_runs_again_tells_what_ended_it_before(master: MasterDouble) -> None:
    master.submit(small_sweep(shares=(0.5,), folds=1))
    master.run_once()
    node_id, command = master.assigned.pop()
    failure = Failure(FailureClass.HOST_LOST, "gone", node_id)
    master.tell(ev.AttemptEnded(node_id, command.attempt_id, command.epoch, failure=failure))
    assert "before: host lost: gone" in out(master, "jobs")


def test_following_a_log_to_its_end(master: MasterDouble) -> None:
    """The job waits, runs, is lost with its node, runs again, and its last bytes come late."""
    sweep = small_sweep(shares=(0.5,), folds=1)
    (job,) = sweep.jobs
    master.submit(sweep)

    def append(number: int, data: bytes) -> Callable[[], None]:
        def write() -> None:
            attempt = master.attempts_of(job.job_id)[number]
            key = (attempt.attempt_id, "log")
            master.streams[key] = master.streams.get(key, b"") + data

        return write

    def lose() -> None:
        node_id, command = master.assigned.pop()
        failure = Failure(FailureClass.HOST_LOST, "gone", node_id)
        master.tell(ev.AttemptEnded(node_id, command.attempt_id, command.epoch, failure=failure))

    master.script = [
        lambda: None,
        master.run_once,
        append(0, b"first\n"),
        append(0, b"second\n"),
        lose,
        append(1, b"again\n"),
        master.run_once,
        lambda: None,
        append(1, b"late\n"),
    ]
    result = run(master, "logs", "-f", job.name)
    assert result.exit_code == 0, result.output
    assert result.stdout_bytes == b"first\nsecond\nagain\nlate\n"
    assert "has not started: waits for base" in result.stderr
    assert "runs again" in result.stderr
    assert result.stderr.endswith(f"{job.name} succeeded\n")


# --- cancel, retry ----------------------------------------------------------------------


def test_cancel_and_retry(master: MasterDouble) -> None:
    sweep = small_sweep()
    master.submit(sweep)
    assert out(master, "cancel", "mix/fold=1") == "cancelled 2 jobs\n"
    assert out(master, "cancel", "mix") == "cancelled 2 jobs\n"
    assert "all of it has ended" in out(master, "cancel", "mix")
    assert out(master, "retry", "mix/fold=0") == "2 jobs run again\n"
    assert "Nothing to retry" in out(master, "retry", "mix/fold=0")
    done = json.loads(out(master, "retry", "mix/share=0.1,fold=1", "--json"))
    assert done == {"retried": [sweep.jobs[1].job_id], "notes": []}


def test_a_base_that_is_waited_for_is_not_cancelled(master: MasterDouble) -> None:
    master.submit(small_sweep())
    text = out(master, "cancel", "base/*")
    assert "4 jobs wait on it" in text
    assert "cancelled" in json.loads(out(master, "cancel", "base/*", "--json"))


# --- nodes, drain, bases -------------------------------------------------------------------


def test_nodes_and_what_they_are_at(master: MasterDouble) -> None:
    master.add_node("gpu-1", gpus=2)
    master.submit(small_sweep())
    text = out(master, "nodes")
    assert "0/2 slots" in text
    assert "1/2 RTX 4090" in text or "0/2 RTX 4090" in text
    master.tell(ev.NodeLeft("gpu-1", "gpu-1/1"))
    assert "away" in out(master, "nodes", "show", "gpu-1")
    rows = json.loads(out(master, "nodes", "--json"))
    assert [row["node_id"] for row in rows] == ["gpu-1", "node-1"]


def test_drain_and_undo(master: MasterDouble) -> None:
    master.submit(small_sweep())
    text = out(master, "drain", "node-1")
    assert text == "node-1 is drained: it takes no new jobs; 1 job still on it\n"
    assert "drained" in out(master, "nodes")
    assert out(master, "drain", "node-1", "--undo") == "node-1 takes jobs again\n"
    assert "ready" in out(master, "nodes")
    result = run(master, "drain", "node1")
    assert result.exit_code == 2
    assert 'did you mean "node-1"' in result.stderr


def test_bases_from_training_to_rebuild(master: MasterDouble) -> None:
    sweep = small_sweep()
    master.submit(sweep)
    assert "training" in out(master, "bases")
    master.run_all()
    text = out(master, "bases")
    assert "committed" in text
    assert "50 MB" in text
    assert "node-1, 1 min" in text
    assert "master and node-1" in text or "node-1 and master" in text
    recipe_hash = sweep.bases[0].recipe_hash
    assert "trained anew" in out(master, "bases", "rebuild", recipe_hash[:6])
    again = run(master, "bases", "rebuild", recipe_hash[:6])
    assert again.exit_code == 2
    assert "being made already" in again.stderr
    assert run(master, "bases", "rebuild", "ffff").exit_code == 2
    assert isinstance(master.requests[-1], msg.Rebuild)


def test_bases_are_pinned_and_warmed_and_nodes_show_their_cache(master: MasterDouble) -> None:
    sweep = small_sweep()
    master.submit(sweep)
    master.run_all()
    recipe_hash = sweep.bases[0].recipe_hash
    assert "is pinned to node-1" in out(master, "bases", "pin", recipe_hash[:6], "--node", "node-1")
    assert "node-1 (pinned)" in out(master, "bases")
    assert "wherever it lies" in out(master, "bases", "pin", recipe_hash[:6])
    assert "; pinned" in out(master, "bases")
    assert master.requests[-1].what == "bases"  # type: ignore[union-attr]
    refused = run(master, "bases", "evict", recipe_hash[:6], "--node", "node-1")
    assert refused.exit_code == 2 and "it is pinned" in refused.stderr
    assert "not pinned any more" in out(master, "bases", "unpin", recipe_hash[:6])
    assert "pinned" not in out(master, "bases")
    assert "on 1 node already" in out(master, "bases", "warm", recipe_hash[:6], "--nodes", "1")
    assert run(master, "bases", "warm", recipe_hash[:6], "--nodes", "0").exit_code == 2
    assert "CACHE" in out(master, "nodes", "show", "node-1")
    node = master.state.nodes["node-1"]
    node.cache = CacheUse(12_000_000_000, 200_000_000_000, 79_000_000_000)
    text = out(master, "nodes", "show", "node-1")
    assert "12 GB of 200 GB" in text and "79 GB" in text
    assert "CACHE" not in out(master, "nodes")


# --- schema --------------------------------------------------------------------------------


def test_schema_is_json_schema_and_explains_itself() -> None:
    assert json.loads(out(None, "schema"))["$schema"].startswith("https://json-schema.org/")
    text = out(None, "schema", "--explain")
    assert "base.participants: list of name (required)" in text


# --- tables --------------------------------------------------------------------------------


def test_tables_are_cut_to_a_terminal_and_whole_elsewhere() -> None:
    columns = [output.Column("NAME", flexible=True), output.Column("N", right=True)]
    rows = [["a-very-long-name-of-a-job-that-goes-on-and-on", "7"], ["short", "12"]]
    whole = output.table_lines(columns, rows)
    assert whole[1] == "a-very-long-name-of-a-job-that-goes-on-and-on   7"
    cut = output.table_lines(columns, rows, width=30)
    assert all(len(line) <= 28 for line in cut)
    assert "…" in cut[1]
    assert cut[1].endswith(" 7")
    tiny = output.table_lines(columns, rows, width=3)
    assert len(tiny[2].split()) == 2


# --- what goes to a terminal ---------------------------------------------------------------


def test_long_lines_are_broken_between_words_and_paths_stay_whole() -> None:
    path = "/a/path/that-is/longer-than/the-whole/line-of-this/terminal"
    text = f"the first words are short {path} and the rest goes on for a while"
    lines = output.wrapped(f"  {text}\n\nnext", 40, "  ").split("\n")
    assert lines[0] == "  the first words are short"
    assert lines[1] == f"    {path}"
    assert lines[-2:] == ["", "next"]
    assert " ".join(" ".join(lines[:-2]).split()) == text


@pytest.mark.parametrize(
    ("terminal", "variables", "colours"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_alone_and_for_who_wants_them(
    terminal: bool, variables: dict[str, str], colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert output.shows_colours() is colours
    assert ("\x1b[" in output.painted("text", "red")) is colours
