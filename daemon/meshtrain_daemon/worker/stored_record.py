"""What becomes of an attempt's output, noted before the output is touched.

Storing an output takes its folder away, by a rename or file by file. A daemon
may be killed at any point of that, and when it has happened and is not told.
So the note is on the disk first, and says which artifact is being made:

    killed before the note          the output is whole: it is stored anew
    noted, artifact not in store    nothing was taken yet (or the store's own recovery put
                                    it in place): the output is whole, and is stored anew
    noted, artifact in store        that is the result, whatever is left of the output

The note and the artifact are both fsynced, so they are believed after a loss of
power too, when nothing else in the folder is.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from meshtrain.artifacts.files import ArtifactStore
from meshtrain.core import agent_io as io
from meshtrain.errors import ArtifactError
from meshtrain_daemon.worker.attempt_folder import open_plain

STORED_FILE = "stored.json"
_BYTES_MAX = 1 << 20
_decoder = msgspec.json.Decoder(io.OutputStored)


def note_stored(folder: str, stored: io.OutputStored) -> None:
    """Notes what an output is about to become, durably. Raises OSError."""
    path = Path(folder, STORED_FILE)
    making = Path(folder, f".{STORED_FILE}")
    making.unlink(missing_ok=True)
    with making.open("wb") as file:
        file.write(msgspec.json.encode(stored))
        file.flush()
        os.fsync(file.fileno())
    making.replace(path)
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_noted(folder: str) -> bool:
    """Whether a note was made; what it says may not have happened."""
    return os.path.exists(f"{folder}/{STORED_FILE}")  # noqa: PTH110


def stored_before(folder: str, attempt_id: str, store: ArtifactStore) -> io.OutputStored | None:
    """What an output has become already, as a former daemon noted; None when it has not."""
    try:
        with open_plain(f"{folder}/{STORED_FILE}") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return None  # A job that runs as another account made it up.
            noted = _decoder.decode(file.read(_BYTES_MAX))
        if noted.attempt_id != attempt_id or noted.artifact_id is None:
            return None
        return noted if store.has(noted.artifact_id) else None
    except (OSError, msgspec.DecodeError, ValueError, RecursionError, ArtifactError):
        return None
