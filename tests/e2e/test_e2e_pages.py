"""A dashboard of a real mesh: its picture in brief, and pages that the master filters and sorts."""

from __future__ import annotations

import asyncio
import sys

import pytest
from mesh import Mesh, NewMesh

from meshtrain.core.changes import JobRow, NodeRow
from meshtrain.core.job import JobState
from meshtrain.core.pages import Page, PageQuery
from meshtrain.core.view import MeshView
from meshtrain.errors import UserError
from meshtrain.net.zmq_client import MasterClient
from meshtrain.net.zmq_feed import FeedClient

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e_bad_peers")]

SWEEP = f"""
name: few
command: {sys.executable} -c "import sys; sys.exit(int(sys.argv[1]) == 3)" {{fold}}
matrix: {{fold: [0, 1, 2, 3]}}
retries: 0
"""


def page(mesh: Mesh, query: PageQuery) -> Page:
    with MasterClient(mesh.address, 15, security=mesh.keys) as client:
        return client.page(query)


def names(found: Page) -> list[str]:
    return [row.name for row in found.rows if isinstance(row, JobRow)]


async def until_ended(mesh: Mesh, sweep_id: str) -> tuple[MeshView, Page]:
    """What a dashboard sees when the sweep has ended, and a page that it asks for."""
    client = FeedClient(mesh.address, brief=True, security=mesh.keys)
    try:
        async with asyncio.timeout(60):
            async for _ in client.batches():
                if client.view.progress(sweep_id).ended == 4:
                    break
            return client.view, await client.page(PageQuery("jobs", filter="fold=3"))
    finally:
        client.close()
    raise AssertionError("the feed ended")


def test_a_dashboard_has_sums_and_pages_and_no_rows_of_jobs_that_ended(new_mesh: NewMesh) -> None:
    mesh = new_mesh(secure=True)
    mesh.start("n1", "n2")
    sweep_id = mesh.submit(SWEEP)
    view, found = asyncio.run(until_ended(mesh, sweep_id))
    assert view.jobs == {}
    assert view.jobs_total == 4
    assert view.progress(sweep_id).states == {JobState.SUCCEEDED: 3, JobState.FAILED: 1}
    assert names(found) == ["few/fold=3"]
    assert (found.total, found.matched) == (4, 1)

    down = page(mesh, PageQuery("jobs", sort="name", descending=True, states=("succeeded",)))
    assert names(down) == ["few/fold=2", "few/fold=1", "few/fold=0"]
    (failed,) = page(mesh, PageQuery("jobs", states=("failed",), sweep=sweep_id)).rows
    assert isinstance(failed, JobRow)
    assert "exit code 1" in failed.failure
    nodes = page(mesh, PageQuery("nodes", sort="name")).rows
    assert [row.node_id for row in nodes if isinstance(row, NodeRow)] == ["n1", "n2"]
    assert page(mesh, PageQuery("events", filter="node n1 joined")).matched == 1
    with pytest.raises(UserError, match="not a regular expression"):
        page(mesh, PageQuery("jobs", filter="*"))

    def told() -> bool:
        rows = page(mesh, PageQuery("nodes")).rows
        uses = [row.use for row in rows if isinstance(row, NodeRow)]
        return all(use is not None and use.memory_used_bytes > 0 for use in uses)

    mesh.wait_until(told, "the nodes tell how busy their hosts are")
