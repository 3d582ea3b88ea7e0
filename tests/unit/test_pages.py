"""Pages of long lists, told by examples: order, filter, piece, and what can't be asked."""

from __future__ import annotations

import re

import pytest

from meshtrain.core.changes import BaseRow, JobRow, NodeRow, Note, TransferRow
from meshtrain.core.job import BaseState, JobKind, JobState
from meshtrain.core.node import GpuUse, HostUse
from meshtrain.core.pages import COLUMNS, PageQuery, column_names, page_of
from meshtrain.core.row_filter import FILTER_CHARS_MAX, pattern_of
from meshtrain.core.view import MeshView
from meshtrain.errors import UserError


def job(name: str, state: JobState = JobState.WAITING, **more: object) -> JobRow:
    known = {"sweep_id": name.partition("/")[0], "kind": JobKind.EXPERIMENT, **more}
    return JobRow(job_id=f"id-{name}", name=name, state=state, **known)  # type: ignore[arg-type]


@pytest.fixture
def view() -> MeshView:
    view = MeshView()
    for row in (
        job("old/fold=2", submitted_wall_s=1.0, metrics={"accuracy": 0.5}),
        job("old/fold=10", JobState.FAILED, submitted_wall_s=1.0, failure="out of memory: 24 GB"),
        job("new/fold=2", JobState.SUCCEEDED, submitted_wall_s=2.0, metrics={"accuracy": 0.9}),
        job("new/fold=1", JobState.SUCCEEDED, submitted_wall_s=2.0, metrics={"accuracy": 0.7}),
    ):
        view.apply(row)
    return view


def names(view: MeshView, **asked: object) -> list[str]:
    page = page_of(view, PageQuery("jobs", **asked))  # type: ignore[arg-type]
    assert page.total == 4
    return [row.name for row in page.rows if isinstance(row, JobRow)]


def test_the_newest_submission_comes_first_each_in_the_order_of_its_file(view: MeshView) -> None:
    assert names(view) == ["new/fold=2", "new/fold=1", "old/fold=2", "old/fold=10"]
    assert names(view, descending=True) == names(view)[::-1]


def test_numbers_in_names_are_sorted_as_numbers(view: MeshView) -> None:
    assert names(view, sort="name") == ["new/fold=1", "new/fold=2", "old/fold=2", "old/fold=10"]


def test_rows_without_a_value_come_last_both_ways(view: MeshView) -> None:
    up = names(view, sort="metrics.accuracy")
    down = names(view, sort="metrics.accuracy", descending=True)
    assert up == ["old/fold=2", "new/fold=1", "new/fold=2", "old/fold=10"]
    assert down == ["new/fold=2", "new/fold=1", "old/fold=2", "old/fold=10"]


def test_states_are_sorted_by_their_course_and_ties_by_the_natural_order(view: MeshView) -> None:
    assert names(view, sort="state") == ["old/fold=2", "new/fold=2", "new/fold=1", "old/fold=10"]


def test_filters_sweeps_and_states_narrow_and_are_counted(view: MeshView) -> None:
    assert names(view, filter="FOLD=2") == ["new/fold=2", "old/fold=2"]
    assert names(view, filter="!fold=2") == ["new/fold=1", "old/fold=10"]
    assert names(view, filter="out of mem") == ["old/fold=10"]
    assert names(view, filter="fold=1$") == ["new/fold=1"], "and not 10"
    assert names(view, filter="^waiting$") == ["old/fold=2"]
    assert names(view, filter="^old.*failed") == ["old/fold=10"]
    assert names(view, filter=".*fold=1") == names(view, filter="fold=1")
    assert names(view, filter="!") == names(view)
    assert names(view, sweep="old", states=("waiting",)) == ["old/fold=2"]
    page = page_of(view, PageQuery("jobs", sweep="new", limit=1, offset=1))
    assert (len(page.rows), page.total, page.matched) == (1, 4, 2)
    assert page_of(view, PageQuery("jobs", offset=9)).rows == ()


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (PageQuery("people"), "no list is called 'people': there are jobs, nodes, bases"),
        (PageQuery("jobs", sort="colour"), "no column 'colour': sort by name, state"),
        (PageQuery("nodes", sort="metrics.x"), "nodes have no column"),
        (PageQuery("jobs", offset=-1), "0 or more"),
        (PageQuery("jobs", limit=-1), "0 or more"),
        (PageQuery("jobs", states=("tired",)), "no job state is called 'tired': waiting"),
        (PageQuery("nodes", sweep="s"), "only jobs"),
        (PageQuery("jobs", filter="(old"), r"not a regular expression: missing \)"),
        (PageQuery("jobs", filter="x" * (FILTER_CHARS_MAX + 1)), "at most 200 characters"),
        (PageQuery("jobs", filter="(a+)+b"), "could take for ever: write it more simply"),
    ],
)
def test_what_can_not_be_answered_is_told(view: MeshView, query: PageQuery, told: str) -> None:
    with pytest.raises(UserError, match=told):
        page_of(view, query)


