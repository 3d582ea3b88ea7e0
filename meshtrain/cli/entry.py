"""The program `meshtrain`: a shell that completes a word is answered before anything is loaded."""

from __future__ import annotations

import sys

NAMES_WORD = "__names"
"""What the scripts of `meshtrain completion` call; people don't."""


def main() -> None:
    """Run the command line, or answer a shell, and exit."""
    if sys.argv[1:2] == [NAMES_WORD]:
        from meshtrain.cli.complete_names import main as answer

        answer(sys.argv[2:])
        return
    from meshtrain.cli.main import main as run

    run()
