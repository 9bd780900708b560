"""What a wrong answer is the right answer to: the words that say of a cause what the implementation does instead.

A reading is a guess that can be checked, "the answer is what k steps from zero give": it is said only where it explains
the answers to nearly all of the problems that are looked at, each of them far nearer than the truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from deqverify.cells import LinearSoftmaxCell
from deqverify.clock import Interrupted, alarm, now
from deqverify.dtypes import Array
from deqverify.errors.judge import Judge
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Question, Reported, Subject, TargetFailure
from deqverify.losses import Squared
from deqverify.oracle.krawczyk import dense, unit_pulls
from deqverify.problem import Problem, SoftmaxProblem
from deqverify.properties.common import judged
from deqverify.registry import Law
from deqverify.running.premises import arguments_of, weight
from deqverify.trial import Effort, Failure, look_at

EXAMPLES, SECONDS, LOOKED_AT = 60, 2.0, 8
"""How many fresh examples and seconds are spent on finding problems that fail, and how many of those are looked at."""

STEPS = 1000
"""So many steps of an iteration are retraced."""

NEAR = 1e-2
"""A reading explains an answer that is nearer to it than this share of the distance from the truth: a guess at random
is about as far away as the truth is."""

OF_SEVERAL_CALLS = ("batching", "state", "arrays", "modes")
"""Families whose laws compare answers with each other: their words are in the law."""

LEAST = 2
"""On one problem alone too many readings are the same number."""

MOST = 0.75
"""The share of the problems that a reading has to explain; on simple ones several readings are the same number."""


@dataclass(frozen=True)
class Seen:
    """A problem that fails, what is true of it, and what the implementation answers."""

    deq: Subject
    problem: Problem
    cotangent: Array

    @cached_property
    def truth(self) -> Judge:
        return judged(self.deq, self.problem, self.cotangent)

    @cached_property
    def forward(self) -> tuple[Array, Status]:
        answer = self.deq.solve(self.problem)
        return answer.z, answer.status

    @cached_property
    def backward(self) -> tuple[Array, Status]:
        return self.deq.adjoint(self.problem, self.cotangent)

    @cached_property
    def gradient(self) -> tuple[Judge, float, dict[str, Array]]:
        value, found = self.deq.value_and_grad(self.problem)
        return judged(self.deq, self.problem), value, found

    def jacobian(self, z: Array) -> Array:
        """∂f/∂z of every data point, (n, s, s)."""
        theta = {name: np.asarray(value) for name, value in self.problem.theta.items()}
        return np.asarray(dense(unit_pulls(self.problem.cell, theta, self.problem.x, z), len(z)))


def _explains(guess: Array, answer: Array, truth: Array) -> bool:
    """Whether ``answer`` is what was guessed rather than what is true."""
    with np.errstate(all="ignore"):
        return bool(np.linalg.norm(answer - guess) <= NEAR * np.linalg.norm(answer - truth))


def _retraced(path: Iterable[Array], answer: Array, truth: Array) -> int | None:
    """The number of the step of ``path`` that ``answer`` is, if it is one."""
    with np.errstate(all="ignore"):
        distances = [float(np.linalg.norm(answer - z)) for z in islice(path, STEPS)]
        best = int(np.nanargmin(distances)) if np.isfinite(distances).any() else 0
        return best if distances[best] <= NEAR * np.linalg.norm(answer - truth) else None


def _sweeps(step: Callable[[Array], Array], z: Array) -> Iterable[Array]:
    while True:
        yield z
        z = step(z)


def diagnosed(law: Law, subject: Subject, failure: Failure, effort: Effort) -> str:
    """What is wrong, in a clause that begins with a verb, as "stops early without a word"; "" where no reading fits."""
    problem = failure.arguments.get("problem")
    if failure.kind != "wrong" or not isinstance(problem, Problem) or law.family in OF_SEVERAL_CALLS:
        return ""
    with suppress(Interrupted, Exception), alarm(min(2 * SECONDS, effort.example_seconds)):  # words are no verdict
        seen = _failing(law, subject, failure)
        if "gradient" in law.needs:
            of_adjoint = subject.is_layer and law.id not in ("objective", "gradient-B")
            return (of_adjoint and _of_adjoint(seen)) or _of_blocks(law, seen)
        return _of_adjoint(seen) if "pull" in law.needs else _of_equilibrium(seen)
    return ""


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
    varied = [arguments_of(law, Question(each)) for each in _variants(problem, subject.dtype)]
    chosen = subject.on([problem.cell.name]) if problem.cell.name in subject.cells else subject
    with suppress(Interrupted):
        for arguments in (*known, *varied):
            if arguments is not None:
                look(arguments)
        look_at(law.drawn(chosen), look, EXAMPLES, 0)
    several = [each for each in found if np.prod(each.problem.state) > 1]
    return several or found or [_seen(subject, failure.arguments)]


def _variants(problem: Problem, dtype: str) -> Iterable[Problem]:
    """Problems like the counterexample, on which less is the same number by accident: the shrunk one is the simplest.
    The weights of other cells stay, and only the data are others."""
    draws = np.random.default_rng(0)
    for m in (2, 3, 4) if isinstance(problem, SoftmaxProblem) else (1, 2, 3):
        if isinstance(problem, SoftmaxProblem):
            A, B, Phi = (draws.standard_normal(shape) for shape in ((m, m), (1, m), (m, 2)))
            yield SoftmaxProblem(A, B, Phi, np.zeros((1, 2)), problem.gamma, Squared()).rounded_to(dtype)
        else:
            x = draws.standard_normal((m, *problem.x.shape[1:])) * max(1.0, float(np.abs(problem.x).max(initial=0.0)))
            yield problem.with_inputs(x, np.ones((problem.p, m))).rounded_to(dtype)


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
    found = _chosen(seen, _readings_of_equilibrium)
    if found != "stops early":
        return found
    steps, words = set(), Counter[str]()
    for each in seen:
        with suppress(Reported, TargetFailure):
            steps.add(_steps(each))
            words[each.forward[1].value] += 1
    (said, _), *_ = words.most_common(1)
    count = f" (after {min(s for s in steps if s)} steps)" if len(steps) == 1 and None not in steps else ""
    silent = "without a word" if said == Status.NOT_REPORTED.value else f"and says: {said}"
    return f"stops early{count}, {silent}"


def _steps(each: Seen) -> int | None:
    """After how many steps from zero, or from x, the answer is reached."""
    z, problem = each.forward[0], each.problem
    theta = {name: np.asarray(value) for name, value in problem.theta.items()}
    step = problem.cell.step(theta, problem.x)
    for start in (np.zeros(problem.states), problem.x):
        if start.shape == problem.states and (found := _retraced(_sweeps(step, start), z, each.truth.z)):
            return found
    return None


def _readings_of_equilibrium(each: Seen) -> Iterable[str]:
    (z, status), truth = each.forward, each.truth.z
    if not np.isfinite(z).all():
        yield "returns NaN or infinity" + ("" if status is Status.NOT_REPORTED else f", and says: {status.value}")
        return
    if _steps(each) is not None or _improves(each):
        yield "stops early"
    for words, guess in _models(each.problem):
        if _explains(guess, z, truth):
            yield words
    if not np.any(z) and np.any(truth):
        yield "returns zero"


def _improves(each: Seen) -> bool:
    """Whether it comes nearer when started at its own answer: then it had not arrived."""
    z, truth = each.forward[0], each.truth.z
    if not each.deq.claims.starts:
        return False
    again = each.deq.solve(each.problem, z0=z).z
    return bool(np.linalg.norm(again - truth) < 0.9 * np.linalg.norm(z - truth))


def _models(problem: Problem) -> Iterable[tuple[str, Array]]:
    """Equilibria of models that are easily taken for that of the linear-softmax cell."""
    if not isinstance(problem, SoftmaxProblem):
        return
    cell, gamma = LinearSoftmaxCell(), problem.gamma
    S = cell.softmax(problem.A)
    others = {
        "takes the softmax along rows": gamma * cell.softmax(problem.A.T).T,
        "applies γ twice": gamma**2 * S,
        "gives the recurrent part the wrong sign": -gamma * S,
        "leaves out γ": S * (1 - 1e-12),  # I − S itself is singular
        "masks the weights above the diagonal": gamma * np.tril(S),
        "masks the weights below the diagonal": gamma * np.triu(S),
        "uses A itself in place of its softmax": gamma * problem.A,
        "transposes the weights": gamma * S.T,
    }
    for words, K in others.items():
        with suppress(np.linalg.LinAlgError):
            yield words, np.linalg.solve(np.eye(problem.m) - K, problem.Phi).T


def _of_adjoint(seen: list[Seen]) -> str:
    return _chosen(seen, _readings_of_adjoint)


def _readings_of_adjoint(each: Seen) -> Iterable[str]:
    (adjoint, status), truth = each.backward, each.truth.adjoint
    if not np.isfinite(adjoint).all():
        yield "gives a gradient of NaN or infinity"
        return
    if not np.any(adjoint) and np.any(truth):
        yield "gives no gradient"
        return
    flat, right = (a.reshape(len(a), -1) for a in (adjoint, truth))
    c = each.cotangent.reshape(flat.shape)
    J = each.jacobian(each.truth.z)

    def pulled(y: Array) -> Array:
        return np.einsum("nk,nkj->nj", y, J) + c

    steps = _retraced(_sweeps(pulled, c), flat, right)
    silent = "without a word" if status is Status.NOT_REPORTED else f"and says: {status.value}"
    if steps == 0:
        yield "gives the gradient of one step at the equilibrium, not that of the equilibrium"
    elif steps is not None:
        yield f"stops the adjoint's iteration early, {silent}"
    identity = np.eye(flat.shape[1])
    start = each.jacobian(np.zeros_like(each.truth.z))
    for words, system in {
        "solves the adjoint equation with ∂f/∂z in place of its transpose": identity - J,
        "takes the Jacobian of the adjoint at the start, not at the equilibrium": identity - np.swapaxes(start, 1, 2),
        "takes one Jacobian for the whole batch": identity
        - np.swapaxes(np.broadcast_to(J.mean(axis=0), J.shape), 1, 2),
        "takes the Jacobian of another data point": identity - np.swapaxes(np.roll(J, 1, axis=0), 1, 2),
    }.items():
        with suppress(np.linalg.LinAlgError):
            if _explains(np.linalg.solve(system, c[..., None])[..., 0], flat, right):
                yield words
    if (factor := _factor(flat, right)) is not None:
        yield f"gives {factor:.3g} times the gradient"


def _factor(found: Array, true: Array) -> float | None:
    """The number that ``found`` is of ``true``, to three digits, where it is one and not 1."""
    squared = float(np.sum(true * true))
    if not squared > 0.0 or not np.isfinite(found).all():
        return None
    factor = float(np.sum(found * true)) / squared
    away = np.linalg.norm(found - factor * true)
    return factor if away <= NEAR * np.linalg.norm(found - true) and abs(factor - 1.0) > NEAR else None


def _of_blocks(law: Law, seen: list[Seen]) -> str:
    return _chosen(seen, _readings_of_value if law.id == "objective" else _readings_of_gradient)


def _readings_of_value(each: Seen) -> Iterable[str]:
    judge, value, _ = each.gradient
    yield from _scaled("loss", np.asarray([value]), np.asarray([judge.objective()[0]]), each.problem.n)


def _scaled(what: str, found: Array, true: Array, n: int) -> Iterable[str]:
    factor = _factor(found, true)
    if factor is None:
        return
    if n > 1 and abs(factor * n - 1.0) < NEAR:
        yield f"gives the {what} as a mean over the data points, not as a sum"
    yield "gives no " + what if abs(factor) < NEAR else f"gives {factor:.3g} times the {what}"


def _readings_of_gradient(each: Seen) -> Iterable[str]:
    judge, _, found = each.gradient
    wrong = {
        block: array
        for block, array in found.items()
        if not np.all(np.abs(array - judge.gradient[block]) <= judge.gradient_error(block).total)
    }
    where = f"gradient in {', '.join(sorted(wrong))}" if len(wrong) < len(found) else "gradient"
    if not wrong:
        return
    mine, true = (np.concatenate([side[block].ravel() for block in wrong]) for side in (wrong, judge.gradient))
    if not np.isfinite(mine).all():
        yield f"gives a {where} of NaN or infinity"
    else:
        yield from _scaled(where, mine, true, each.problem.n)
        yield f"gives a wrong {where}" + (
            f"; that in {', '.join(sorted(set(found) - set(wrong)))} is right" if len(wrong) < len(found) else ""
        )
