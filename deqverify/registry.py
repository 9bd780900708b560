"""The ``law`` decorator: a statement that every correct implementation satisfies, its body and strategies kept apart.

Hypothesis tests cannot be configured twice, so a law is no test: each (law, implementation, effort) builds its own.
"""

from __future__ import annotations

import importlib
import inspect
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any
from unittest import SkipTest

from hypothesis.strategies import SearchStrategy

from deqverify.cells import LinearCell, LinearSoftmaxCell, cells
from deqverify.cells.relu import ReluCell
from deqverify.database import part
from deqverify.describing import describe
from deqverify.drawing import few_shapes
from deqverify.implementations.subject import Subject
from deqverify.needs import NEEDS
from deqverify.problem import Problem
from deqverify.trial import Body, Effort, Example, Trial, replay, run_trial
from deqverify.wrapped_problem import WrappedProblem

FAMILIES = (
    "equilibrium",
    "gradient",
    "adjoint",
    "linear",
    "conservation",
    "relu",
    "monotone",
    "symmetry",
    "lattice",
    "softmax",
    "quantised",
    "dissipation",
    "training",
    "trust_region",
    "status",
    "batching",
    "state",
    "arrays",
    "modes",
)
"""The modules of ``deqverify.properties``, in reporting order."""

OURS = "deqverify.properties"

OTHER_CELLS_SHARE = 2
"""The other cells have one example for so many on the linear-softmax cell, of which most is known."""

LARGE_SHARE = 20
"""One example in so many is large, for the laws that draw such."""

BRIEF_LARGE = 4
"""Large examples of a law in a round of few: enough that a large batch and a large state are likely both among them."""

ANY_LINEAR, ANY_RELU = "any linear", "any relu"

OTHER_CELLS = "it is not judged on a cell that this law is about"
"""How the reason begins for which most laws pass over a layer with a cell of its own."""

GROUPS: dict[str, type] = {ANY_LINEAR: LinearCell, ANY_RELU: ReluCell}
"""What a law may be about beside one cell: f is linear in z; f is ``relu(Wz + Ux + b)``, W made of any parameters."""

Draws = Callable[[Subject], SearchStrategy[dict[str, Any]]]


def _fitted(draws: SearchStrategy[dict[str, Any]], subject: Subject) -> SearchStrategy[dict[str, Any]]:
    """``draws``, of few shapes where ``subject`` compiles for each, and problems on the grid where it claims one."""
    if subject.claims.bits is not None:
        draws = draws.map(
            lambda drawn: {k: subject.rounded(v) if isinstance(v, Problem) else v for k, v in drawn.items()}
        )
    return few_shapes(draws) if subject.claims.compiles else draws


