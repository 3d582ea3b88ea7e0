"""Numbers as messages carry them: each within the limits that all sides hold."""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""A number from 0 on that a database's 64-bit column holds."""
Priority = Annotated[int, msgspec.Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Seconds = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
"""A moment or a duration; never NaN, which would compare false with everything."""