@pytest.mark.parametrize(
    "written",
    [
        *("(a*)*", "(a|bc)+", "((a+)b)+", "(?:a|a)*x", "(a+){2,}", "(a+){200}", "([a-z]+ ?)+$"),
        *(r"(a)\1", "(?P<x>a)(?P=x)", "a*a*a*a*b", ".*a.*b.*c.*d.*e.*f.*", r"(\w+\s*)*:"),
        # Each way to choose counts, not only stars; and the time grows with the power of stars.
        *("(.{1,2})*#", r"(\w\w?)+:", "(a?b?){3}x", "(.|.)" * 14 + "x", ".?" * 20 + "x"),
        *(".{,100}.{,100}x", "(?:a|a).+.+x", ".+.+.+x", "(?:.+.+.+|a)x", "(?=a+a+a+)x"),
        # What comes between a group and its star.
        *("(a+)(?#)*x", "(?x)(a+) *x", "(?:(?=a+)a)+"),
        # Nothing, very often.
        *("(?:){1000000}x", "(?:){0,1000000}x", "(((){100}){100}){100}x", "(?:(?:^){100}){100}x"),
        *("(a)(?(1)b|c)", ".+.+a{50,}"),
    ],
)
def test_an_expression_that_could_take_for_ever_is_refused(written: str) -> None:
    re.compile(written)
    with pytest.raises(UserError, match="could take for ever"):
        pattern_of(written)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("fold=(1|2)", "s/fold=2"),
        ("[(]a+[)]+", "(a)"),
        ("[]*+]x", "+x"),
        (r"\(a+\)+", "(aa))"),
        ("(ab){2}", "abab"),
        ("(a+)?b", "b"),
        ("a{,x", "a{,x"),
        ("resnet.*fold=.", "resnet50,fold=1"),
        (".*a.*b.*c", "abc"),
        ("(a|b)+x", "abx"),
        (r"shots=\d+.*fold=\d+", "s/shots=5,fold=2"),
        (r"(?:a.*\d+|x.*y+)", "a1"),
        ("p0[1-9]|p1[0-2]", "p11"),
        (r"^https?://\w{1,8}$", "http://gpu1"),
        ("(?>ab?)c(?!d)", "abc"),
        ("(?#[)b", "b"),
        ("(?:ab)+c", "ababc"),
        (".*?b", "ab"),
        ("(?i:A)b*", "ab"),
    ],
)
def test_an_expression_that_people_type_is_taken(written: str, found: str) -> None:
    pattern = pattern_of(written)
    assert pattern is not None
    assert pattern.search(found) is not None


def test_the_other_lists_have_their_own_order_and_words() -> None:
    view = MeshView()
    for number in (10, 9):
        view.apply(NodeRow(f"gpu{number}", True, number == 9, True, 4, 1, ("A100",), (), 1, 0))
    view.apply(BaseRow("aa", "first", BaseState.COMMITTED, holders=("gpu9",)))
    view.apply(BaseRow("bb", "second", BaseState.NEEDED))
    view.apply(Note(1.0, "node gpu9 joined"))
    view.apply(Note(2.0, "node gpu10 joined"))
    view.apply(TransferRow("cc", "gpu9", {"gpu10": 5}, 2.0))

    def shown(kind: str, **asked: object) -> list[object]:
        rows = page_of(view, PageQuery(kind, **asked)).rows  # type: ignore[arg-type]
        return [getattr(row, {"nodes": "node_id", "bases": "label"}[kind]) for row in rows]

    assert shown("nodes") == ["gpu9", "gpu10"]
    assert shown("nodes", filter="drained") == ["gpu9"]
    assert shown("bases") == ["second", "first"]
    assert shown("bases", filter="gpu9") == ["first"]
    assert shown("bases", sort="holders", descending=True) == ["first", "second"]
    events = page_of(view, PageQuery("events", limit=1)).rows
    assert events == (Note(2.0, "node gpu10 joined"),)
    (transfer,) = page_of(view, PageQuery("transfers", filter="gpu10", sort="rate")).rows
    assert COLUMNS["transfers"]["rate"](transfer) == 2.5


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_column_sorts(kind: str, view: MeshView) -> None:
    view.apply(NodeRow("gpu1", True, False, False, 4, 1, ("A100",), (0,), 1, 0))
    use = HostUse(0.5, 7, (GpuUse(0, 0.25, 5, 9, 60), GpuUse(1, 0.75), GpuUse(2)))
    view.apply(NodeRow("gpu2", True, False, True, 4, 1, ("A100",), (0,), 1, 0, use=use))
    view.apply(BaseRow("aa", "first", BaseState.COMMITTED))
    view.apply(Note(1.0, "node gpu9 joined"))
    view.apply(TransferRow("cc", "gpu9", {"gpu10": 5}, 0.0))
    for name in column_names(kind, tuple(view.jobs.values())):
        page = page_of(view, PageQuery(kind, sort=name))
        assert len(page.rows) == page.total > 0
    assert COLUMNS["nodes"]["gpu_use"](view.nodes["gpu2"]) == 0.75
    assert COLUMNS["nodes"]["temperature"](view.nodes["gpu1"]) is None
