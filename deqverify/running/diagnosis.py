"""The words that say of a cause what the implementation does instead of what it should.

One of the :mod:`~deqverify.running.readings` is said only where it explains the answers to nearly all of the problems
that are looked at; then when it is so: in a later call, among other data points, of small inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from deqverify.clock import Interrupted, alarm, now
from deqverify.dtypes import Array
from deqverify.dtypes import dtype as known_dtype
from deqverify.implementations.failures import Reported, TargetFailure
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Question, Subject
from deqverify.losses import Squared
from deqverify.problem import Problem, SoftmaxProblem
from deqverify.registry import Law, laws
from deqverify.running import readings
from deqverify.running.premises import COUPLED, REMEMBERED
from deqverify.running.readings import EARLY, Seen, said, steps_taken
from deqverify.running.weighing import arguments_of, weight
from deqverify.trial import Effort, Failure, look_at

EXAMPLES, SECONDS, LOOKED_AT = 60, 2.0, 8
"""How many fresh examples and seconds are spent on finding problems that fail, and how many of those are looked at."""

OF_SEVERAL_CALLS = ("batching", "state", "arrays", "modes")
"""Families whose laws compare answers with each other: their words are in the law."""

OF_TRACES = frozenset({"traced", "trace"})
"""What laws need that judge the way to an answer: any iterate looks like an answer that was stopped early."""

OF_OTHER_PULLS = ("pull-from-start", "start-gradient", "repeated-pull")
"""The laws of gradients from a given start, in it, or by a second pull: readings ask for those of a first pull from the
layer's own start, which may be right."""

ABSOLUTE = "a tolerance is absolute"
"""What makes an answer wrong that is wrong for small inputs, or cotangents, alone."""

LEAST = 2
"""On one problem alone too many readings are the same number."""

MOST = 0.75
"""The share of the problems that a reading has to explain; on simple ones several readings are the same number."""

FAR = 20
"""Inputs, or cotangents, are tried at a size of two to this power, of one, and of one over it."""

GROWS = 32.0
"""measured/allowed of an absolute error is so much larger at the smallest of these sizes than at one; that of a
relative error is much the same."""

CIRCUMSTANCES: dict[tuple[str, ...], str] = {
    REMEMBERED: "is right in a first call and wrong in a later one",
    COUPLED: "is right for each data point alone and wrong among others",
}
"""What a violation may follow from that no single question shows, and its words."""


def circumstance(follows: tuple[str, ...]) -> str:
    """When a violation that may follow from these laws is seen, in words; "" where it is seen of a single question."""
    return next((words for known, words in CIRCUMSTANCES.items() if {*known} <= {*follows}), "")


def diagnosed(law: Law, subject: Subject, failure: Failure, effort: Effort, follows: tuple[str, ...] = ()) -> str:
    """What is wrong, in a clause that begins with a verb, as "stops early without a word"; "" where no reading fits.
    ``follows``: the laws that it may follow from."""
    problem = failure.arguments.get("problem")
    if failure.kind != "wrong" or not isinstance(problem, Problem) or law.family in OF_SEVERAL_CALLS:
        return ""
    found, when = "", circumstance(follows)
    with suppress(Interrupted, Exception), alarm(min(2 * SECONDS, effort.example_seconds)):  # words are no verdict
        found = _found(law, subject, failure)
    return f"{found} ({when})" if found and when else found or when


def _found(law: Law, subject: Subject, failure: Failure) -> str:
    if OF_TRACES.intersection(law.needs) or law.id in OF_OTHER_PULLS:
        return ""
    seen = _failing(law, subject, failure)
    # A whole layer that is wrapped does not show its adjoint: nothing arrives at a probe that it does not know.
    shown = subject.is_layer and laws()["adjoint-certificate"].missing(subject) is None
    if "gradient" in law.needs:
        of_adjoint = shown and law.id not in ("objective", "gradient-B")
        return (of_adjoint and _chosen(seen, readings.of_adjoint)) or _of_blocks(law, seen)
    if "pull" in law.needs:
        return (_chosen(seen, readings.of_adjoint) if shown else "") + _where_small(law, seen)
    return _of_equilibrium(seen) + _where_small(law, seen)


def _failing(law: Law, subject: Subject, failure: Failure) -> list[Seen]:
    """Problems on which ``law`` is violated, those of more than one number first; the counterexample if there are no
    others."""
    found: list[Seen] = []
    started = now()

    def look(arguments: dict[str, Any]) -> None:
        if len(found) >= LOOKED_AT or now() - started > SECONDS:
            raise Interrupted("enough")
        if weight(law, subject, arguments).ratio > 1.0:
            found.append(_seen(subject, arguments))

    problem = failure.arguments["problem"]
    known = [failure.severity.arguments] if failure.severity and failure.severity.arguments else []
    varied = [arguments_of(law, Question(each)) for each in _variants(problem, subject)]
    chosen = subject.on([problem.cell.name]) if problem.cell.name in subject.cells else subject
    with suppress(Interrupted):
        for arguments in (*known, *varied):
            if arguments is not None:
                look(arguments)
        look_at(law.drawn(chosen), look, EXAMPLES, 0)
    several = [each for each in found if np.prod(each.problem.state) > 1]
    return (several if len(several) >= LEAST else found) or [_seen(subject, failure.arguments)]


