"""What is known of a fault: a DEQ broken in one way, on purpose."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from deqverify.names import the_one

DEFECTS = (
    "forward",
    "accelerated",
    "parametrisation",
    "backward",
    "gradients",
    "losses",
    "training",
    "status",
    "batch",
    "state",
    "interface",
)
"""The classes of defects, each a module of this package."""

SUBTLETY = {
    "plain": "wrong on nearly every problem, by much",
    "subtle": "wrong on many problems; the usual unit tests pass",
    "rare": "wrong on few problems: one regime, one size, one kind of call",
    "small": "wrong by less than a thousandth",
}

PLAUSIBLE = "plausible"
"""The origin of a fault that was not looked up: somebody could have made it."""


@dataclass(frozen=True)
class Fault:
    """One of the faults: ``name`` and ``wrong`` say what is broken, in a word and in a sentence.

    ``defect`` is one of :data:`DEFECTS` and ``subtlety`` one of :data:`SUBTLETY`. ``origin`` is the repository and the
    issue, pull request or option in which such a defect was seen, written ``owner/name#number``, or
    :data:`PLAUSIBLE`. ``killers`` are the ids of laws that it must violate; ``cause`` is the one that a report on all
    laws should name as the root cause, and ``said`` is a part of the words in which it should. ``cells`` are those on
    which alone it shows, where these are few.
    """

    name: str
    wrong: str
    defect: str
    subtlety: str
    origin: str
    cause: str
    said: str
    killers: tuple[str, ...]
    cells: tuple[str, ...]
    make: Callable[[], Any]

    @property
    def target(self) -> str:
        """The text that names it on the command line."""
        return f"fault[{self.name}]"


_REGISTRY: dict[str, Fault] = {}

_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<!float)(?<=[a-z])(?=[0-9])")
"""Between the words of a class's name."""

Made = TypeVar("Made", bound=type)


def fault(
    *,
    cause: str,
    killers: tuple[str, ...],
    said: str = "",
    subtlety: str = "plain",
    origin: str = PLAUSIBLE,
    cells: tuple[str, ...] = (),
) -> Callable[[Made], Made]:
    """Registers a class, made without arguments, as a fault: its name is the class's in kebab case, its sentence the
    first line of the docstring, its class of defect the module.

    ValueError for a subtlety that is not known, for no killer and for a name that is taken.
    """
    if subtlety not in SUBTLETY:
        raise ValueError(f"subtlety: is one of {', '.join(SUBTLETY)}, got {subtlety!r}")
    if not killers:
        raise ValueError("killers: a fault that no law kills shows that a law is missing; name one at least")

    def register(made: Made) -> Made:
        name = _WORDS.sub("-", made.__name__).lower()
        if name in _REGISTRY and inspect.getfile(_REGISTRY[name].make) != inspect.getfile(made):
            raise ValueError(f"name: there is a fault {name!r} already")
        wrong = (inspect.getdoc(made) or "").partition("\n\n")[0].replace("\n", " ")
        defect = made.__module__.rpartition(".")[2]
        _REGISTRY[name] = Fault(name, wrong, defect, subtlety, origin, cause, said, killers, cells, made)
        return made

    return register


def faults() -> dict[str, Fault]:
    """Every fault by name, one class of defects after another. ImportError where PyTorch is not installed."""
    for defect in DEFECTS:
        importlib.import_module(f"deqverify.faults.{defect}")
    return dict(_REGISTRY)


def make(*names: str) -> Any:
    """The implementation of the fault that is named: what the target ``fault[row-softmax]`` is.

    ValueError, with near matches, for no name, for several, and for one that is not known.
    """
    return the_one("fault", names, faults()).make()
