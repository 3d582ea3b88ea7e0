"""The nodes: how much of each is used, and what runs there."""

from __future__ import annotations

from textual.content import Content

from meshtrain.core.changes import JobRow, NodeRow
from meshtrain.core.job import JobKind, JobState
from meshtrain.core.pages import in_words
from meshtrain.core.view import MeshView
from meshtrain.ids import short
from meshtrain_tui.feed import Picture
from meshtrain_tui.widgets.panel import Panel, wrapped
from meshtrain_tui.widgets.status import slots_of
from meshtrain_tui.widgets.use import load_of, use_cell
from meshtrain_tui.words import duration, head, plural, tail

NAME_WIDTH_MAX = 16
SQUARES_MAX = 8


class NodesPanel(Panel):
    """A line a node; a line a job where there is room for that."""

    HEADING = "Nodes"

    def __init__(self, address: str) -> None:
        super().__init__(id="nodes")
        self._address = address

    def lines(self, picture: Picture, width: int, height: int) -> list[Content]:
        view = picture.view
        if not view.nodes:
            if picture.link.heard_wall_s is None:
                return []
            return wrapped(
                "No node yet: start one on each host with "
                f"`meshtrain worker --master {self._address}`",
                width,
                "$foreground-muted",
            )
        nodes = sorted(
            view.nodes.values(), key=lambda node: (not node.connected, in_words(node.node_id))
        )
        name_width = min(NAME_WIDTH_MAX, max(len(node.node_id) for node in nodes))
        wanted = sum(max(1, len(view.running_on(node.node_id))) for node in nodes)
        each_job = wanted <= height
        lines: list[Content] = []
        for index, node in enumerate(nodes):
            if not each_job and len(lines) == height - 1 and index < len(nodes) - 1:
                lines.append(_rest(nodes[index:]))
                break
            lines.extend(_node_lines(view, node, picture.wall_s, name_width, width, each_job))
        return lines


def _rest(nodes: list[NodeRow]) -> Content:
    used = sum(slots_of(node)[0] for node in nodes)
    there = sum(slots_of(node)[1] for node in nodes)
    return Content.styled(
        f"and {plural(len(nodes), 'more node')}: {used}/{there} slots used", "$foreground-muted"
    )


def _node_lines(
    view: MeshView, node: NodeRow, wall_s: float, name_width: int, width: int, each_job: bool
) -> list[Content]:
    jobs = view.running_on(node.node_id)
    label = _label(view, node, name_width)
    room = width - label.cell_length
    state = _state_words(node)
    if not jobs:
        return [label.append(Content.styled(state or "idle", "$foreground-muted"))]
    if not each_job:
        more = f" +{len(jobs) - 1}" if len(jobs) > 1 else ""
        return [label.append(_job(view, jobs[0], wall_s, room - len(more), state)).append(more)]
    first = label.append(_job(view, jobs[0], wall_s, room, state))
    blank = Content(" " * label.cell_length)
    return [first, *(blank.append(_job(view, job, wall_s, room)) for job in jobs[1:])]


def _label(view: MeshView, node: NodeRow, name_width: int) -> Content:
    used, there = slots_of(node)
    load = load_of(view, node) if node.connected else None
    kind = "gpu" if node.gpus else "cpu"
    squares = ""
    if there <= SQUARES_MAX:
        squares = "■" * used + "□" * max(0, there - used)
    elif load is not None:
        squares = f"{used}/{there}"
    return Content.assemble(
        (f"{head(node.node_id, name_width):<{name_width}}", "bold" if node.connected else "dim"),
        f"  {kind} ",
        (f"{squares:<4}", "$text-success" if used else "$foreground-muted"),
        f" {used} used {max(0, there - used)} free  " if load is None else " ",
        use_cell(load) if load is not None else "",
    )


def _state_words(node: NodeRow) -> str:
    if not node.connected:
        return "away"
    if node.drained:
        return "drained"
    if not node.accepting:
        return f"takes no jobs: {node.note}" if node.note else "takes no jobs"
    return ""


def _job(view: MeshView, job: JobRow, wall_s: float, width: int, state: str = "") -> Content:
    doing, style = _doing(job, wall_s)
    room = width - len(doing) - 2
    name = _job_name(view, job)
    if state:
        name = f"{state} · {name}"
    return Content.assemble(f"{tail(name, room):<{room}}  " if room > 4 else "", (doing, style))


def _job_name(view: MeshView, job: JobRow) -> str:
    if job.kind is not JobKind.BASE or job.recipe_hash is None:
        return job.name
    base = view.bases.get(job.recipe_hash)
    waiting = f" ({base.waiting} wait on it)" if base is not None and base.waiting else ""
    return f"base {short(job.recipe_hash)}{waiting}"


def _doing(job: JobRow, wall_s: float) -> tuple[str, str]:
    if job.state is JobState.ASSIGNED:
        return "gets ready", "$foreground-muted"
    if job.state is JobState.COLLECTING:
        return "sends result", "$foreground-muted"
    if job.started_wall_s is None:
        return "runs", ""
    return duration(wall_s - job.started_wall_s), ""
