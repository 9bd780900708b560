"""How near a law comes to its bound on what was asked of another one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deqverify.comparison import Measurement, compare
from deqverify.errors.judge import judge
from deqverify.implementations.failures import Reported, TargetFailure
from deqverify.implementations.subject import Question, Subject
from deqverify.losses import Squared
from deqverify.problem import Problem, SoftmaxProblem
from deqverify.properties.calls import other_input, other_weights, reply
from deqverify.properties.common import judged
from deqverify.registry import Law, cells_of
from deqverify.trial import Evidence

Fresh = Callable[[], Subject]
"""Makes a subject that nobody has asked anything yet."""

APART = 64.0
"""A violation is one of its own where it exceeds its bound by this factor more than its premises come near theirs. An
equilibrium that is just within its bound may have a gradient just beyond its own, by the roughness of the two bounds
and one derivative more; those are factors of a dozen. A gradient of another kind is wrong by its whole size."""


@dataclass(frozen=True)
class Weight:
    """How near a law comes to its bound on one example: the largest measured/allowed, infinite for a fact that fails,
    and whether the bound could have told. ``arguments`` are those of the example, where no layer and no start but the
    implementation's own took part."""

    ratio: float = 0.0
    informative: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)

    def explains(self, excess: float) -> bool:
        """Whether a premise of this weight may be why a law exceeds its own bound by ``excess``."""
        return self.ratio > 1.0 or excess < APART * self.ratio


def weigh(premise: Law, made: Fresh, question: Question) -> Weight | None:
    """How near ``premise`` comes to its bound on what was asked; None where it says nothing of that."""
    subject = made()
    if question.problem.cell.name not in cells_of(premise.about, subject):
        return None
    if question.layer is not None and premise.id == "existence":
        return None  # of a layer that is kept from working on purpose nobody expects an equilibrium
    question = replace(question, problem=subject.rounded(question.problem))  # a law may ask for A off a claimed grid
    arguments = arguments_of(premise, _posed(premise, question, subject))
    if arguments is None:
        return None
    plain = question.layer is None and question.start is None
    found = weight(premise, subject.posed(question), arguments)
    if plain:
        found = replace(found, arguments=arguments)
    if question.cotangent is not None and premise.id in _BLOCKS and not found.ratio > 1.0:
        # Of a tiny cotangent an objective tells nothing: what is pulled back for it is looked at itself.
        pulled = _of_pull(_BLOCKS[premise.id], made().posed(question), question)
        found = pulled if pulled.ratio > found.ratio or not found.informative else found
    if premise.id in _NEARBY and not found.ratio > 1.0:
        # A derivative says something of the neighbourhood: a right answer at one degenerate point, as A = 0, is none.
        size = 1.0 if premise.id == "objective" else float(np.abs(question.problem.x).max(initial=0.0)) or 1.0
        beside = replace(question, problem=subject.rounded(_beside(subject, question.problem, size)))
        arguments = arguments_of(premise, beside) or {}
        near = weight(premise, made().posed(question), arguments)
        return replace(near, arguments=arguments if plain else {}) if near.ratio > 1.0 else found
    return found


def _beside(subject: Subject, problem: Problem, size: float) -> Problem:
    """Other weights, another readout and inputs of this size at most, none zero by symmetry and no data point like the
    other: what is right by accident is wrong there. An objective of tiny inputs is that of none, whatever they are."""
    moved = other_weights(subject, other_input(problem))
    scaled = moved.x / (float(np.abs(moved.x).max(initial=0.0)) or 1.0)
    points = (1.0 + np.arange(problem.n)).reshape(-1, *[1] * (problem.x.ndim - 1)) / max(problem.n, 1)
    B = problem.B + (1.0 + np.arange(problem.B.size)).reshape(problem.B.shape) / problem.B.size
    return moved.with_blocks(x=size / 2 * (scaled + points / 2), B=B)


_NEARBY = ("existence", "objective", "adjoint-certificate")
"""The laws whose derivatives are what others speak of: equilibria and objectives by gradients, gradients by second
derivatives."""


