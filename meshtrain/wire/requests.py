"""What people ask of the master, over the control socket.

Those that act are answered by `Done`, a query by `Answer`, a page by `PageGiven`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from meshtrain.core.member import MemberKind
from meshtrain.core.needs_change import NeedsChange
from meshtrain.core.pages import PageQuery
from meshtrain.spec.jobs import CodeDigests, InputData
from meshtrain.wire.fields import Count, Priority


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """A job file, as it was written, and what only its sender can know of it."""

    request_id: str
    name: str
    """The file's name; its ending tells the format."""
    data: bytes
    code: dict[str, CodeDigests] = {}
    """Folder as written in the file → its snapshot, which the master holds already."""
    data_digests: dict[str, str] = {}
    bases_only: bool = False
    allow_pending: bool = False
    again: bool = False
    inputs: dict[str, InputData] = {}
    """Reference as the file comes to it → what its sender found; else the master looks."""


class PublishInput(msgspec.Struct, frozen=True, tag="publish_input"):
    """Give a name to a data set that the master holds; `Done.done` names its version."""

    request_id: str
    name: str
    artifact_id: str


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    request_id: str
    names: tuple[str, ...]
    """Sweeps or jobs, by name, by id, or by a name that ends in `*`."""


class Retry(msgspec.Struct, frozen=True, tag="retry"):
    """Run again what failed; with a change, also let waiting jobs need something else."""

    request_id: str
    names: tuple[str, ...]
    change: NeedsChange = NeedsChange()


class Reprioritise(msgspec.Struct, frozen=True, tag="reprioritise"):
    request_id: str
    names: tuple[str, ...]
    priority: Priority


Amount = Annotated[float, msgspec.Meta(gt=0, le=1e9)]


class SetBudget(msgspec.Struct, frozen=True, tag="set_budget"):
    """Set what a sweep may use; see core.events.BudgetRequested."""

    request_id: str
    name: str
    gpu_hours: Amount | None = None
    money: Amount | None = None
    unlimited: bool = False


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    request_id: str
    node_id: str
    drained: bool
    within_s: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None


class Release(msgspec.Struct, frozen=True, tag="release"):
    """Use a node's GPUs again that were taken out of use after repeated faults."""

    request_id: str
    node_id: str


class IssueToken(msgspec.Struct, frozen=True, tag="issue_token"):
    """Ask for a token that lets somebody join the mesh; `Done.done` holds it."""

    request_id: str
    kind: MemberKind
    ttl_s: Annotated[float, msgspec.Meta(ge=1, le=365 * 86400)]
    uses_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1


class Revoke(msgspec.Struct, frozen=True, tag="revoke"):
    """End a membership at once, everywhere."""

    request_id: str
    kind: MemberKind
    name: str


class IssueReader(msgspec.Struct, frozen=True, tag="issue_reader"):
    """Ask for a token that lets a program read; `Done.done` holds it."""

    request_id: str
    name: Annotated[str, msgspec.Meta(max_length=64)]
    ttl_s: Annotated[float, msgspec.Meta(ge=1, le=365 * 86400)]


class RevokeReader(msgspec.Struct, frozen=True, tag="revoke_reader"):
    """End a read token at once."""

    request_id: str
    name: Annotated[str, msgspec.Meta(max_length=64)]


class Rebuild(msgspec.Struct, frozen=True, tag="rebuild"):
    request_id: str
    recipe_hash: str


class Pin(msgspec.Struct, frozen=True, tag="pin"):
    """Keep a base on a node (empty: wherever it lies), or no longer."""

    request_id: str
    recipe_hash: str
    node_id: str = ""
    pinned: bool = True


class Evict(msgspec.Struct, frozen=True, tag="evict_base"):
    """Remove a base from a node."""

    request_id: str
    recipe_hash: str
    node_id: str


class Warm(msgspec.Struct, frozen=True, tag="warm"):
    """Place a base on so many nodes before it is asked for."""

    request_id: str
    recipe_hash: str
    nodes: Annotated[int, msgspec.Meta(ge=1, le=10_000)]


class RestoreBase(msgspec.Struct, frozen=True, tag="restore_base"):
    """Bring a lost base back from the archive; the query `archive` shows how it goes."""

    request_id: str
    recipe_hash: str


class Query(msgspec.Struct, frozen=True, tag="query"):
    """A question; `what` is one of the master's queries, see its queries module."""

    request_id: str
    what: str
    names: tuple[str, ...] = ()
    offset: Count = 0
    limit: Count = 1000


class AskPage(msgspec.Struct, frozen=True, tag="ask_page"):
    """Ask for a page of a long list, filtered and sorted by the master."""

    request_id: str
    query: PageQuery


FromPerson = (
    Submit
    | PublishInput
    | Cancel
    | Retry
    | Reprioritise
    | SetBudget
    | Drain
    | Release
    | IssueToken
    | Revoke
    | IssueReader
    | RevokeReader
    | Rebuild
    | RestoreBase
    | Pin
    | Evict
    | Warm
    | Query
    | AskPage
)
