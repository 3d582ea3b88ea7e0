"""`meshtrain bases diff`: what two models share, and what would move from one to the other."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from meshtrain.cli import words
from meshtrain.cli.context import Cli, Link, ask_all, cli_of
from meshtrain.cli.output import Column, painted, print_json, print_table, say, tell
from meshtrain.core.manifest import Manifest, is_digest
from meshtrain.core.manifest_diff import (
    Change,
    FileDiff,
    ManifestDiff,
    TensorDiff,
    chunk_digests,
    diff_manifests,
    diff_tensors,
)
from meshtrain.core.node import MASTER_NODE_ID
from meshtrain.errors import ArtifactError, UserError
from meshtrain.ids import short

if TYPE_CHECKING:
    from meshtrain.artifacts.flight import Source
    from meshtrain.artifacts.remote import RemoteArtifacts
    from meshtrain.security.signing import HttpSecurity

SAME_SHOWN_MAX = 10
FILES_SHOWN_MAX = 50
TENSORS_SHOWN_MAX = 20
MODELS_LOOKED_INTO_MAX = 16
"""Of each the header is read, from whoever holds it."""
_MODEL_SUFFIX = ".safetensors"
_NAME = re.compile(r"([0-9a-f]{4,32})(?:(?:…|\.\.\.?)([0-9a-f]{1,28}))?")
_FILE_COLUMNS = (
    Column("FILE", flexible=True),
    Column("CHANGE"),
    Column("SIZE", right=True),
    Column("SHARED", right=True),
    Column("TO MOVE", right=True),
    Column("NEW CHUNKS", right=True),
)
_TENSOR_COLUMNS = (
    Column("TENSOR", flexible=True),
    Column("CHANGE"),
    Column("BEFORE", flexible=True),
    Column("AFTER", flexible=True),
    Column("TO MOVE", right=True),
)


class Model(msgspec.Struct, frozen=True):
    """One side of the comparison."""

    artifact_id: str
    recipe_hash: str | None
    """None for an artifact that is no base's latest model."""
    holders: tuple[str, ...]

    @property
    def name(self) -> str:
        """As people read it."""
        if self.recipe_hash is not None:
            return words.base_name(self.recipe_hash)
        return f"artifact {short(self.artifact_id)}"


def diff(
    ctx: typer.Context,
    before: Annotated[
        str, typer.Argument(metavar="A", help="A recipe hash or a model's id, or their beginning.")
    ],
    after: Annotated[str, typer.Argument(metavar="B", help="What is compared to it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every tensor.")] = False,
) -> None:
    """Show which bytes of B a host that holds A needn't fetch: by file, by tensor, in all.

    \b
    Examples:
      meshtrain bases diff 7f3a c019
      meshtrain bases diff 7f3a c019 --json
    """
    cli = cli_of(ctx)
    with cli.link() as link:
        rows, _ = ask_all(link, "bases")
        old, new = (find_model(rows, name) for name in (before, after))
        sources, security = _sources(cli, link, (old, new))
    compared, tensors = asyncio.run(_compare(old, new, sources, security))
    if as_json:
        print_json(_document(old, new, compared, tensors))
        return
    _show(old, new, compared, tensors)


def find_model(rows: Sequence[Mapping[str, Any]], name: str) -> Model:
    """The model that a name stands for: of a base its latest, else the artifact of that id.

    Args:
        rows: all bases, as the master's query answers.

    Raises UserError when it stands for none or for several.
    """
    wanted = name.strip().lower().removeprefix("base/")
    found = [row for row in rows if _is_called(row, wanted)]
    if len(found) > 1:
        told = words.listed([short(row["recipe_hash"]) for row in found])
        raise UserError(f"{name} begins the names of several bases: {told}. Write more of it")
    if found:
        (row,) = found
        if row["artifact_id"] is None:
            raise UserError(
                f"{words.base_name(row['recipe_hash'])} has no model yet: it is {row['state']}. "
                "Compare it when it is committed"
            )
        return Model(row["artifact_id"], row["recipe_hash"], tuple(row["holders"]))
    if is_digest(wanted):
        return Model(wanted, None, ())
    raise UserError(
        f"no base is called {name}, and no model's id begins so. List them: meshtrain bases. "
        "An artifact that is no base's latest model is named by its whole id"
    )


