"""Runs a program in a network namespace that has a loopback interface and nothing else.

    python loopback_only.py PROGRAM ARGUMENT…

Some of the systems listen on every interface and have no setting for it. Where the host
doesn't allow a namespace, this ends with exit code 77 and runs nothing.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

NOT_ALLOWED = 77

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _enter_namespace() -> None:
    try:
        _unshare(_CLONE_NEWNET)
    except PermissionError:
        uid, gid = os.getuid(), os.getgid()
        _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        for name, line in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            Path(f"/proc/self/{name}").write_text(line)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def main() -> None:
    """Enters the namespace, then becomes the program."""
    try:
        _enter_namespace()
    except OSError as error:
        print(f"no network namespace on this host: {error}", file=sys.stderr)
        raise SystemExit(NOT_ALLOWED) from None
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
