"""`meshtrain bases diff`, against a master's answers and real artifact servers on loopback."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from member_keys import MASTER, PERSON, STRANGER, security
from tensor_files import filled, retrained, save, transformer, with_rows
from typer.testing import CliRunner, Result

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.flight import Source
from meshtrain.artifacts.remote import RemoteArtifacts
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.cli.bases_diff import find_model, share
from meshtrain.cli.context import Cli
from meshtrain.cli.main import build
from meshtrain.core.manifest import artifact_id
from meshtrain.errors import FetchError, UserError
from meshtrain.ids import short
from meshtrain.wire.messages import Answer, Query

RECIPE_A, RECIPE_B = "7f3a" + "0" * 28, "c019" + "0" * 28


@dataclass
class Answers:
    """A master that knows two bases, and where it serves."""

    port: int = 1
    bases: list[dict[str, Any]] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def request(self, message: Query, timeout_s: float | None = None) -> Answer:
        rows = {
            "bases": self.bases,
            "nodes": self.nodes,
            "ports": [{"http": self.port, "https": False}],
        }[message.what]
        return Answer(message.request_id, rows=rows, total=len(rows))

    def run(self, *arguments: str) -> Result:
        cli = Cli(master="127.0.0.1:7470", connect=lambda way, timeout_s: self)
        return CliRunner().invoke(build(), ["bases", "diff", *arguments], obj=cli)


def base_row(recipe_hash: str, model: str | None, *holders: str) -> dict[str, Any]:
    return {
        "recipe_hash": recipe_hash,
        "artifact_id": model,
        "holders": holders,
        "state": "committed" if model else "needed",
    }


class Served(NamedTuple):
    """A store, and the port on loopback that it is served at."""

    store: ArtifactStore
    port: int


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    store = ArtifactStore(tmp_path / "store")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = ArtifactServer(store, "127.0.0.1")
    url = asyncio.run_coroutine_threadsafe(server.start(), loop).result()
    yield Served(store, int(url.rpartition(":")[2]))
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def master(tmp_path: Path, served: Served) -> Answers:
    store, port = served
    model = transformer(width=128, blocks=3, vocabulary=5000, classes=10)
    tuned = with_rows(model, ["embeddings.word.weight"], 5, at=5000)
    tuned = retrained(tuned, ["h.1.mlp.c_fc.weight", "h.2.ln_1.bias"])
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, tensors in zip(folders, (model, tuned), strict=True):
        save(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
    (folders[0] / "old.txt").write_text("gone")
    first, second = (artifact_id(store.add_tree(folder)) for folder in folders)
    return Answers(
        port,
        bases=[base_row(RECIPE_A, first, "node-1", "master"), base_row(RECIPE_B, second, "node-9")],
        nodes=[{"node_id": "node-1", "http_url": "http://127.0.0.1:1", "connected": True}],
    )


def said(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_it_shows_what_is_shared_by_file_and_by_tensor(master: Answers) -> None:
    lines = said(master.run("7f3a", "c019"))
    assert "config.json same 2 B 100 %" in lines
    assert "old.txt gone 4 B" in lines
    assert "model.safetensors: 9 of 41 tensors differ" in lines
    (file,) = [line for line in lines if line.startswith("model.safetensors changed")]
    assert re.fullmatch(r".* 5.0 MB \d\d\.\d % [\d.]+ [Mk]B \d of \d\d", file), file
    (grown,) = [line for line in lines if line.startswith("embeddings.word.weight")]
    assert grown.startswith("embeddings.word.weight reshaped F32 [5000, 128] F32 [5005, 128] ")
    assert "h.1.mlp.c_fc.weight changed F32 [128, 512] 262 kB" in lines
    assert "h.2.ln_1.bias unclear F32 [128] 512 B" in lines
    assert any(line.startswith("unclear: a small tensor") for line in lines)
    assert re.fullmatch(
        r"shared \d\d\.\d % of 5.0 MB: bytes of base c019…000 that lie in chunks of base 7f3a…000",
        lines[-2],
    )
    assert lines[-1].startswith("to move ")


def test_as_json_it_tells_every_tensor_and_adds_up(master: Answers) -> None:
    document = json.loads(master.run("7f3a", "c019", "--json").stdout)
    assert document["before"]["recipe_hash"] == RECIPE_A
    files = {file["path"]: file for file in document["files"]}
    assert files["old.txt"]["change"] == "gone" and files["config.json"]["tensors"] is None
    model = files["model.safetensors"]
    assert len(model["tensors"]) == 41
    assert {t["change"] for t in model["tensors"]} == {"same", "reshaped", "changed", "unclear"}
    assert document["shared_bytes"] + document["new_bytes"] == document["size_bytes"]
    assert 0 < document["new_bytes"] == model["new_bytes"] < 0.5 * model["size_bytes"]


def test_models_are_named_by_their_ids_too(master: Answers) -> None:
    first, second = (row["artifact_id"] for row in master.bases)
    assert said(master.run(first[:9], "base/7f3a…000"))[-1].endswith(
        "is the very model of base 7f3a…000"
    )
    # What is no base's latest model any more, by its whole id.
    del master.bases[1:]
    lines = said(master.run("7f3a", second.upper()))
    assert any(f"bytes of artifact {short(second)}" in line for line in lines)


def test_when_nobody_holds_it_all_who_were_asked_are_named(master: Answers) -> None:
    result = master.run("7f3a", "f" * 32)
    assert result.exit_code == 1
    assert "master: doesn't hold it" in result.stderr
    assert "node-1 (http://127.0.0.1:1)" in result.stderr


def test_many_files_are_summed_up(master: Answers, served: Served, tmp_path: Path) -> None:
    for name, count in (("c", 60), ("d", 75)):
        (tmp_path / name).mkdir()
        for number in range(count):
            content = f"{name if number < 15 else ''}{number}"
            (tmp_path / name / f"{number:02}.txt").write_text(content)
    models = [artifact_id(served.store.add_tree(tmp_path / name)) for name in "cd"]
    lines = said(master.run(*models))
    assert "45 files the same" in lines
    assert sum(" new " in line or " changed " in line for line in lines) == 30
    lines = said(master.run("7f3a", models[1]))
    assert any(re.fullmatch("… and \\d+ more files", line) for line in lines)


def test_a_file_that_is_safetensors_in_name_alone_has_no_tensors(
    master: Answers, served: Served, tmp_path: Path
) -> None:
    for name in "cd":
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.safetensors").write_bytes(b"no model " + name.encode())
    models = [artifact_id(served.store.add_tree(tmp_path / name)) for name in "cd"]
    lines = said(master.run(*models))
    assert "m.safetensors changed 10 B 0.0 % 10 B 1 of 1" in lines
    assert not any("tensors differ" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("7f3a", "several bases: 7f3a…000 and 7f3a…001"),
        ("7f3a…001", "no model yet: it is needed"),
        ("abcd", "no base is called abcd"),
        ("7f3", "no base is called 7f3"),
        ("", "no base is called"),
        ("f" * 31, "named by its whole id"),
    ],
)
def test_names_that_stand_for_no_one_model_are_told(name: str, words: str) -> None:
    rows = [base_row(RECIPE_A, "a" * 32), base_row("7f3a" + "0" * 27 + "1", None)]
    with pytest.raises(UserError, match=words):
        find_model(rows, name)


def test_shares_are_rounded_down() -> None:
    assert [share(n, 1000) for n in (0, 1, 999, 1000)] == ["0.0 %", "0.1 %", "99.9 %", "100 %"]
    assert share(99_999, 100_000) == "99.9 %" and share(0, 0) == "100 %"


# --- looking at artifacts elsewhere ----------------------------------------------------------


async def test_p10_manifests_are_shown_to_members_alone(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "weights").write_bytes(b"weights")
    made = store.add_tree(tmp_path / "tree")
    server = ArtifactServer(store, "127.0.0.1", security=security(MASTER))
    sources = [Source("master", await server.start())]
    try:
        async with RemoteArtifacts(security(PERSON)) as remote:
            assert await remote.manifest(artifact_id(made), sources) == made
            with pytest.raises(FetchError, match="not on this host's list of members"):
                await remote.manifest(artifact_id(made), [Source("gpu7", sources[0].url)])
        for stranger in (security(STRANGER), None):
            async with RemoteArtifacts(stranger) as remote:
                with pytest.raises(FetchError):
                    await remote.manifest(artifact_id(made), sources)
    finally:
        await server.stop()


@pytest.mark.parametrize("spoilt", ["manifest", "files/model.safetensors"])
async def test_bytes_that_are_not_those_asked_for_are_not_believed(
    tmp_path: Path, spoilt: str
) -> None:
    save({"w": filled("w", (400, 400))}, tmp_path / "tree" / "model.safetensors")
    stores = [ArtifactStore(tmp_path / name) for name in ("spoilt", "sound")]
    made, _ = (store.add_tree(tmp_path / "tree") for store in stores)
    path = stores[0].root / "artifacts" / artifact_id(made) / spoilt
    path.chmod(0o600)
    path.write_bytes(b"#" * path.stat().st_size)
    servers = [ArtifactServer(ArtifactStore(store.root), "127.0.0.1") for store in stores]
    sources = [Source(f"node-{n}", await server.start()) for n, server in enumerate(servers)]
    try:
        async with RemoteArtifacts(None) as remote:
            assert await remote.manifest(artifact_id(made), sources) == made
            layout = await remote.layout(made, 0, sources)
            assert layout is not None and [tensor.name for tensor in layout.tensors] == ["w"]
            with pytest.raises(FetchError):
                await remote.manifest(artifact_id(made), sources[:1])
                await remote.layout(made, 0, sources[:1])
    finally:
        for server in servers:
            await server.stop()
