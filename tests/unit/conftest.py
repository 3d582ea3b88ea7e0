"""What unit tests share by name; else they import it from the modules beside them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from channel_peer import Sockets


@pytest.fixture(params=["clear", "tls"])
async def sockets(request: pytest.FixtureRequest) -> AsyncIterator[Sockets]:
    """Peers that a test starts, and connections to them; taken down with the test."""
    made = Sockets(encrypt=request.param == "tls")
    yield made
    await made.close()
