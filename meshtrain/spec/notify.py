"""From `notify:` in a job file to what the master keeps of it."""

from __future__ import annotations

from meshtrain.spec.forms import NotifySection
from meshtrain.spec.notify_kinds import NotifySpec


def notify_of(section: NotifySection | None) -> NotifySpec | None:
    """Who is told; None leaves it to the master's settings."""
    if section is None:
        return None
    return NotifySpec(section.on, section.command, section.webhook, section.secret)
