"""The assignment in an attempt's folder: what the next daemon needs to take the attempt over.

It is written before the launch, in one call over what an earlier attempt may
have left there; a process that is killed can't leave half of it. A host that
lost power can: a checksum tells.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from enum import Enum

import msgspec

from meshtrain.core.commands import AssignAttempt
from meshtrain_daemon.worker.plain_file import open_plain

ASSIGNMENT_FILE = "assignment"
RECORD_BYTES_MAX = 16 << 20

_HEADER = struct.Struct("<cII")
_decoder = msgspec.msgpack.Decoder(AssignAttempt)
_encoder = msgspec.msgpack.Encoder()


class Stage(Enum):
    """How far an attempt is, as its folder says."""

    HELD = b"h"
    """The master doesn't have its end yet, as far as this node knows."""
    FORGOTTEN = b"f"
    """The master has its end; bytes of its log may still be on their way."""


def write_assignment(folder: str, assignment: AssignAttempt) -> None:
    """Records what is about to be launched. Raises OSError."""
    content = _encoder.encode(assignment)
    record = _HEADER.pack(Stage.HELD.value, zlib.crc32(content), len(content)) + content
    fd = os.open(f"{folder}/{ASSIGNMENT_FILE}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.pwrite(fd, record, 0) != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def mark_forgotten(folder: str) -> None:
    """Notes that the master has the attempt's end. Raises OSError."""
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(f"{folder}/{ASSIGNMENT_FILE}", flags)
    try:
        os.pwrite(fd, Stage.FORGOTTEN.value, 0)
    finally:
        os.close(fd)


def read_assignment(folder: str) -> tuple[AssignAttempt, Stage] | None:
    """What `write_assignment` recorded, or None when there is nothing that can be used."""
    try:
        with open_plain(f"{folder}/{ASSIGNMENT_FILE}") as file:
            data = file.read(RECORD_BYTES_MAX)
        stage, checksum, size_bytes = _HEADER.unpack_from(data)
        content = data[_HEADER.size : _HEADER.size + size_bytes]
        if len(content) != size_bytes or zlib.crc32(content) != checksum:
            return None
        return _decoder.decode(content), Stage(stage)
    except (OSError, struct.error, ValueError, RecursionError, msgspec.DecodeError):
        return None
