import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from textual import _wait
from textual.css.stylesheet import Stylesheet

sys.path.insert(0, str(Path(__file__).parent))

LOOK_EVERY_S = 0.004


@pytest.fixture(autouse=True)
def quick_pilot(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each key Textual's pilot looks whether the process idles, every 20 ms at best.

    A shorter look, in which idling may take the same share, tells as well.
    """
    monkeypatch.setattr(_wait, "SLEEP_GRANULARITY", LOOK_EVERY_S)
    monkeypatch.setattr(_wait, "SLEEP_IDLE", LOOK_EVERY_S / 20)


@pytest.fixture(autouse=True, scope="session")
def one_parse_of_each_sheet() -> Iterator[None]:
    """Textual parses all sheets of styles anew for each app and each of its screens."""
    parse = Stylesheet._parse_rules
    parsed: dict[Any, Any] = {}

    def known(sheet: Stylesheet, css: str, *args: Any, **options: Any) -> Any:
        colours = tuple(sorted(sheet._variables.items()))
        key = (css, args, tuple(sorted(options.items())), colours)
        if key not in parsed:
            parsed[key] = parse(sheet, css, *args, **options)
        return parsed[key]

    Stylesheet._parse_rules = known  # type: ignore[method-assign]
    yield
    Stylesheet._parse_rules = parse  # type: ignore[method-assign]
