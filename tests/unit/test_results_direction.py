"""Which way a metric is better: the job file's word first, then the metric's name."""

import json
from typing import Any

import pytest

from meshtrain.results.direction import direction_of
from meshtrain.spec.expand import Digests, expand
from meshtrain.spec.jobfile import JobFile, JobFileError, parse_job_file
from meshtrain.spec.jobs import Better, ResultsSpec

NONE = ResultsSpec()


def parse(results: dict[str, Any]) -> JobFile:
    tree = {"command": "run {x}", "matrix": {"x": [1]}, "results": results}
    return parse_job_file(json.dumps(tree).encode(), "x.json")


def test_a_job_file_says_which_way_its_metric_is_better() -> None:
    assert expand(parse({"metric": "r"}), Digests()).results.better is None
    told = expand(parse({"metric": "r", "better": "lower"}), Digests())
    assert told.results.better is Better.LOWER
    with pytest.raises(JobFileError, match="is not one of higher, lower"):
        parse({"metric": "r", "better": "lowest"})


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("val.loss", "lower is better, as its name says"),
        ("mIoU", "higher is better, as its name says"),
        ("macro_f1", "higher is better, as its name says"),
        ("accuracy_error", "lower is better, as its name says"),
        ("q7", "higher is better, which is only assumed: results.better in the job file says it"),
    ],
)
def test_the_name_says_it_else_it_is_assumed_and_told(metric: str, said: str) -> None:
    assert direction_of(metric, NONE).text == said


def test_the_job_files_word_is_for_its_own_metric_alone() -> None:
    spec = ResultsSpec(metric="q7", better=Better.LOWER)
    assert direction_of("q7", spec).text == "lower is better, as the job file says"
    assert direction_of("test.q7", spec).higher is False
    assert direction_of("accuracy", spec).text == "higher is better, as its name says"
