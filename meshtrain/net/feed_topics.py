"""How dashboards tell which feed they want: by the first bytes of its messages.

A message begins with its type, so that the bytes up to there are all that ZeroMQ
needs to send each dashboard only what it asked for.
"""

from __future__ import annotations

from typing import Final

from meshtrain.wire.codec import encode
from meshtrain.wire.messages import Brief, Feed, ToDashboard

FEED_GREETING: Final = Feed(incarnation=0, seq=0)
"""What a dashboard hears first when its link to the feed stands; no real feed is number 0."""


def _beginning(message: ToDashboard) -> bytes:
    data = encode(message)
    return data[: data.index(b"incarnation") - 1]


FEED_TOPIC: Final = _beginning(FEED_GREETING)
"""The whole feed, and the greeting."""
BRIEF_TOPIC: Final = _beginning(Brief(incarnation=0, seq=0))
GREETING_TOPIC: Final = encode(FEED_GREETING)