def _of_pull(blocks: Callable[[Problem], Iterable[str]], deq: Subject, question: Question) -> Weight:
    """How near what is pulled back for the cotangent of ``question`` comes to its bounds in some blocks; nothing where
    it is undecided."""
    problem, cotangent = question.problem, question.cotangent
    try:
        found = reply(deq, problem, cotangent)
    except (Reported, TargetFailure):
        return Weight()
    truth = judged(deq, problem, cotangent, found.z)
    if not truth.in_range:
        return Weight()
    away = [
        compare(name, np.abs(found.gradient[name] - truth.pulled[name]), truth.pulled_error(name), truth.pulled[name])
        for name in blocks(problem)
        if name in found.gradient
    ]
    return Weight(max(map(ratio, away), default=0.0), any(each.informative for each in away))


_BLOCKS: dict[str, Callable[[Problem], Iterable[str]]] = {
    "gradient-theta": lambda problem: problem.theta,
    "gradient-x": lambda problem: ["x"],
}
"""By law of the objective's gradient: the blocks that a pull gives."""


def _posed(premise: Law, question: Question, subject: Subject) -> Question:
    """For laws of the objective's gradient, the same question with an objective whose cotangent is the one that was
    pulled back: ``‖z − (z* − c/2)‖²`` is one, up to the rounding of its targets."""
    problem, cotangent = question.problem, question.cotangent
    if cotangent is None or premise.id not in _DIRECTIONS or not subject.is_layer:
        return question
    truth = judge(problem, subject.claims, subject.dtype)
    if not truth.in_range:
        return question
    wanted = truth.z - cotangent / 2
    Y = wanted.reshape(problem.n, -1).T
    try:
        posed = replace(problem, B=np.eye(len(Y)), Y=Y, loss=Squared())  # type: ignore[type-var]
        return replace(question, problem=subject.rounded(posed))
    except ValueError:  # beyond the range of the dtype
        return question


def weight(law: Law, subject: Subject, arguments: dict[str, Any], crashes: bool = False) -> Weight:
    """How near ``law`` comes to its bound on one example; nothing where it is undecided, as by a crash unless
    ``crashes`` count."""
    largest, informative = 0.0, False
    try:
        for seen in law.body(subject, **arguments):
            largest, informative = max(largest, ratio(seen)), informative or seen.informative
            if not seen.holds:
                break
    except Reported:
        return Weight()
    except TargetFailure:
        return Weight(math.inf, True) if crashes or law.judges_crashes else Weight()
    return Weight(largest, informative)


def ratio(seen: Evidence) -> float:
    """measured/allowed; infinite for a fact that fails, and for NaN."""
    if isinstance(seen, Measurement) and not math.isnan(seen.ratio):
        return seen.ratio if seen.holds else max(seen.ratio, math.nextafter(1.0, 2.0))
    return 0.0 if seen.holds else math.inf


def arguments_of(law: Law, question: Question | None) -> dict[str, Any] | None:
    """Arguments for ``law`` on what was asked: its problem and cotangent, and directions at random where it takes some;
    None where it takes more than that."""
    if question is None:
        return None
    problem, made = question.problem, dict[str, Any]()
    draws = np.random.default_rng(0)
    for name in list(inspect.signature(law.body).parameters)[1:]:
        if name == "problem":
            made[name] = problem
        elif name == "cotangent":
            made[name] = draws.standard_normal(problem.states) if question.cotangent is None else question.cotangent
        elif name == "direction" and law.id in _DIRECTIONS:
            made[name] = _DIRECTIONS[law.id](problem, draws)
        else:
            return None
    return made


def _along(problem: Problem, names: Sequence[str], draws: np.random.Generator) -> dict[str, Any]:
    return {name: draws.standard_normal(np.shape(problem.block(name))) for name in names}


def _moved(problem: Problem) -> Sequence[str]:
    """The blocks that ``taylor`` moves."""
    return ("A", "B", "x") if isinstance(problem, SoftmaxProblem) else problem.blocks


_DIRECTIONS: dict[str, Callable[[Problem, np.random.Generator], Any]] = {
    "gradient-theta": lambda problem, draws: _along(problem, list(problem.theta), draws),
    "gradient-B": lambda problem, draws: draws.standard_normal(problem.B.shape),
    "gradient-x": lambda problem, draws: draws.standard_normal(problem.x.shape),
    "taylor": lambda problem, draws: _along(problem, _moved(problem), draws),
}
