"""A program that joins a host's loopback to the network: links in, links out, commanded by lines.

Daemons that have no keys stay on loopback. So each host runs this beside its
daemon: what the daemon would reach on another host it reaches on its own
loopback, under the same port, and the bytes go over the network in between.

    python wires.py NAME=LISTEN_HOST:PORT=TARGET_HOST:PORT …

A line of JSON on its input is a command to its links, `{"names": ["…"], "do":
"cut", "with": ["out"]}`; it answers each with a line.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec

from meshtrain.chaos.link import Link, Way


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def obey(links: dict[str, Link], command: dict[str, Any]) -> None:
    arguments = command.get("with", [])
    if command["do"] == "cut":
        arguments = [Way(way) for way in arguments]
    for name in command["names"] or links:
        getattr(links[name], command["do"])(*arguments)


async def main() -> None:
    links: dict[str, Link] = {}
    for seed, word in enumerate(sys.argv[1:]):
        name, listen, target = word.split("=")
        links[name] = Link(address(listen), address(target), seed=seed)
        await links[name].start()
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        obey(links, msgspec.json.decode(line))
        print("done", flush=True)
    for link in links.values():
        await link.close()


if __name__ == "__main__":
    asyncio.run(main())
