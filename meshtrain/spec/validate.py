"""A tree against a model: every problem, and the model of what is sound all the same.

Checks that look at several fields run on that model, so that one report holds
them beside a typo elsewhere in the file.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from meshtrain.spec.problems import (
    JobFileError,
    Path,
    Place,
    Problem,
    Spot,
    hint,
    shown,
)
from meshtrain.spec.reader import Document

Model = TypeVar("Model", bound=BaseModel)
PRUNE_ROUNDS_MAX = 8
PROBLEMS_KEPT_MAX = 200
"""More of one file are only counted: looking for what was meant takes long."""


class Findings:
    """The problems of one file, each found once, each with the best place known."""

    def __init__(self, file_name: str, document: Document) -> None:
        self._file_name = file_name
        self._places = document.places
        self._problems = list(document.problems[:PROBLEMS_KEPT_MAX])
        self._more = len(document.problems) - len(self._problems)
        self._taken: set[Path] = set()
        #: those that are taken, and all that lie around one
        self._around: set[Path] = set()
        for problem in document.problems:
            self._take(problem.path)

    def __len__(self) -> int:
        return len(self._problems) + self._more

    def at_value(self, text: str, path: Path) -> None:
        """A value that is wrong where it stands."""
        place, exact = self._place(path)
        self._add(Problem(text, path, place.value if exact and place else place and place.key))

    def at_key(self, text: str, path: Path) -> None:
        """A key that is wrong, or a section that lacks something."""
        place, _ = self._place(path)
        self._add(Problem(text, path, place and place.key))

    def between(self, text: str, path: Path) -> None:
        """Two fields that don't go together: the line of one of them."""
        place, _ = self._place(path)
        self._add(Problem(text, path, Spot(place.value.line) if place else None))

    def error(self) -> JobFileError:
        """The error that holds the first of them, and tells how many there are."""
        return JobFileError(self._file_name, self._problems, self._more)

    def _add(self, problem: Problem) -> None:
        # A value that couldn't be read is not missing, and its children are not wrong twice.
        path = problem.path
        if path in self._around or any(path[:n] in self._taken for n in range(1, len(path))):
            return
        self._take(path)
        if len(self._problems) < PROBLEMS_KEPT_MAX:
            self._problems.append(problem)
        else:
            self._more += 1

    def _take(self, path: Path) -> None:
        self._taken.add(path)
        self._around.update(path[:n] for n in range(1, len(path) + 1))
        if not path:
            self._around.add(path)

    def _place(self, path: Path) -> tuple[Place | None, bool]:
        for length in range(len(path), -1, -1):
            place = self._places.get(path[:length])
            if place is not None:
                return place, length == len(path)
        return None, False


def validated(model: type[Model], tree: Any, findings: Findings, path: Path = ()) -> Model | None:
    """The model of `tree`, without the parts that are wrong; those go to `findings`.

    None when not even an empty one can be made of it.
    """
    sound = tree
    for _ in range(PRUNE_ROUNDS_MAX):
        try:
            return model.model_validate(sound)
        except ValidationError as error:
            if sound is tree:
                sound = copy.deepcopy(tree)
            if not isinstance(sound, dict):
                findings.at_value(f"expected keys with values, got {shown(tree)}", path)
                return None
            for details in error.errors(include_url=False):
                _tell(model, details, findings, path)
                _prune(sound, details["loc"])
    return None


def _tell(model: type[BaseModel], details: Any, findings: Findings, path: Path) -> None:
    loc = details["loc"]
    if loc and loc[-1] == "[key]":
        findings.at_key(_words(details), (*path, *loc[:-1]))
    elif details["type"] == "extra_forbidden":
        findings.at_key(_unknown_key(model, loc, len(findings) < PROBLEMS_KEPT_MAX), (*path, *loc))
    else:
        findings.at_value(_words(details), (*path, *loc))


def _words(details: Any) -> str:
    kind, value = details["type"], details["input"]
    if kind == "value_error":
        return str(details["ctx"]["error"])
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"expected keys with values, got {shown(value)}"
    if kind == "list_type":
        return f"expected a list, got {shown(value)}"
    if kind == "too_long":
        return f"{len(value):,} entries; at most {details['ctx']['max_length']:,}"
    return str(details["msg"])


def _unknown_key(model: type[BaseModel], loc: Path, hinted: bool) -> str:
    if not hinted:
        return "unknown key"
    key = str(loc[-1])
    section = _section(model, loc[:-1])
    known = [field.alias or name for name, field in section.model_fields.items()] if section else []
    close = hint(key, known)
    if not close and len(loc) == 1:
        inside = [
            f"{name}.{key}"
            for name in ("target", "base", "results", "resources", "budget")
            if (child := _section(model, (name,))) and key in child.model_fields
        ]
        close = f'; did you mean "{inside[0]}"?' if inside else ""
    return f"unknown key{close or '; known here: ' + ', '.join(known)}"


def _section(model: type[BaseModel], loc: Path) -> type[BaseModel] | None:
    section: type[BaseModel] | None = model
    for step in loc:
        if section is None or step not in section.model_fields:
            return None
        section = section_model(section, str(step))
    return section


def section_model(model: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The model of the section `field` of `model`, or None when it is no section."""
    annotation = model.model_fields[field].annotation
    options = (annotation, *getattr(annotation, "__args__", ()))
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _prune(tree: Any, loc: Path) -> None:
    """Takes the smallest keyed value that holds `loc` out of `tree`."""
    parent, key, node = None, None, tree
    for step in loc:
        if isinstance(node, dict) and step in node:
            parent, key = node, step
            node = node[step]
        elif isinstance(node, list) and isinstance(step, int) and step < len(node):
            node = node[step]
        else:
            break
    if parent is not None:
        parent.pop(key, None)
