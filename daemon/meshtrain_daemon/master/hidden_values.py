"""What is told of jobs without the values of their environment: people put keys of services there.

Names stay, so that it can be seen what was set.
"""

from __future__ import annotations

from typing import Any, Final

HIDDEN: Final = "(not shown here)"
"""In the place of values that may be secrets."""


def without_secrets(told: dict[str, Any]) -> dict[str, Any]:
    """A job as it is told, with its work as plain values under "work"."""
    work = told["work"]
    if isinstance(work, dict) and work.get("env"):
        return {**told, "work": {**work, "env": dict.fromkeys(work["env"], HIDDEN)}}
    return told
