"""What a run came to: each promise, how often it was looked at, and where it was broken."""

from __future__ import annotations

import msgspec

SHOWN_MAX = 20


class Check(msgspec.Struct):
    """One promise that was looked at."""

    name: str
    promise: str
    looked_at: int = 0
    violations: list[str] = []

    @property
    def ok(self) -> bool:
        """Whether it held wherever it was looked at."""
        return not self.violations

    def demand(self, condition: bool, told: str) -> bool:
        """Look once; what isn't so is a violation."""
        self.looked_at += 1
        if not condition:
            self.violations.append(told)
        return condition


class Verdict:
    """All checks of one run, in the order in which they were made."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def check(self, name: str, promise: str) -> Check:
        """The check of that name, made anew where there is none."""
        for known in self.checks:
            if known.name == name:
                return known
        made = Check(name, promise, violations=[])
        self.checks.append(made)
        return made

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def violations(self) -> list[str]:
        return [f"{check.name}: {told}" for check in self.checks for told in check.violations]