def _is_called(row: Mapping[str, Any], wanted: str) -> bool:
    """Whether a base or its model is meant by `7f3a`, or by `7f3a…c21` as tables show it."""
    match = _NAME.fullmatch(wanted)
    if match is None:
        return False
    names = (row["recipe_hash"], row["artifact_id"] or "")
    return any(name.startswith(match[1]) and name.endswith(match[2] or "") for name in names)


def _sources(
    cli: Cli, link: Link, models: Sequence[Model]
) -> tuple[dict[str, list[Source]], HttpSecurity | None]:
    """Who may be asked for each model, by its id, and by which keys."""
    from meshtrain.artifacts.flight import Source
    from meshtrain.cli.submit import http_url

    master_url = http_url(cli, link)
    rows, _ = ask_all(link, "nodes")
    urls = {row["node_id"]: row["http_url"] for row in rows if row["connected"] and row["http_url"]}
    urls[MASTER_NODE_ID] = master_url
    asked = {}
    for model in models:
        # The master first: it answers us already. Who isn't known to hold it, last.
        known = [name for name in urls if name in model.holders]
        others = [name for name in urls if name not in model.holders]
        names = sorted(known, key=lambda name: name != MASTER_NODE_ID)
        names += sorted(others, key=lambda name: name != MASTER_NODE_ID)
        asked[model.artifact_id] = [Source(name, urls[name]) for name in names]
    return asked, _security(cli, master_url)


def _security(cli: Cli, master_url: str) -> HttpSecurity | None:
    standing = cli.way.standing
    if standing is None:
        return None
    from meshtrain.security.signing import HttpSecurity

    encrypted = master_url.startswith("https:")
    return HttpSecurity(standing.identity, standing.members.roll, encrypted)


async def _compare(
    old: Model,
    new: Model,
    sources: Mapping[str, Sequence[Source]],
    security: HttpSecurity | None,
) -> tuple[ManifestDiff, dict[str, list[TensorDiff]]]:
    """The files of both, and by path the tensors of those that changed."""
    from meshtrain.artifacts.remote import RemoteArtifacts

    async with RemoteArtifacts(security) as remote:
        before = await remote.manifest(old.artifact_id, sources[old.artifact_id])
        after = await remote.manifest(new.artifact_id, sources[new.artifact_id])
        compared = diff_manifests(before, after)
        tensors: dict[str, list[TensorDiff]] = {}
        for file in compared.files:
            if file.change is not Change.CHANGED or not file.path.endswith(_MODEL_SUFFIX):
                continue
            if len(tensors) == MODELS_LOOKED_INTO_MAX:
                break
            try:
                found = await _compare_tensors(
                    remote,
                    file.path,
                    (before, sources[old.artifact_id]),
                    (after, sources[new.artifact_id]),
                )
            except ArtifactError as error:
                tell(f"the tensors of {file.path} are not told: {error}")
                continue
            if found is not None:
                tensors[file.path] = found
        return compared, tensors


_Held = tuple[Manifest, "Sequence[Source]"]


async def _compare_tensors(
    remote: RemoteArtifacts, path: str, old: _Held, new: _Held
) -> list[TensorDiff] | None:
    """The tensors of a file of both; None when it is safetensors in name alone."""
    sides = []
    for manifest, sources in (old, new):
        index = [file.path for file in manifest.files].index(path)
        layout = await remote.layout(manifest, index, sources)
        if layout is None:
            return None
        sides.append((manifest.files[index], layout))
    return diff_tensors(sides[0], sides[1], chunk_digests(old[0]))


