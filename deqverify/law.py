"""The ``law`` decorator: a statement that every correct implementation satisfies, its body and strategies kept apart.

Hypothesis tests cannot be configured twice, so a law is no test: each (law, implementation, effort) builds its own.
"""

from __future__ import annotations

import importlib
import inspect
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
from hypothesis.strategies import SearchStrategy

from deqverify.cells import LinearCell, LinearSoftmaxCell, cells
from deqverify.cells.relu import ReluCell
from deqverify.comparison import Measurement
from deqverify.drawing import few_shapes
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem, array_code
from deqverify.trial import Body, Effort, Evidence, Example, Failure, Severity, Trial, replay, run_trial
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

SPLITTINGS = ("forward-backward", "peaceman-rachford")
"""The iterations that a monotone cell may be claimed to be solved by."""

NEEDS: dict[str, tuple[Callable[[Subject], bool], str]] = {
    "equilibrium": (lambda s: s.is_layer, "it is a whole model and shows no equilibrium"),
    "pull": (lambda s: s.is_layer and s.claims.backward is not None, "no exact pull-back is claimed"),
    "gradient": (lambda s: s.claims.backward is not None, "no exact gradient is claimed"),
    "relative": (lambda s: s.claims.forward.relative, "its accuracy is claimed in absolute terms"),
    "starts": (lambda s: s.claims.starts, "it takes no start"),
    "separable": (lambda s: s.claims.separable, "batch separability is not claimed"),
    "status": (lambda s: s.claims.status, "no status is claimed"),
    "solves": (lambda s: s.claims.solves, "it is not claimed that well-conditioned problems are solved"),
    "deterministic": (lambda s: s.claims.deterministic, "it is not claimed that the same call gives the same answer"),
    "empty": (lambda s: s.claims.empty, "a batch of no data points is not claimed to be legal"),
    "repeated pulls": (lambda s: s.claims.repeated_pulls, "it is not claimed that a pull may be called again"),
    "threads": (lambda s: s.claims.threads, "it is not claimed that two threads may call at once"),
    "copies": (lambda s: s.claims.copies, "deep copies are not claimed"),
    "pickles": (lambda s: s.claims.pickles, "it is not claimed that it can be pickled"),
    "modes": (
        lambda s: s.claims.modes and hasattr(s.implementation, "mode"),
        "training and evaluation mode are not claimed, or it offers no way to change between them",
    ),
    "recording": (
        lambda s: s.is_layer and bool(s.framework.without_gradient),
        "its framework records no gradients that could be left out",
    ),
    "mutable arrays": (
        lambda s: s.is_layer and s.framework.mutable,
        "its framework's arrays cannot be written into",
    ),
    "layouts": (lambda s: s.is_layer and bool(s.framework.layouts), "its framework says nothing of memory layouts"),
    "limited": (lambda s: hasattr(s.implementation, "limited"), "it offers no way to lower its iteration cap"),
    "trace": (
        lambda s: s.claims.iteration in ("picard", "mass-corrected") and hasattr(s.implementation, "traced"),
        "no iteration of a known rate is claimed, or it offers no trace",
    ),
    "splitting": (
        lambda s: s.claims.iteration in SPLITTINGS and s.claims.starts and hasattr(s.implementation, "traced"),
        "no operator splitting is claimed, or it takes no start or offers no trace",
    ),
    "traced": (lambda s: hasattr(s.implementation, "traced"), "it offers no trace"),
    "jvp": (lambda s: hasattr(s.implementation, "jvp"), "it offers no derivative along a tangent"),
    "second order": (lambda s: hasattr(s.implementation, "second_order"), "it offers no derivative of its gradient"),
    "cell": (
        lambda s: s.own_cell is None or s.own_cell.given,
        "its cell was not given, only the layer: pass cell=f to have this judged",
    ),
    "probe": (
        lambda s: not getattr(s.implementation, "whole", False),
        "a whole layer shows its own gradients alone, and the adjoint is none of them",
    ),
    "start gradient": (lambda s: hasattr(s.implementation, "start_gradient"), "it shows no gradient in its start"),
    "float64": (lambda s: s.dtype == "float64", "judged in float64 only"),
}
"""What a law may need of an implementation: how that is seen, and the sentence for when it is missing."""


OTHER_CELLS_SHARE = 2
"""The other cells have one example for so many on the linear-softmax cell, of which most is known."""

LARGE_SHARE = 20
"""One example in so many is large, for the laws that draw such."""

ANY_LINEAR, ANY_RELU = "any linear", "any relu"

GROUPS: dict[str, type] = {ANY_LINEAR: LinearCell, ANY_RELU: ReluCell}
"""What a law may be about beside one cell: f is linear in z; f is ``relu(Wz + Ux + b)``, W made of any parameters."""

