"""A command of the master's settings that is told of a sweep: JSON on its standard input."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from meshtrain_daemon.master.webhook import NeverSentError, NotSentError

SAID_BYTES_MAX: Final = 2048
_KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
"""Of the master's own environment: what else is there is nobody's business."""


async def run_command(
    line: str, body: bytes, about: Mapping[str, str], folder: Path, timeout_s: float
) -> None:
    """Run a command to its end; nothing of it is left when this returns or raises.

    Args:
        line: the program and its arguments; no shell reads it.
        body: what it gets on standard input.
        about: variables of its environment.
        folder: where it runs.

    Raises:
        NotSentError: when it fails or takes too long; NeverSentError when it isn't there.
    """
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    try:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(line),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**environment, **about},
            cwd=folder,
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError) as error:
        raise NeverSentError(f"{line.split()[0]}: {error.strerror}") from error
    except OSError as error:
        raise NotSentError(f"no process for it: {error.strerror}") from error
    said = b""
    try:
        async with asyncio.timeout(timeout_s):
            said = await _talk(process, body)
            status = await process.wait()
    except TimeoutError:
        raise NotSentError(f"it took over {timeout_s:g} s") from None
    finally:
        # The whole session: what it started must not outlive it unseen.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if status:
        last = said.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise NotSentError(f"exit code {status}{': ' if last else ''}{' '.join(last)[:200]}")


async def _talk(process: asyncio.subprocess.Process, body: bytes) -> bytes:
    assert process.stdin is not None and process.stderr is not None
    # One that reads nothing may still do its work.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(body)
        await process.stdin.drain()
    process.stdin.close()
    said = b""
    while piece := await process.stderr.read(SAID_BYTES_MAX):
        said = (said + piece)[-SAID_BYTES_MAX:]
    return said