@dataclass(frozen=True, eq=False)
class Law:
    """A law: call it with an implementation, ``law(deq)``, to have it asserted.

    ``about`` says of which cells it is true: "any", one of :data:`GROUPS`, or the name of one. ``cost``
    divides the number of examples, for laws whose single example is a training run. ``at_stake`` says what
    can no longer be trusted once it is violated. ``large`` draws problems of a size that few bounds can judge; one
    example in twenty is of them, where it gives a strategy. Crashes leave a law undecided unless it
    ``judges_crashes``. ``loose`` is the reason why the reference stays below 1/1000 of the bound; without one that is
    a defect of the bound. ``rests_on`` names the laws whose statements are premises of this one: where one of them is
    violated too, a violation may follow from it and say nothing of its own (:mod:`deqverify.running.premises`).
    """

    id: str
    about: str
    statement: str
    source: str
    needs: tuple[str, ...]
    anomaly: str
    at_stake: str
    cost: int
    judges_crashes: bool
    loose: str | None
    rests_on: tuple[str, ...]
    body: Body
    draws: Draws
    large: Callable[[Subject], SearchStrategy[dict[str, Any]] | None] | None

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.body) or ""

    @property
    def home(self) -> str:
        """The module that defines it."""
        return self.body.__module__

    @cached_property
    def ours(self) -> bool:
        """Whether it is one of ``deqverify.properties``, and not of another package."""
        return Path(inspect.getfile(self.body)).resolve().parent == _our_folder()

    @property
    def family(self) -> str:
        """The name of its file among ours; of others the whole name of their module."""
        return self.home.rpartition(".")[2] if self.ours else self.home

    def missing(self, subject: Subject) -> str | None:
        """Why ``subject`` is not judged by this law, or None."""
        if not cells_of(self.about, subject):
            return f"{OTHER_CELLS} ({self.about})"
        return next((NEEDS[need][1] for need in self.needs if not NEEDS[need][0](subject)), None)

    def trial(
        self,
        subject: Subject,
        effort: Effort,
        announce: Callable[[dict[str, Any]], None] | None = None,
        observe: Callable[[Example], None] | None = None,
    ) -> Trial:
        """Tries the law on ``subject``; a seed is mixed with the law's id and the dtype, which see different
        problems."""
        seed = None if effort.seed is None else zlib.crc32(f"{effort.seed} {self.id} {subject.dtype}".encode())
        own = replace(effort, examples=max(1, -(-effort.examples // self.cost)), seed=seed)
        main, others = self._parts(subject)
        trial = Trial()
        if own.brief != "others":
            trial = run_trial(self.body, self.drawn(main), main, own, self.judges_crashes, announce, observe)

        def more(draws: SearchStrategy[dict[str, Any]] | None, on: Subject | None, examples: int, name: str) -> None:
            """Adds a run of its own: among others Hypothesis would draw these in clusters, or not at all."""
            if draws is None or on is None or trial.failure or trial.error or trial.stopped:
                return
            seconds, database = max(1.0, own.seconds - trial.seconds), own.database and part(own.database, name)
            allotted = None if own.allotted is None else max(0.0, own.allotted - trial.spent)
            few = replace(own, examples=examples, seconds=seconds, allotted=allotted, database=database)
            trial.add(run_trial(self.body, draws, on, few, self.judges_crashes, announce, observe))

        if own.brief == "main":
            return trial
        more(self.drawn(others) if others else None, others, 1 + own.examples // OTHER_CELLS_SHARE, "cells")
        if trial.crashed and not (trial.failure or trial.decisive or own.brief):
            # Nothing was decided because the target crashed: then the crash is the verdict, shrunk.
            return run_trial(self.body, self.drawn(subject), subject, own, True, announce, observe)
        for asked, name in ((main, "large"), (others, "large cells")):
            large = self.large(asked) if self.large and asked else None
            many = BRIEF_LARGE if own.brief else 2 + own.examples // LARGE_SHARE
            more(None if large is None else _fitted(large, subject), asked, many, name)  # the least of them comes first
        return trial

    def drawn(self, subject: Subject) -> SearchStrategy[dict[str, Any]]:
        """What is drawn for ``subject``."""
        return _fitted(self.draws(subject), subject)

    def _parts(self, subject: Subject) -> tuple[Subject, Subject | None]:
        """The subject on the linear-softmax cell, which has all the examples, and on the others that this law is
        about, which share half as many; or the subject itself, where it is not judged on both."""
        chosen = cells_of(self.about, subject)
        others = [name for name in chosen if name != LinearSoftmaxCell.name]
        if not others or len(others) == len(chosen):
            return subject, None
        return subject.on((LinearSoftmaxCell.name,)), subject.on(others)

    def __call__(self, deq: Any, examples: int = 100, dtype: str | None = None, device: str = "cpu") -> None:
        """Asserts the law on ``deq`` (a layer, a model or ``solve(step, z0)``): AssertionError with the smallest
        counterexample.

        Where the claims that it needs are not made, or the evidence decides nothing, the test is skipped
        (``unittest.SkipTest``).
        """
        subject = deq if isinstance(deq, Subject) else Subject(deq, dtype, device)
        if reason := self.missing(subject):
            raise SkipTest(f"{self.id} is not claimed: {reason}")
        trial = self.trial(subject, Effort(examples))
        self._raise(trial)
        if not trial.decisive:
            raise SkipTest(f"{self.id} is inconclusive: {trial.undecided}")

    def replay(self, deq: Any, dtype: str | None = None, device: str = "cpu", **arguments: Any) -> None:
        """Asserts the law on one example, ``deq`` an implementation or a target's name: what a violation's snippet
        calls."""
        if isinstance(deq, str):
            from deqverify.implementations.loading import load

            deq = load(deq)
        subject = Subject(deq, dtype, device)
        if cell := subject.own_cell:
            bound = {k: v.bound(cell, subject.dtype) for k, v in arguments.items() if isinstance(v, WrappedProblem)}
            arguments = arguments | bound
        self._raise(replay(self.body, subject, arguments))

    def _raise(self, trial: Trial) -> None:
        if trial.error:
            raise RuntimeError(f"{self.id} could not run:\n{trial.error}")
        if trial.failure:
            raise AssertionError(f"{self.id}: {self.statement}\n{describe(trial.failure)}\n{self.at_stake}")


_REGISTRY: dict[str, Law] = {}


def cells_of(about: str, subject: Subject) -> list[str]:
    """The names of the cells that ``subject`` is judged on and a law about ``about`` speaks of."""
    known = cells()
    if about == "any":
        return list(subject.cells)
    if about in GROUPS:
        return [name for name in subject.cells if isinstance(known.get(name), GROUPS[about])]
    return [name for name in subject.cells if name == about]


def law(
    *,
    about: str = "any",
    statement: str,
    source: str,
    draws: Draws,
    needs: tuple[str, ...] = (),
    anomaly: str,
    at_stake: str,
    cost: int = 1,
    judges_crashes: bool = False,
    loose: str | None = None,
    rests_on: tuple[str, ...] = (),
    large: Callable[[Subject], SearchStrategy[dict[str, Any]] | None] | None = None,
) -> Callable[[Body], Law]:
    """Makes a law of ``body(deq, **drawn)``, a generator of evidence, and registers it; its id is the body's name.

    The arguments are those of :class:`Law`, and docs/add-a-law.md shows one. ValueError, naming the argument, for an id
    that another module has taken, for a cell, a need or a law that is not known, and for an empty reason for looseness.
    A law of one's own that is defined again, as in a notebook, takes the place of the first.
    """
    if loose is not None and not loose.strip():
        raise ValueError(
            "loose: give the reason why the bound may be looser than 1000 × its worst case, or leave it out"
        )
    if unknown := [need for need in needs if need not in NEEDS]:
        raise ValueError(f"needs: {unknown[0]!r} is not one of {', '.join(NEEDS)}")
    if about != "any" and about not in GROUPS and about not in cells():
        raise ValueError(f"about: {about!r} is not one of {', '.join(['any', *GROUPS, *cells()])}")

    def register(body: Body) -> Law:
        said = (body.__name__.replace("_", "-"), about, statement, source, needs, anomaly, at_stake)
        made = Law(*said, cost, judges_crashes, loose, rests_on, body, draws, large)
        if made.ours:  # a checkout may be imported under two names: one law
            return _REGISTRY.setdefault(made.id, made)
        _import_ours()
        known = _REGISTRY.get(made.id)
        if known and known.home != made.home:
            raise ValueError(
                f"id: there is a law {made.id!r} already, in {known.home}; give {body.__name__} another name"
            )
        if missing := [id for id in rests_on if id not in _REGISTRY]:
            raise ValueError(f"rests_on: there is no law {missing[0]!r}; one of another module is imported before")
        _REGISTRY[made.id] = made
        return made

    return register


def laws() -> dict[str, Law]:
    """Every law by id: ours family by family, then those of installed packages and of modules that were imported."""
    _import_ours()
    for point in entry_points_of_laws():
        if point.module not in _TROUBLES:
            with suppress(LawsError):
                bring(point.module)
    return dict(sorted(_REGISTRY.items(), key=lambda item: _order(item[1])))


class LawsError(ValueError):
    """A module of laws that cannot be imported; the message says why, and what to do."""


GROUP = "deqverify.laws"
"""The entry points by which installed packages name their modules of laws."""

_TROUBLES: dict[str, str] = {}
"""Modules of laws that could not be imported, each with the sentence that says why: it is tried once."""


@lru_cache(maxsize=1)
def entry_points_of_laws() -> tuple[EntryPoint, ...]:
    """The modules of laws that installed packages name, read once."""
    return tuple(entry_points(group=GROUP))


def bring(module: str) -> None:
    """Imports a module of laws of others: its laws are known from then on. LawsError where that fails; then none is."""
    _import_ours()
    before = dict(_REGISTRY)
    try:
        importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # importing a stranger's module may raise anything, and exit
        _REGISTRY.clear()
        _REGISTRY.update(before)
        _TROUBLES[module] = f"the laws of {module} could not be imported: {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            _TROUBLES[module] += f"; run where {error.name}.py lies, or put its folder on PYTHONPATH"
        raise LawsError(_TROUBLES[module]) from error
    _TROUBLES.pop(module, None)


def troubles() -> list[str]:
    """A sentence for each module of laws that an installed package names and that could not be imported."""
    laws()
    return [_TROUBLES[point.module] for point in entry_points_of_laws() if point.module in _TROUBLES]


def premises(entry: Law) -> list[Law]:
    """Every law that ``entry`` rests on, directly or by way of others, each after those that it rests on itself."""
    known, found = laws(), dict[str, Law]()

    def visit(id: str) -> None:
        if id not in found:
            for earlier in known[id].rests_on:
                visit(earlier)
            found[id] = known[id]

    for id in entry.rests_on:
        visit(id)
    return list(found.values())


def _import_ours() -> None:
    for family in FAMILIES:
        importlib.import_module(f"{OURS}.{family}")


def _order(entry: Law) -> tuple[int, str, int]:
    position = FAMILIES.index(entry.family) if entry.ours else len(FAMILIES)
    return position, entry.home, entry.body.__code__.co_firstlineno


@lru_cache(maxsize=1)
def _our_folder() -> Path:
    (folder,) = importlib.import_module(OURS).__path__
    return Path(folder).resolve()
