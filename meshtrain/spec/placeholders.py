"""Placeholders of command lines: filled once from the matrix, once more on the node.

`{name}` is a placeholder, `{{` and `}}` stand for braces, `${VAR}` is the
shell's and is left alone. A first pass fills what the matrix knows and leaves
`{output}`, `{base}`, `{code}`, `{from}`, `{prepared}` and `{inputs.NAME}` for the node;
its result is a template again, so braces in a value can't turn into a
placeholder. The node's pass is `fill_on_node`. Values that go into a shell line
are quoted for the shell.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping

from meshtrain.spec.matrix import Scalar, scalar_text
from meshtrain.spec.problems import hint, shown

NODE_PLACEHOLDERS = ("output", "base", "code", "prepared", "from")
INPUTS = "inputs."
"""Put before the name of an input: `{inputs.data}` is its folder."""

_TOKEN = re.compile(r"\$\{[^{}]*\}|\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_.-]*)\}|[{}]")
_ALONE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}\Z")


def placeholders(template: str) -> list[str]:
    """The names in `template`, in order of first use."""
    found = [match[1] for match in _TOKEN.finditer(template) if match[1]]
    return list(dict.fromkeys(found))


def template_problems(template: str, known: Collection[str]) -> list[str]:
    """What is wrong with `template` when only `known` names can be filled."""
    problems = [
        f"unknown placeholder {{{name}}}{hint(name, known) or _offer(known)}"
        for name in placeholders(template)
        if name not in known
    ]
    lone = [m[0] for m in _TOKEN.finditer(template) if m[0] in ("{", "}")]
    if lone:
        problems.append(f"a lone {shown(lone[0])}; write {lone[0] * 2} for a plain brace")
    return problems


def _offer(known: Collection[str]) -> str:
    names = ", ".join(f"{{{name}}}" for name in list(known)[:12])
    return f"; known here: {names}" if names else ""


def fill(template: str, values: Mapping[str, Scalar], *, for_shell: bool) -> str:
    """Fills `values` in; the node's placeholders and all escapes stay as they are."""

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        if not name or name not in values:
            return match[0]
        text = scalar_text(values[name])
        return _escape(shlex.quote(text) if for_shell else text)

    return _TOKEN.sub(filled, template)


def fill_value(value: Scalar, values: Mapping[str, Scalar]) -> Scalar:
    """Fills a parameter for good; `"{shots}"` alone takes the value's own type."""
    if not isinstance(value, str):
        return value
    alone = _ALONE.match(value)
    if alone and alone[1] in values:
        return values[alone[1]]
    return unescape(fill(value, values, for_shell=False))


def fill_on_node(template: str, folders: Mapping[str, str], *, for_shell: bool) -> str:
    """Fills the node's placeholders and turns `{{` and `}}` into braces."""

    def filled(match: re.Match[str]) -> str:
        if match[1] and match[1] in folders:
            folder = folders[match[1]]
            return shlex.quote(folder) if for_shell else folder
        return match[0][0] if match[0] in ("{{", "}}") else match[0]

    return _TOKEN.sub(filled, template)


def unescape(template: str) -> str:
    """Turns `{{` and `}}` into braces, and fills nothing."""
    return fill_on_node(template, {}, for_shell=False)


def _escape(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
