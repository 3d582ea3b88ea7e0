"""What happens when something happens that nobody expected: the process ends, and says why.

Its state is on disk, and whoever supervises it starts it again; going on with
a state that nobody thought of could lose what a restart keeps.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from typing import Any

EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h."""


def end_on_bugs(loop: asyncio.AbstractEventLoop) -> None:
    """Have an exception in a callback of the loop end the process."""
    loop.set_exception_handler(_end)


def _end(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    print(f"ended by a bug: {context.get('message', '')}", file=sys.stderr)
    if error is not None:
        traceback.print_exception(error, file=sys.stderr)
    sys.stderr.flush()
    os._exit(EXIT_CODE)