def _variants(problem: Problem, subject: Subject) -> Iterable[Problem]:
    """Problems like the counterexample, on which less is the same number by accident: the shrunk one is the simplest.
    The weights of other cells stay, and only the data are others."""
    draws = np.random.default_rng(0)
    for m in (2, 3, 4) if isinstance(problem, SoftmaxProblem) else (1, 2, 3):
        if isinstance(problem, SoftmaxProblem):
            A, B, Phi = (draws.standard_normal(shape) for shape in ((m, m), (1, m), (m, 2)))
            yield subject.rounded(SoftmaxProblem(A, B, Phi, np.zeros((1, 2)), problem.gamma, Squared()))
        else:
            x = draws.standard_normal((m, *problem.x.shape[1:])) * max(1.0, float(np.abs(problem.x).max(initial=0.0)))
            yield subject.rounded(problem.with_inputs(x, np.ones((problem.p, m))))


def _seen(subject: Subject, arguments: Mapping[str, Any]) -> Seen:
    problem = arguments["problem"]
    cotangent = arguments.get("cotangent")
    return Seen(
        subject, problem, np.random.default_rng(0).standard_normal(problem.states) if cotangent is None else cotangent
    )


def _chosen(seen: list[Seen], readings: Callable[[Seen], Iterable[str]]) -> str:
    """The reading that explains the most, if it explains nearly all; the first of those that explain as many."""
    counts: Counter[str] = Counter()
    looked = 0
    for each in seen:
        with suppress(Reported, TargetFailure):
            counts.update(dict.fromkeys(readings(each), 1))
            looked += 1
    best = max(counts.values(), default=0)
    if looked < LEAST or best < MOST * looked:
        return ""
    return next((words for words, count in counts.items() if count == best), "")


def _of_equilibrium(seen: list[Seen]) -> str:
    found = _chosen(seen, readings.of_equilibrium)
    if found != EARLY:
        return found
    steps, words = set(), Counter[Status]()
    for each in seen:
        with suppress(Reported, TargetFailure):
            steps.add(steps_taken(each))
            words[each.forward[1]] += 1
    (status, _), *_ = words.most_common(1)
    count = f" (after {min(s for s in steps if s)} steps)" if len(steps) == 1 and None not in steps else ""
    return f"{EARLY}{count}, {said(status)}"


def _of_blocks(law: Law, seen: list[Seen]) -> str:
    if law.id == "objective":
        return _chosen(seen, readings.of_value)
    wrong, blocks = set[str](), set[str]()
    for each in seen:
        with suppress(Reported, TargetFailure):
            wrong.update(readings.wrong_blocks(each))
            blocks.update(each.gradient[2])
    if not wrong:
        return ""
    which, right = readings.which_gradient(sorted(wrong), sorted(blocks)), ", ".join(sorted(blocks - wrong))
    plain = f"gives a wrong {which}" + (f"; that in {right} is right" if right else "")
    return _chosen(seen, lambda each: readings.of_gradient(each, sorted(wrong))) or plain


def _where_small(law: Law, seen: list[Seen]) -> str:
    """That it is so of small inputs, or cotangents, alone."""
    if any(known_dtype(each.deq.dtype).largest < 2.0 ** (4 * FAR) for each in seen):
        return ""
    smaller, usual, larger = ([_scaled(law, each, 2.0**k) for each in seen] for k in (-FAR, 0, FAR))
    grows = all(small > max(1.0, GROWS * one) for small, one in zip(smaller, usual, strict=True))
    if grows and all(ratio <= 1.0 for ratio in larger):
        return f", where {'cotangents' if 'pull' in law.needs else 'inputs'} are small: {ABSOLUTE}"
    return ""


def _scaled(law: Law, each: Seen, size: float) -> float:
    """measured/allowed with inputs, or the cotangent where it is pulled back, whose largest entry is ``size``; NaN if
    nothing is told."""
    problem, cotangent = each.problem, each.cotangent
    if "pull" in law.needs:
        cotangent = _of_size(cotangent, size)
    else:
        problem = problem.with_inputs(_of_size(problem.x, size), problem.Y)
    arguments = arguments_of(law, Question(problem, cotangent))
    found = weight(law, each.deq, arguments) if arguments else None
    return found.ratio if found and (found.informative or found.ratio > 1.0) else np.nan


def _of_size(array: Array, size: float) -> Array:
    """``array`` times the number that makes its largest entry ``size``; zeros stay zeros."""
    largest = float(np.abs(array).max(initial=0.0))
    return array * (size / largest) if largest else array
