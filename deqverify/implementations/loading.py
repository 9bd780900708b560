"""From the text of a target to an implementation: ``name``, ``name[options]`` or
``package.module:factory[options]``."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from deqverify.implementations.protocol import Layer, Model
from deqverify.implementations.subject import as_implementation

GROUP = "deqverify.implementations"
RELATIVE = "claim=relative"
"""An option of every target: judge its tolerances as relative, as a user who rescales the data relies on."""

_PATTERN = re.compile(r"^(?P<name>[\w.\-]+(:[\w.]+)?)(\[(?P<options>[^\[\]]*)\])?$")


class TargetError(ValueError):
    """A target that cannot be loaded; the message says why and what to type."""


@dataclass(frozen=True)
class Target:
    """A parsed target: the entry point or ``module:factory``, and its options in order."""

    name: str
    options: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}[{','.join(self.options)}]" if self.options else self.name


def parse(text: str) -> Target:
    """The target that ``text`` names; TargetError, with the forms that are understood, otherwise."""
    match = _PATTERN.match(text.strip())
    if not match:
        raise TargetError(f"target: cannot read {text!r}; write name, 'name[option,option]' or package.module:factory")
    options = tuple(part.strip() for part in (match["options"] or "").split(",") if part.strip())
    return Target(match["name"], options)


def installed() -> dict[str, EntryPoint]:
    """Implementations that installed packages offer, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load(text: str) -> Any:
    """The implementation that ``text`` names, its name the text. TargetError when it can't be imported, built or
    understood."""
    target = parse(text)
    arguments = [option for option in target.options if option != RELATIVE]
    factory = _factory(target.name)
    try:
        implementation = factory(*arguments) if callable(factory) and _is_factory(factory) else factory
        implementation = as_implementation(implementation)
        if RELATIVE in target.options:
            _claim_relative(implementation)
        implementation.name = str(target)
    except Exception as error:
        raise TargetError(f"target {text!r}: building it failed: {type(error).__name__}: {error}") from error
    return implementation


def _factory(name: str) -> Any:
    points = installed()
    if ":" not in name and name not in points:
        raise TargetError(
            f"target: {name!r} is not installed; known are {', '.join(sorted(points)) or 'none'}; "
            "one of your own is written package.module:factory"
        )
    try:
        if name in points:
            return points[name].load()
        module, _, attribute = name.partition(":")
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        return found
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        own = missing == name.partition(":")[0].partition(".")[0] and name not in points
        fix = f"run where {missing}.py lies, or put its folder on PYTHONPATH" if own else f"pip install {missing}"
        raise TargetError(f"target {name!r}: there is no module {error.name!r}; {fix}") from error
    except Exception as error:  # importing a stranger's module may raise anything
        raise TargetError(f"target {name!r}: importing it failed: {type(error).__name__}: {error}") from error


def _is_factory(candidate: Any) -> bool:
    """A class or function that makes an implementation, as opposed to an implementation, or a solver to be wrapped."""
    if isinstance(candidate, type):
        return True
    if isinstance(candidate, Layer | Model):
        return False
    import inspect

    try:
        required = [
            p
            for p in inspect.signature(candidate).parameters.values()
            if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        return True
    return len(required) < 2  # solve(step, z0) takes two


def _claim_relative(implementation: Any) -> None:
    claims = implementation.claims
    backward = claims.backward.as_relative() if claims.backward else None
    implementation.claims = replace(claims, forward=claims.forward.as_relative(), backward=backward)