# --- what is shown ---------------------------------------------------------------------------


def share(part_bytes: int, whole_bytes: int) -> str:
    """`99.8 %`, rounded down: only all of it is `100 %`."""
    if part_bytes >= whole_bytes:
        return "100 %"
    thousandths = part_bytes * 1000 // whole_bytes
    return f"{thousandths // 10}.{thousandths % 10} %"


def _show(
    old: Model, new: Model, compared: ManifestDiff, tensors: Mapping[str, list[TensorDiff]]
) -> None:
    same = [file for file in compared.files if file.change is Change.SAME]
    shown = [file for file in compared.files if file.change is not Change.SAME]
    if len(same) <= SAME_SHOWN_MAX:
        shown, same = list(compared.files), []
    if shown:
        print_table(_FILE_COLUMNS, [_file_line(file) for file in shown[:FILES_SHOWN_MAX]])
        left = shown[FILES_SHOWN_MAX:]
        if left:
            say(f"… and {words.count(len(left), 'more file', 'more files')}")
    if same:
        say(f"{words.count(len(same), 'file')} the same")
    for path, found in tensors.items():
        _show_tensors(path, found)
    say()
    if old.artifact_id == new.artifact_id:
        say(f"{new.name} is the very model of {old.name}")
        return
    shared = share(compared.shared_bytes, compared.size_bytes)
    say(
        f"shared   {painted(shared, bold=True)} of {words.size(compared.size_bytes)}: bytes of "
        f"{new.name} that lie in chunks of {old.name}"
    )
    chunks = words.count(compared.chunks, "chunk")
    say(f"to move  {words.size(compared.new_bytes)} in {compared.new_chunks:,} of {chunks}")


def _file_line(file: FileDiff) -> list[str]:
    if file.change is Change.GONE:
        return [file.path, str(file.change), words.size(file.size_before_bytes), "", "", ""]
    return [
        file.path,
        str(file.change),
        words.size(file.size_bytes),
        share(file.shared_bytes, file.size_bytes),
        words.size(file.new_bytes) if file.new_bytes else "",
        f"{file.new_chunks:,} of {file.chunks:,}" if file.new_chunks else "",
    ]


def _show_tensors(path: str, found: Sequence[TensorDiff]) -> None:
    different = [tensor for tensor in found if tensor.change is not Change.SAME]
    different.sort(key=lambda tensor: (-tensor.new_bytes, tensor.name))
    say()
    say(f"{path}: {len(different):,} of {words.count(len(found), 'tensor')} differ")
    if not different:
        return
    lines = [
        [
            tensor.name,
            str(tensor.change),
            tensor.before,
            tensor.after if tensor.after != tensor.before else "",
            words.size(tensor.new_bytes) if tensor.new_bytes else "",
        ]
        for tensor in different[:TENSORS_SHOWN_MAX]
    ]
    print_table(_TENSOR_COLUMNS, lines, indent="  ")
    if len(different) > TENSORS_SHOWN_MAX:
        say(f"  … and {len(different) - TENSORS_SHOWN_MAX:,} more; all of them: --json")
    if any(tensor.change is Change.UNCLEAR for tensor in different):
        say("  unclear: a small tensor in a chunk with others, of which at least one changed")


def _document(
    old: Model, new: Model, compared: ManifestDiff, tensors: Mapping[str, list[TensorDiff]]
) -> dict[str, Any]:
    return {
        "before": old,
        "after": new,
        "size_bytes": compared.size_bytes,
        "shared_bytes": compared.shared_bytes,
        "new_bytes": compared.new_bytes,
        "chunks": compared.chunks,
        "new_chunks": compared.new_chunks,
        "files": [
            {
                **msgspec.structs.asdict(file),
                "new_bytes": file.new_bytes,
                "tensors": tensors.get(file.path),
            }
            for file in compared.files
        ],
    }
