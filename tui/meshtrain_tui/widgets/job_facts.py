"""What there is to be known of a job: why it waits, its attempts, parameters, and what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from textual.content import Content

from meshtrain.core.job import JobState
from meshtrain.ids import short
from meshtrain_tui.job_states import state_words
from meshtrain_tui.words import clock, duration, size

VALUE_CHARS_MAX = 2000
NAME_WIDTH = 16


def standing(row: Mapping[str, Any]) -> Content:
    """`▶ running`, and whether it is to end."""
    words = state_words(JobState(row["state"]))
    if row["cancelling"] and not JobState(row["state"]).is_terminal:
        return words.append(Content.styled(", is being cancelled", "$text-warning"))
    return words


def why_words(row: Mapping[str, Any]) -> str:
    """Why it waits, or how it failed; empty where there is nothing to be explained."""
    if row["reason"]:
        return f"{row['reason']}"
    failure = row["last_failure"]
    if failure is None or row["state"] == JobState.SUCCEEDED:
        return ""
    where = f" on {failure['node_id']}" if failure["node_id"] else ""
    code = "" if failure["exit_code"] is None else f" (exit code {failure['exit_code']})"
    before = "" if row["state"] == JobState.FAILED else "before: "
    return f"{before}{failure['failure_class']}{where}: {failure['message']}{code}"


def ran_s(attempt: Mapping[str, Any], now_s: float) -> float | None:
    """How long an attempt has run; None before it did."""
    if attempt["started_wall_s"] is None:
        return None
    return float((attempt["ended_wall_s"] or now_s) - attempt["started_wall_s"])


def nodes_of(attempt: Mapping[str, Any]) -> str:
    """`gpu2 GPU 0 1`, or several nodes of a gang."""
    return ", ".join(map(_placement, attempt["placements"]))


def facts(
    row: Mapping[str, Any], now_s: float, width: int, explained: Sequence[str] = ()
) -> list[Content]:
    """All of it, in lines of at most `width` cells.

    `explained` are lines that say at length why it waits.
    """
    lines: list[Content] = []
    why = why_words(row)
    if explained:
        told = (Content(f"  {line}").truncate(width, ellipsis=True) for line in explained)
        lines += [_title("Why it waits"), *told, Content("")]
    elif why:
        title = "Why it waits" if row["reason"] else "What went wrong"
        lines += [_title(title), *_wrapped(why, width), Content("")]
    lines += [_title(f"Attempts ({len(row['attempts'])})")]
    for number, attempt in reversed(list(enumerate(row["attempts"], start=1))):
        lines += _attempt(number, attempt, now_s, width)
    if not row["attempts"]:
        lines.append(Content.styled("  none yet", "$foreground-muted"))
    for title, pairs in (
        ("Parameters", _parameters(row)),
        ("Measured", ((name, f"{value:g}") for name, value in row["metrics"].items())),
        ("Needs", _needs(row)),
        ("Runs", _work(row)),
        ("Job", _job(row)),
    ):
        there = [line for name, value in pairs for line in _pair(name, value, width)]
        if there:
            lines += [Content(""), _title(title), *there]
    return lines


def _title(text: str) -> Content:
    return Content.styled(text, "bold $text-primary")


def _wrapped(text: str, width: int, indent: int = 2) -> list[Content]:
    room = max(width - indent, 8)
    parts = Content(text[:VALUE_CHARS_MAX]).wrap(room)
    return [Content(" " * indent).append(part) for part in parts]


def _pair(name: str, value: str, width: int) -> list[Content]:
    room = max(width - NAME_WIDTH - 3, 8)
    more = f" … {len(value) - VALUE_CHARS_MAX:,} more" if len(value) > VALUE_CHARS_MAX else ""
    parts = Content(value[:VALUE_CHARS_MAX] + more).wrap(room) or [Content("")]
    first, *rest = parts
    label = f"  {name:<{NAME_WIDTH}} "
    return [
        Content.assemble((label, "$foreground-muted"), first),
        *(Content(" " * (NAME_WIDTH + 3)).append(part) for part in rest),
    ]


def _attempt(
    number: int, attempt: Mapping[str, Any], now_s: float, width: int
) -> Iterator[Content]:
    began = attempt["started_wall_s"] or attempt["assigned_wall_s"]
    took_s = ran_s(attempt, now_s)
    words = [
        f"{number:>3}",
        f"{attempt['state']}",
        nodes_of(attempt),
        f"from {clock(began)}" if began else "",
        "" if took_s is None else duration(took_s),
        f"went on from {short(attempt['resumed_from'])}" if attempt["resumed_from"] else "",
    ]
    yield Content("  ".join(word for word in words if word)).truncate(width, ellipsis=True)
    failure = attempt["failure"]
    if failure is not None:
        yield from _wrapped(f"{failure['failure_class']}: {failure['message']}", width, 5)


def _placement(placement: Mapping[str, Any]) -> str:
    gpus = " ".join(str(index) for index in placement["gpus"])
    if gpus:
        return f"{placement['node_id']} GPU {gpus}"
    return f"{placement['node_id']}{', alone' if placement['alone'] else ''}"


def _parameters(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in row["cell"].items():
        yield name, _value(value)


def _needs(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    needs, base = row["resources"], row["base"]
    if needs["gpus"] is None:
        yield "GPUs", "1 where there are GPUs"
    else:
        yield "GPUs", str(needs["gpus"])
    if needs["gpu_memory_bytes"]:
        yield "GPU memory", f"{size(needs['gpu_memory_bytes'])} each"
    if not needs["gpus"]:
        yield "CPU slots", str(needs["cpus"])
    if needs["memory_bytes"]:
        yield "memory", size(needs["memory_bytes"])
    if needs["nodes"] > 1:
        yield "nodes", str(needs["nodes"])
    if needs["trainer"]:
        yield "training", "the built-in training is installed"
    if needs["alone"]:
        yield "alone", "nothing else runs on its node"
    if base is not None:
        held = ", ".join(base["holders"]) or "nobody"
        yield (
            "base",
            f"{short(base['recipe_hash'])} {base['label']}: {base['state']}, held by {held}",
        )
    for name, data in (row["work"].get("inputs") or {}).items():
        yield f"input {name}", data["source"]


def _work(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    work = row["work"]
    if "command" in work:
        yield "command", work["command"]
        if work.get("prepare"):
            yield "prepare", work["prepare"]
        for name, value in (work.get("env") or {}).items():
            yield name, value
        if work.get("code"):
            yield "code", short(work["code"])
    else:
        for name, value in work["config"].items():
            if not isinstance(value, dict):
                yield name, _value(value)
                continue
            for inner, inner_value in value.items():
                yield f"{name}.{inner}", _value(inner_value)


def _job(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    limits = row["limits"]
    yield "id", row["job_id"]
    yield "priority", str(row["priority"])
    submitted = row["submitted_wall_s"]
    if submitted:
        yield "submitted", f"{datetime.fromtimestamp(submitted):%Y-%m-%d %H:%M:%S}"
    yield "retries", f"{row['retries']} of {limits['retries_max']}"
    if limits["timeout_s"] is not None:
        yield "timeout", duration(limits["timeout_s"])
    if limits["checkpoint_every_s"] is not None:
        yield "checkpoint", f"every {duration(limits['checkpoint_every_s'])}"
    if row["generation"] > 1:
        yield "generation", str(row["generation"])
    if row["group"]:
        yield "group", _value(row["group"])


def _value(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
