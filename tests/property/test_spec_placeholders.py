"""Values go into command lines as one word each, whatever they hold."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrain.spec.matrix import scalar_text
from meshtrain.spec.placeholders import fill, fill_on_node, fill_value, placeholders

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
NASTY = st.sampled_from(
    ["$(reboot)", "`id`", "a b", "'", '"', "{base}", "{{x}}", "}", "{", "\n", ";", "-", "\\", ""]
)
SCALARS = TEXT | NASTY | st.integers(-9, 9) | st.booleans() | st.floats(-5, 5)


@given(value=SCALARS, folder=TEXT | NASTY)
@settings(deadline=None)
def test_a_value_is_one_word_of_the_shell(value: Any, folder: str) -> None:
    line = fill("run --a={a} {output}", {"a": value}, for_shell=True)
    line = fill_on_node(line, {"output": folder, "base": "stolen"}, for_shell=True)
    assert shlex.split(line) == ["run", f"--a={scalar_text(value)}", folder]


@pytest.mark.parametrize("value", ["$(exit 3)", "`false`", "a'b\"c", "*", "~", "{base}", "a\nb"])
def test_the_shell_itself_agrees(value: str) -> None:
    line = fill("printf %s {a}", {"a": value}, for_shell=True)
    line = fill_on_node(line, {"base": "stolen"}, for_shell=True)
    assert subprocess.run(["/bin/sh", "-c", line], capture_output=True).stdout == value.encode()


@given(value=SCALARS)
@settings(deadline=None)
def test_the_environment_holds_values_as_they_are(value: Any) -> None:
    env = fill("{a}", {"a": value}, for_shell=False)
    assert fill_on_node(env, {"base": "stolen"}, for_shell=False) == scalar_text(value)


@given(SCALARS)
@settings(deadline=None)
def test_a_parameter_that_is_one_placeholder_takes_the_values_kind(value: Any) -> None:
    filled = fill_value("{a}", {"a": value})
    assert filled == value
    assert type(filled) is type(value)
    assert fill_value("x{a}", {"a": value}) == "x" + scalar_text(value)
    assert fill_value(value if not isinstance(value, str) else 1, {}) is not None


def test_shell_words_and_plain_braces_stay() -> None:
    written = "awk '{{print $1}}' ${HOME} ${X:-{{}}} {output}"
    assert placeholders(written) == ["output"]
    assert fill_on_node(written, {"output": "/o"}, for_shell=True) == (
        "awk '{print $1}' ${HOME} ${X:-{}} /o"
    )
