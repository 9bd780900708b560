"""From the text of a target to an implementation: ``name``, ``name[options]`` or
``package.module:factory[options]``; the options of a plain function are its claims."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from deqverify.clock import Interrupted, uncounted
from deqverify.frameworks import FRAMEWORKS
from deqverify.implementations.candidates import as_implementation, is_module, refuse_module_class
from deqverify.implementations.options import claimed, framework_of
from deqverify.implementations.protocol import Layer, Model

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
    return dict(_installed_on(tuple(sys.path)))


@lru_cache(maxsize=1)
def _installed_on(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """The same for one ``sys.path``: kept, since this reads a file of each package there, and implementations are made
    anew for many examples."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load(text: str) -> Any:
    """The implementation that ``text`` names, its name the text. TargetError when it can't be imported, built or
    understood, and for options that it does not take."""
    target = parse(text)
    options = tuple(option for option in target.options if option != RELATIVE)
    found = find(target.name)
    try:
        if is_factory(found):
            implementation = as_implementation(_built(found, options, text))
        else:
            implementation = as_implementation(found, framework_of(options))
            if options:
                implementation.claims = claimed(options, _taking_claims(implementation, found).claims)
        if RELATIVE in target.options:
            implementation = _claiming_relative(implementation)
    except TargetError:
        raise
    except (TypeError, ValueError) as error:
        raise TargetError(f"target {text!r}: {str(error).removeprefix('deq: ')}") from error
    implementation.name = str(target)
    return implementation


def _built(factory: Any, options: tuple[str, ...], text: str) -> Any:
    refuse_module_class(factory)
    try:
        inspect.signature(factory).bind(*options)
    except TypeError as error:
        given = f"the options {', '.join(options)}" if options else "no options"
        raise TargetError(
            f"target {text!r}: {factory.__name__} cannot be called with {given} ({error}); a factory takes its options "
            "as text, def make(*options), and a solver is def solve(step, z0)"
        ) from error
    except ValueError:  # written in C, without a signature
        pass
    try:
        made = factory(*options)
        if getattr(made, "framework", None) in FRAMEWORKS:
            with uncounted():
                importlib.import_module(made.framework)  # a layer may be made without it, and not asked
        return made
    except (KeyboardInterrupt, Interrupted):
        raise
    except ModuleNotFoundError as error:  # a factory may import its library first when it is called
        target, missing = parse(text), (error.name or "").partition(".")[0]
        fix = _remedy(target.name, missing, installed().get(target.name))
        if target.name == "reference" and "fast" not in target.options and missing == "torch":
            others = (option for option in target.options if option not in ("torch", "straight-through"))
            without = Target("reference", (*others, "numpy"))
            fix += f", or take {without}, which needs NumPy alone"
        raise TargetError(f"target {text!r}: there is no module {error.name!r}; {fix}") from error
    except BaseException as error:  # SystemExit and skips are BaseExceptions too
        raise TargetError(f"target {text!r}: building it failed: {type(error).__name__}: {error}") from error


def _taking_claims(implementation: Any, found: Any) -> Any:
    if implementation is found:
        raise TypeError(
            f"it is a {type(found).__name__}, made already, and takes no options; what it claims stands in its claims"
        )
    return implementation


_FAILED: dict[str, str] = {}
"""Imports that failed in this process. Python keeps what a failing module had imported, so that a second attempt may
end otherwise, half done."""


def forget() -> None:
    """Lets imports that failed be tried again, where somebody may have mended them, and looks again at what is
    installed."""
    _FAILED.clear()
    _installed_on.cache_clear()


def find(name: str) -> Any:
    """What the name of a target stands for: what its entry point or its module holds. TargetError if it cannot be
    imported. Importing does not count against an example, as for a fresh implementation amid a trial."""
    if name in _FAILED:
        raise TargetError(_FAILED[name])
    try:
        with uncounted():
            return _imported(name)
    except TargetError as error:
        _FAILED[name] = str(error)
        raise


def _imported(name: str) -> Any:
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
        fix = _remedy(name, (error.name or "").partition(".")[0], points.get(name))
        raise TargetError(f"target {name!r}: there is no module {error.name!r}; {fix}") from error
    except (KeyboardInterrupt, Interrupted):
        raise
    except BaseException as error:  # importing a stranger's module may raise anything, and exit
        raise TargetError(f"target {name!r}: importing it failed: {type(error).__name__}: {error}") from error


def _remedy(name: str, missing: str, point: EntryPoint | None) -> str:
    """What to do where a module is ``missing``: a package's extra of the target's name brings all that the target
    needs, one of the module's name what it lacks."""
    if point is None and missing == name.partition(":")[0].partition(".")[0]:
        return f"run where {missing}.py lies, or put its folder on PYTHONPATH"
    package = point.dist if point else None
    extras = (package.metadata.get_all("Provides-Extra") or []) if package else []
    extra = next((each for each in (name, missing) if each in extras), None)
    return f"pip install '{package.name}[{extra}]'" if package and extra else f"pip install {missing}"


def is_factory(candidate: Any) -> bool:
    """A class or function that makes an implementation, as opposed to an implementation, or a solver to be wrapped."""
    if isinstance(candidate, type):
        return True
    if isinstance(candidate, Layer | Model) or not callable(candidate) or is_module(candidate):
        return False
    try:
        parameters = inspect.signature(candidate).parameters.values()
    except (TypeError, ValueError):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    return len(required) < 2 and [p.name for p in positional[:2]] != ["step", "z0"]  # solve(step, z0) takes two


def _claiming_relative(implementation: Any) -> Any:
    """A copy: one instance may be named by several targets, with and without the option."""
    claims = implementation.claims
    backward = claims.backward.as_relative() if claims.backward else None
    twin = copy.copy(implementation)
    twin.claims = replace(claims, forward=claims.forward.as_relative(), backward=backward)
    return twin
