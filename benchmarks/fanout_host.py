"""One host of the mesh in the fan-out: the store, the server and the fetcher that nodes run.

Commanded as `fanout_voice` says. A holder has the artifact in its store and only
serves; the others hold the manifest, fetch at the word to go, and serve what they have.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import fanout_voice as voice

from meshtrain.artifacts.fetch import Fetcher, Source
from meshtrain.artifacts.files import ArtifactStore
from meshtrain.artifacts.server import ArtifactServer
from meshtrain.core.manifest import artifact_id, parse_manifest
from meshtrain.security.keys import Identity
from meshtrain.security.membership import MembersFile
from meshtrain.security.signing import HttpSecurity


async def run(order: dict[str, Any]) -> None:
    """Serves, and fetches when told to, until the input ends."""
    security = HttpSecurity(
        Identity.load(Path(order["keys"])),
        MembersFile(Path(order["members"])).roll,
        order["encrypt"],
    )
    store = ArtifactStore(Path(order["store"]))
    server = ArtifactServer(store, order["host"], order["port"], security=security)
    fetcher = Fetcher(store, security=security)
    await server.start()
    await fetcher.start()
    try:
        await _play(order, store, fetcher)
    finally:
        await fetcher.close()
        await server.stop()


async def _play(order: dict[str, Any], store: ArtifactStore, fetcher: Fetcher) -> None:
    manifest = parse_manifest(Path(order["manifest"]).read_bytes())
    name = artifact_id(manifest)
    if order["fetches"]:
        # So it holds the manifest, and room for the rest.
        await asyncio.to_thread(store.begin, manifest)
    voice.say("ready")
    word = await asyncio.to_thread(voice.hear)
    if word == "go" and order["fetches"]:
        sources = [Source(**source) for source in order["sources"]]
        report = await fetcher.fetch(name, sources)
        path = await asyncio.to_thread(_path_of, store, name)
        voice.done(path, bytes_by_node=report.bytes_by_node, banned=list(report.banned))
    while word:
        word = await asyncio.to_thread(voice.hear)


def _path_of(store: ArtifactStore, name: str) -> Path:
    """Where the artifact's only file lies."""
    (file,) = store.manifest(name).files
    with store.open_verified(name, 0, 0, file.size_bytes) as opened:
        return Path(opened.name)


if __name__ == "__main__":
    asyncio.run(run(voice.order()))
