"""What is known of a correct implementation: its name, and in a sentence what is different about it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeVar

from deqverify.names import the_one

GROUPS = ("direct", "adjoints", "iterating", "apart", "judged", "in_torch", "in_jax", "known")
"""The modules of this package that register implementations; the last those that are written elsewhere."""


@dataclass(frozen=True)
class Correct:
    """One of the correct implementations: ``differs`` says in a sentence what is different about it, ``group`` is one
    of :data:`GROUPS`, and ``make`` makes it, without arguments."""

    name: str
    differs: str
    group: str
    make: Callable[[], Any]

    @property
    def target(self) -> str:
        """The text that names it on the command line."""
        return f"correct[{self.name}]"


_REGISTRY: dict[str, Correct] = {}

Made = TypeVar("Made", bound=Callable[[], Any])


def correct(name: str) -> Callable[[Made], Made]:
    """Registers a class or a function that makes a correct implementation, without arguments; the first sentence of its
    docstring says what is different about it. ValueError for a name that is taken, and for no sentence."""

    def register(made: Made) -> Made:
        differs = (inspect.getdoc(made) or "").partition("\n\n")[0].replace("\n", " ")
        if not differs:
            raise ValueError(f"correct: {name!r} says nothing of what is different about it; give it a docstring")
        if name in _REGISTRY:
            raise ValueError(f"name: there is a correct implementation {name!r} already")
        home = made.__module__.rpartition(".")[2]
        _REGISTRY[name] = Correct(name, differs, home if home in GROUPS else GROUPS[-1], made)
        return made

    return register


def implementations() -> dict[str, Correct]:
    """Every correct implementation by name, one group after another; without JAX those that need none. ImportError
    where PyTorch is not installed."""
    for group in GROUPS:
        if group == "in_jax" and not find_spec("jax"):
            continue
        importlib.import_module(f"deqverify.correct.{group}")
    return dict(_REGISTRY)


def make(*names: str) -> Any:
    """The implementation that is named: what the target ``correct[qr]`` is.

    ValueError, with near matches, for no name, for several, and for one that is not known.
    """
    return the_one("correct", names, implementations()).make()
