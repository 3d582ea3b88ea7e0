"""`meshtrain jobs --watch`: lines for a pipe, a picture for a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from cli_double import cli_with
from master_double import MasterDouble, small_sweep, user_error
from typer.testing import CliRunner, Result

from meshtrain.cli.jobs_watch import look, picture_lines
from meshtrain.cli.main import build
from meshtrain.net.base import MasterAwayError


@pytest.fixture
def master() -> MasterDouble:
    master = MasterDouble()
    master.add_node("node-1")
    return master


def watched(
    master: MasterDouble, *arguments: str, pauses: Callable[[int], None] | None = None
) -> Result:
    """`jobs --watch` while one step of the mesh happens in each pause."""
    cli = cli_with(master)
    count = 0

    def pause(seconds: float) -> None:
        nonlocal count
        count += 1
        assert count < 50, "watched for longer than there was anything to see"
        if pauses is not None:
            pauses(count)
        else:
            master.run_once()

    cli.sleep = pause
    return CliRunner().invoke(build(), ["jobs", "--watch", *arguments], obj=cli)


def test_a_pipe_gets_a_line_for_each_change_until_all_has_ended(master: MasterDouble) -> None:
    master.outcome = lambda job: (
        user_error("exit code 3") if "fold=1" in job.name else {"accuracy": 0.5}
    )
    master.submit(small_sweep(shares=(0.5,)))
    result = watched(master, "mix")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    lines = [line.split("  ", 1)[1] for line in result.stdout.splitlines()]
    assert lines[0].startswith("waiting     mix/share=0.5,fold=0  waits for base")
    assert any(line.startswith("succeeded   mix/share=0.5,fold=0") for line in lines)
    assert any("mix/share=0.5,fold=1" in line and "exit code 3" in line for line in lines)
    assert len(lines) == len(set(lines))


def test_changes_as_json_and_in_some_states_alone(master: MasterDouble) -> None:
    master.submit(small_sweep(shares=(0.5,), folds=1))
    result = watched(master, "mix", "--json", "--state", "succeeded")
    (row,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert (row["state"], row["name"]) == ("succeeded", "mix/share=0.5,fold=0")


def test_without_names_it_goes_on_for_ever(master: MasterDouble) -> None:
    def stop(count: int) -> None:
        if count == 5:
            raise KeyboardInterrupt

    assert watched(master, pauses=stop).exit_code == 130


def test_P7_a_master_that_goes_away_is_waited_for(master: MasterDouble) -> None:
    master.submit(small_sweep(shares=(0.5,), folds=1))

    def gone() -> None:
        raise MasterAwayError("no master answers")

    def step(count: int) -> None:
        if count == 1:
            master.script = [gone, gone]
        elif count > 3:
            master.run_once()

    result = watched(master, "mix", pauses=step)
    assert result.exit_code == 0, result.output
    assert "succeeded" in result.stdout


def test_a_name_that_names_nothing_is_told_at_once(master: MasterDouble) -> None:
    master.submit(small_sweep("few_shot"))
    result = watched(master, "fewshot")
    assert result.exit_code == 2
    assert 'did you mean "few_shot"?' in result.stderr


@pytest.mark.parametrize("height", [1, 2, 3, 5, 8, 22, 200])
def test_the_picture_fits_the_terminal_and_shows_what_runs(
    master: MasterDouble, height: int
) -> None:
    shares = tuple(round(0.01 * n, 2) for n in range(1, 31))
    master.submit(small_sweep("early", shares=(0.5,)))
    master.submit(small_sweep("wide", shares=shares))
    master.run_once()
    master.start_all()
    lines = list(picture_lines(look(master, []), (), 80, height))
    assert 1 <= len(lines) <= max(height, 2)
    assert all(len(line) <= 80 for line in lines)
    text = "\n".join(lines)
    if height >= 8:
        assert "running" in text
        assert "wide" in text
        assert "… and" in text or height == 200
    if height == 200:
        assert text.count("share=") == 62


def test_a_picture_of_nothing_says_what_to_do(master: MasterDouble) -> None:
    (line,) = picture_lines(look(master, []), (), 80, 20)
    assert "meshtrain submit FILE" in line
    master.submit(small_sweep())
    assert list(picture_lines(look(master, []), ("failed",), 80, 20)) == ["No such jobs."]
