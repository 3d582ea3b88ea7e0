"""The failures of reading, writing and drawing results."""

from __future__ import annotations

from meshtrain.errors import MeshtrainError, UserError


class ResultsError(MeshtrainError):
    """Raised when a result can't be put in place, or a results folder can't be read."""


class MissingExtraError(UserError):
    """Raised when something is asked for whose optional packages aren't installed."""
