"""Metrics in Prometheus's text format, read back by its own client."""

from __future__ import annotations

import math

from prometheus_client.parser import text_string_to_metric_families

from meshtrain.wire import exposition as prom
from meshtrain.wire.exposition import Family, FamilyKind, Histogram, Sample

ODD = 'a "quoted" back\\slash\nand a line'


def read(*families: Family) -> dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]]:
    parsed = text_string_to_metric_families(prom.expose(families).decode())
    return {
        family.name: {(s.name, tuple(s.labels.items())): s.value for s in family.samples}
        for family in parsed
    }


def test_each_kind_is_read_back_as_it_is() -> None:
    told = read(
        prom.counter("meshtrain_x_total", ODD, 3),
        prom.gauge("meshtrain_y", "A gauge.", 0.25),
        prom.gauges("meshtrain_z", "By state.", "state", {"there": 2, ODD: 1}),
    )
    assert told["meshtrain_x"] == {("meshtrain_x_total", ()): 3}
    assert told["meshtrain_y"] == {("meshtrain_y", ()): 0.25}
    assert told["meshtrain_z"] == {
        ("meshtrain_z", (("state", "there"),)): 2,
        ("meshtrain_z", (("state", ODD),)): 1,
    }


def test_a_histogram_s_buckets_hold_all_below_them() -> None:
    seconds = Histogram((0.1, 1.0))
    for took_s in (0.05, 0.1, 0.5, 20.0, -3.0):
        seconds.observe(took_s)
    told = read(prom.histogram("meshtrain_s", "How long.", seconds))["meshtrain_s"]
    assert {key[1]: value for key, value in told.items() if key[0].endswith("_bucket")} == {
        (("le", "0.1"),): 3,
        (("le", "1"),): 4,
        (("le", "+Inf"),): 5,
    }
    assert told["meshtrain_s_count", ()] == seconds.count == 5
    assert math.isclose(told["meshtrain_s_sum", ()], 20.65)


def test_histograms_share_a_family_by_label() -> None:
    by_kind = {"base": Histogram((1.0,)), "experiment": Histogram((1.0,))}
    by_kind["base"].observe(2.0)
    told = read(prom.histograms("meshtrain_s", "How long.", "kind", by_kind))["meshtrain_s"]
    assert told["meshtrain_s_count", (("kind", "base"),)] == 1
    assert told["meshtrain_s_count", (("kind", "experiment"),)] == 0


def test_numbers_that_are_none_are_written_as_prometheus_reads_them() -> None:
    samples = (Sample(math.nan), Sample(math.inf, (("a", "b"),)), Sample(-math.inf, (("c", "d"),)))
    text = prom.expose([Family("meshtrain_x", FamilyKind.GAUGE, "Odd.", samples)]).decode()
    values = [line.rpartition(" ")[2] for line in text.splitlines() if line[0] != "#"]
    assert values == ["NaN", "+Inf", "-Inf"]
