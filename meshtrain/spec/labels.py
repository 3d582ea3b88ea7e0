"""Labels of nodes: words by which people choose where jobs run, and what they cost."""

from __future__ import annotations

from typing import Any

from meshtrain.spec import kinds
from meshtrain.spec.kinds import Kind
from meshtrain.spec.problems import shown

LABELS_MAX = 64
PRICE_MAX = 1_000_000
DEFAULT_PRICE = "default"
"""Among the prices by label: that of nodes which have none of the labels."""

_TEXT = kinds.text("text", len_max=256, blank=True)


def _check_labels(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        value = {key.strip(): text.strip() for key, _, text in pairs}
    if not isinstance(value, dict) or len(value) > LABELS_MAX:
        raise ValueError(f"expected at most {LABELS_MAX} labels, name = text; got {shown(value)}")
    for key, text in value.items():
        kinds.NAME.check(key)
        _TEXT.check(text)
    return dict(value)


def _check_wanted(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise ValueError(f"expected labels such as {{gpu: a100}}, got {shown(value)}")
    return tuple(sorted(_check_labels(value).items()))


def _check_prices(value: Any) -> dict[str, float]:
    if isinstance(value, str) and isinstance(_number(value), float):
        value = _number(value)
    if kinds.is_number(value):
        value = {DEFAULT_PRICE: value}
    elif isinstance(value, str):
        pairs = [pair.rpartition(":") for pair in value.split(",") if pair.strip()]
        value = {key.strip(): _number(text.strip()) for key, _, text in pairs}
    if not isinstance(value, dict) or len(value) > LABELS_MAX:
        raise ValueError(
            f'expected at most {LABELS_MAX} prices, "label=text" = number; got {shown(value)}'
        )
    for key, price in value.items():
        name, equals, text = str(key).partition("=")
        if key != DEFAULT_PRICE and not equals:
            raise ValueError(
                f'{shown(key)} is no label: write "gpu=a100", or "{DEFAULT_PRICE}" for all others'
            )
        kinds.NAME.check(name)
        _TEXT.check(text)
        PRICE.check(price)
    return {str(key): float(price) for key, price in value.items()}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


LABELS = Kind("name = text", _check_labels, {"type": "object"})
WANTED = Kind(
    "names with text: {gpu: a100}",
    _check_wanted,
    {"type": "object", "maxProperties": LABELS_MAX, "additionalProperties": {"type": "string"}},
)
PRICE = kinds.number("number, 0 or more", 0, PRICE_MAX)
PRICES = Kind('number, or "label=text" = number', _check_prices, {"type": "object"})