Draws = Callable[[Subject], SearchStrategy[dict[str, Any]]]


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
    def family(self) -> str:
        return self.body.__module__.rpartition(".")[2]

    def missing(self, subject: Subject) -> str | None:
        """Why ``subject`` is not judged by this law, or None."""
        if not cells_of(self.about, subject):
            return f"it is not judged on a cell that this law is about ({self.about})"
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
        first, others = self._parts(subject)
        trial = run_trial(self.body, self.drawn(first), first, own, self.judges_crashes, announce, observe)

        def more(draws: SearchStrategy[dict[str, Any]] | None, on: Subject | None, examples: int, name: str) -> None:
            """Adds a run of its own: among others Hypothesis would draw these in clusters, or not at all."""
            if draws is None or on is None or trial.failure or trial.error or trial.stopped:
                return
            seconds, database = max(1.0, own.seconds - trial.seconds), own.database and own.database / name
            few = replace(own, examples=examples, seconds=seconds, database=database)
            trial.add(run_trial(self.body, draws, on, few, self.judges_crashes, announce, observe))

        if own.brief:
            return trial
        more(self.drawn(others) if others else None, others, 1 + own.examples // OTHER_CELLS_SHARE, "cells")
        if trial.crashed and not trial.failure and not trial.decisive:
            # Nothing was decided because the target crashed: then the crash is the verdict, shrunk.
            return run_trial(self.body, self.drawn(subject), subject, own, True, announce, observe)
        for part, name in ((first, "large"), (others, "large cells")):
            large = self.large(part) if self.large and part else None
            large = few_shapes(large) if large is not None and subject.claims.compiles else large
            more(large, part, 2 + own.examples // LARGE_SHARE, name)  # the first is the least of them
        return trial

    def drawn(self, subject: Subject) -> SearchStrategy[dict[str, Any]]:
        """What is drawn for ``subject``: few shapes where it compiles for each."""
        draws = self.draws(subject)
        return few_shapes(draws) if subject.claims.compiles else draws

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


def describe(failure: Failure) -> str:
    """What was seen, in lines: measured against allowed with the terms, or the crash."""
    seen = failure.message if failure.seen is None else describe_evidence(failure.seen)
    return "\n".join([seen, *failure.notes, *_severity_lines(failure.severity)])


def _severity_lines(severity: Severity | None) -> list[str]:
    """The smallest counterexample understates: how often, and how bad, it is elsewhere."""
    if severity is None:
        return []
    lines = []
    if severity.examples:
        lines.append(f"{severity.failing} of {severity.examples} fresh examples fail too")
    if severity.arguments:
        where = where_code(severity.arguments)
        lines.append(f"the worst seen: relative error {severity.relative_error:.2g}{f' at {where}' if where else ''}")
    return lines


def where_code(arguments: dict[str, Any]) -> str:
    """Where in the space of problems drawn arguments lie: the rate and the sizes."""
    problem = arguments.get("problem")
    return problem.where() if isinstance(problem, Problem) else ""


def describe_evidence(seen: Evidence) -> str:
    """One comparison in lines: measured against allowed with the bound's terms; or one fact."""
    if isinstance(seen, Measurement):
        lines = [f"{seen.what}: measured {seen.measured:.3g}, allowed {seen.allowed:.3g}"]
        lines += [f"    {value:.3g}  {name}" for name, value in seen.terms.items() if value]
        return "\n".join([*lines, f"    compared with a quantity of size {seen.scale:.3g}"])
    return f"{seen.what}: {seen.seen}"


def arguments_code(arguments: dict[str, Any]) -> str:
    """Drawn arguments as Python keyword arguments (``np``, ``losses`` and both kinds of problems in
    scope)."""
    return ", ".join(f"{name}={_code(value)}" for name, value in arguments.items())


def _code(value: Any) -> str:
    return array_code(value) if isinstance(value, np.ndarray) else repr(value)


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
    needs: tuple[str, ...],
    anomaly: str,
    at_stake: str,
    cost: int = 1,
    judges_crashes: bool = False,
    loose: str | None = None,
    rests_on: tuple[str, ...] = (),
    large: Callable[[Subject], SearchStrategy[dict[str, Any]] | None] | None = None,
) -> Callable[[Body], Law]:
    """Makes a law of ``body(deq, **drawn)``, a generator of evidence, and registers it; its id is the body's name.

    The same id from the same source file is one law (a checkout may be imported under two names); from another file
    it is a ValueError, as is an unknown need or an empty reason for looseness.
    """
    if loose is not None and not loose.strip():
        raise ValueError(
            "loose: give the reason why the bound may be looser than 1000 × its worst case, or leave it out"
        )
    if unknown := [need for need in needs if need not in NEEDS]:
        raise ValueError(f"needs: {unknown[0]!r} is not one of {', '.join(NEEDS)}")

    def register(body: Body) -> Law:
        id = body.__name__.replace("_", "-")
        known = _REGISTRY.get(id)
        if known:
            if _file(known.body) != _file(body):
                raise ValueError(f"id: the law {id!r} exists already, in {_file(known.body)}")
            return known
        said = (id, about, statement, source, needs, anomaly, at_stake)
        _REGISTRY[id] = Law(*said, cost, judges_crashes, loose, rests_on, body, draws, large)
        return _REGISTRY[id]

    return register


def laws() -> dict[str, Law]:
    """Every law by id, family by family."""
    for family in FAMILIES:
        importlib.import_module(f"deqverify.properties.{family}")
    return dict(sorted(_REGISTRY.items(), key=lambda item: _order(item[1])))


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


def _order(entry: Law) -> tuple[int, int]:
    position = FAMILIES.index(entry.family) if entry.family in FAMILIES else len(FAMILIES)
    return position, entry.body.__code__.co_firstlineno


def _file(body: Body) -> Path:
    return Path(inspect.getfile(body)).resolve()
