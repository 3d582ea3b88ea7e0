"""One end of the star: a program that serves the file, or one that brings it here.

Commanded as `fanout_voice` says. What came is hashed, brought onto the disk and
renamed, as meshtrain does with what it fetches.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fanout_voice as voice
import xxhash

_CONTAINED = ("unshare", "--pid", "--fork", "--kill-child", "--")
"""What a program forks ends with it, also when it is killed: rsync's processes would stay."""
_PIECE_BYTES = 1 << 20
_LISTENS_WITHIN_S = 20.0


def _serve(order: dict[str, Any]) -> None:
    """Runs a server until the input ends."""
    server = subprocess.Popen(
        [*_CONTAINED, *order["command"]],
        stdout=sys.stderr,
        stdin=subprocess.DEVNULL,
        preexec_fn=voice.die_with_parent,
    )
    try:
        _wait_until_it_listens(server, order["host"], order["port"])
        voice.say("ready")
        while voice.hear():
            pass
    finally:
        server.kill()
        server.wait()


def _wait_until_it_listens(server: subprocess.Popen[bytes], host: str, port: int) -> None:
    deadline_s = time.monotonic() + _LISTENS_WITHIN_S
    while True:
        try:
            socket.create_connection((host, port), timeout=1.0).close()
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline_s:
                raise SystemExit(f"{server.args!r} doesn't listen at {host}:{port}") from None
            time.sleep(0.02)
        else:
            return


def _bring(order: dict[str, Any]) -> None:
    """Runs a client at the word to go."""
    came, final = Path(order["into"]), Path(order["final"])
    voice.say("ready")
    if voice.hear() != "go":
        return
    subprocess.run(
        [*_CONTAINED, *order["command"]],
        stdout=sys.stderr,
        stdin=subprocess.DEVNULL,
        check=True,
        preexec_fn=voice.die_with_parent,
    )
    found = digest_of(came)
    if found != order["xxh3"]:
        raise SystemExit(f"{came} has digest {found}, not {order['xxh3']}")
    voice.fsync(came)
    came.rename(final)
    voice.fsync(final.parent)
    voice.done(final)
    while voice.hear():
        pass


def digest_of(path: Path) -> str:
    """The xxh3-128 of a file."""
    digest = xxhash.xxh3_128()
    buffer = bytearray(_PIECE_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


if __name__ == "__main__":
    given = voice.order()
    if given["serves"]:
        _serve(given)
    else:
        _bring(given)
