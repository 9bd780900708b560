"""Readings: guesses at what a wrong answer is the right answer to, each of which can be checked.

A guess explains an answer that is far nearer to it than to the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from deqverify.cells import LinearSoftmaxCell
from deqverify.dtypes import Array
from deqverify.dtypes import dtype as known_dtype
from deqverify.errors.judge import Judge
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Subject
from deqverify.oracle.krawczyk import dense, unit_pulls
from deqverify.problem import Problem, SoftmaxProblem
from deqverify.properties.common import judged

STEPS = 1000
"""So many steps of an iteration are retraced."""

NEAR = 1e-2
"""A reading explains an answer that is nearer to it than this share of the distance from the truth: a guess at random
is about as far away as the truth is."""


EARLY, ADJOINT_EARLY = "stops early", "stops the adjoint's iteration early"
"""The words of an iteration that had not arrived."""

SHORT, SMALL = "solves the adjoint equation less accurately than is claimed", 0.1
"""The words of an adjoint that nearly solves its equation, where no other reading fits, and the residual that it leaves
at the most, of the cotangent: a wrong equation leaves one of its size."""

AT_START, AT_INPUTS = (f"takes derivatives at the {where}, not at the equilibrium" for where in ("start", "inputs"))
"""The words of gradients in which f is linearised elsewhere."""

ROUNDINGS = 64.0
"""An answer that is off by so many of them is right: a reading has to explain something larger than rounding."""

NARROW = "as accurate as float32, in float64"
"""The words of an answer that was rounded to float32 on its way."""


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

    @cached_property
    def theta(self) -> dict[str, Array]:
        return {name: np.asarray(value) for name, value in self.problem.theta.items()}

    def jacobian(self, z: Array) -> Array:
        """∂f/∂z of every data point, (n, s, s)."""
        return np.asarray(dense(unit_pulls(self.problem.cell, self.theta, self.problem.x, z), len(z)))


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


SILENT = {Status.NOT_REPORTED: "without a word"}


def said(status: Status) -> str:
    """What was said beside an answer, as the end of a sentence."""
    return SILENT.get(status, f"and says: {status.value}")


def _narrow(each: Seen, found: Array, true: Array) -> bool:
    """Whether an answer in float64 is as accurate as one of float32 would be: a few of its roundings off, where more
    is claimed."""
    size = float(np.linalg.norm(true))
    if each.deq.dtype != "float64" or not size > 0.0 or not np.isfinite(found).all():
        return False
    unit, claims = known_dtype("float32").unit_roundoff, each.deq.claims
    if any(claim.rtol > unit / 64 or claim.atol for claim in (claims.forward, claims.backward) if claim):
        return False
    return unit / 64 < float(np.linalg.norm(found - true)) / size < unit * 64


def _right(each: Seen, found: Array, true: Array) -> bool:
    """Whether an answer is right up to rounding: any reading that is the truth would explain it."""
    unit = known_dtype(each.deq.dtype).unit_roundoff
    return bool(np.linalg.norm(found - true) <= ROUNDINGS * unit * np.linalg.norm(true))


def steps_taken(each: Seen) -> int | None:
    """After how many steps from zero, or from x, the answer is reached."""
    z, problem = each.forward[0], each.problem
    step = problem.cell.step(each.theta, problem.x)
    for start in (np.zeros(problem.states), problem.x):
        if start.shape == problem.states and (found := _retraced(_sweeps(step, start), z, each.truth.z)):
            return found
    return None


def of_equilibrium(each: Seen) -> Iterable[str]:
    (z, status), truth = each.forward, each.truth.z
    if not np.isfinite(z).all():
        yield "returns NaN or infinity" + ("" if status is Status.NOT_REPORTED else f", {said(status)}")
        return
    if _right(each, z, truth):
        return
    if steps_taken(each) is not None or _improves(each):
        yield EARLY
    for words, guess in _models(each.problem):
        if _explains(guess, z, truth):
            yield words
    if not np.any(z) and np.any(truth):
        yield "returns zero"
    if _narrow(each, z, truth):
        yield f"is {NARROW}"


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


def of_adjoint(each: Seen) -> Iterable[str]:
    (adjoint, status), truth = each.backward, each.truth.adjoint
    if not np.isfinite(adjoint).all():
        yield "gives a gradient of NaN or infinity"
        return
    if _right(each, adjoint, truth):
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
    if steps == 0:
        yield "gives the gradient of one step at the equilibrium, not that of the equilibrium"
    elif steps is not None:
        yield f"{ADJOINT_EARLY}, {said(status)}"
    for words, system, side in _systems(each, J, c):
        with suppress(np.linalg.LinAlgError):
            guess: Array = np.linalg.solve(np.eye(flat.shape[1]) - system, side[..., None])[..., 0].astype(np.float64)
            if _explains(guess, flat, right):
                yield words
    if (factor := _factor(flat, right)) is not None:
        n, s = flat.shape
        if n > 1 and abs(factor * n - 1.0) < NEAR:
            yield "gives the gradient as a mean over the data points, not as a sum"
        if s > 1 and abs(factor * s - 1.0) < NEAR:
            yield "divides the gradient by the number of states, as with a mean for an inner product"
        yield f"gives {factor:.3g} times the gradient"
    if _narrow(each, flat, right):
        yield f"gives a gradient that is {NARROW}"
    claim = each.deq.claims.backward
    if claim and not claim.exact and np.linalg.norm(pulled(flat) - flat) <= SMALL * np.linalg.norm(c):
        yield SHORT


def _systems(each: Seen, J: Array, c: Array) -> Iterable[tuple[str, Array, Array]]:
    """What may be solved in place of ``(I − Jᵀ)λ = c``: the matrix that stands for Jᵀ, (n, s, s), and the right
    side."""
    T = np.swapaxes(J, 1, 2)
    yield "solves the adjoint equation with ∂f/∂z in place of its transpose", J, c
    for words, z in _elsewhere(each):
        yield words, np.swapaxes(each.jacobian(z), 1, 2), c
    yield "takes one Jacobian for the whole batch", np.broadcast_to(T.mean(axis=0), T.shape), c
    yield "takes the Jacobian of another data point", np.roll(T, 1, axis=0), c
    yield "solves the adjoint equation with half of the Jacobian, as with damping that is not undone", T / 2, c
    yield "solves the adjoint equation with −∂f/∂z", -T, c
    yield "takes of the Jacobian its symmetric part, as conjugate gradients do", (T + J) / 2, c
    yield "takes the diagonal of the Jacobian alone", T * np.eye(T.shape[1]), c
    yield "solves the adjoint equation for ones, whatever the cotangent is", T, np.ones_like(c)
    yield "uses the mean of the cotangents for every data point", T, np.broadcast_to(c.mean(axis=0), c.shape)
    yield "uses the cotangent of another data point", T, np.roll(c, 1, axis=0)
    yield "clips the cotangent to [−1, 1]", T, np.clip(c, -1.0, 1.0)


def _elsewhere(each: Seen) -> Iterable[tuple[str, Array]]:
    """Where derivatives may be taken by mistake."""
    yield AT_START, np.zeros(each.problem.states)
    if each.problem.x.shape == each.problem.states:
        yield AT_INPUTS, each.problem.x


def _factor(found: Array, true: Array) -> float | None:
    """The number that ``found`` is of ``true``, to three digits, where it is one and not 1."""
    squared = float(np.sum(true * true))
    if not squared > 0.0 or not np.isfinite(found).all():
        return None
    factor = float(np.sum(found * true)) / squared
    away = np.linalg.norm(found - factor * true)
    return factor if away <= NEAR * np.linalg.norm(found - true) and abs(factor - 1.0) > NEAR else None


def of_value(each: Seen) -> Iterable[str]:
    judge, value, _ = each.gradient
    yield from _scaled("loss", np.asarray([value]), np.asarray([judge.objective()[0]]), each.problem.n)


def _scaled(what: str, found: Array, true: Array, n: int) -> Iterable[str]:
    factor = _factor(found, true)
    if factor is None:
        return
    if n > 1 and abs(factor * n - 1.0) < NEAR:
        yield f"gives the {what} as a mean over the data points, not as a sum"
    yield "gives no " + what if abs(factor) < NEAR else f"gives {factor:.3g} times the {what}"


def of_gradient(each: Seen, wrong: Sequence[str]) -> Iterable[str]:
    """``wrong`` are the blocks that are so on one of the problems at least."""
    judge, _, found = each.gradient
    where = which_gradient(wrong, list(found))
    mine, true = (np.concatenate([side[block].ravel() for block in wrong]) for side in (found, judge.gradient))
    if not np.isfinite(mine).all():
        yield f"gives a {where} of NaN or infinity"
        return
    for words, guess in _derived_elsewhere(each, judge):
        shared = [block for block in guess if block in found]  # right ones too: at zero some vanish, and not one alone
        if {*wrong} <= {*shared}:
            sides = (np.concatenate([side[k].ravel() for k in shared]) for side in (guess, found, judge.gradient))
            if _explains(*sides):
                yield words
    yield from _scaled(where, mine, true, each.problem.n)
    if each.problem.n > 1 and "x" not in wrong:
        first = judged(each.deq, each.problem.chosen([0])).gradient
        if _explains(np.concatenate([first[block].ravel() for block in wrong]), mine, true):
            yield f"gives the {where} of the first data point alone"
    if _narrow(each, mine, true):
        yield f"gives a {where} that is {NARROW}"


def _derived_elsewhere(each: Seen, judge: Judge) -> Iterable[tuple[str, dict[str, Array]]]:
    """The objective's gradient in θ and x where derivatives are taken elsewhere."""
    problem = each.problem
    adjoint = judge.adjoint.reshape(problem.n, -1)
    c = adjoint - np.einsum("nk,nkj->nj", adjoint, each.jacobian(judge.z))
    for words, z in _elsewhere(each):
        system = np.eye(c.shape[1]) - np.swapaxes(each.jacobian(z), 1, 2)
        with suppress(np.linalg.LinAlgError):
            solved = np.linalg.solve(system, c[..., None])[..., 0].reshape(problem.states)
            parts = problem.cell.pull(each.theta, problem.x, z, solved)
            yield words, {name: np.asarray(part) for name, part in (parts.theta | {"x": parts.x}).items()}


def which_gradient(wrong: Sequence[str], blocks: Sequence[str]) -> str:
    """How the blocks that are wrong are called, of all."""
    return "gradient" if len(wrong) == len(blocks) else f"gradient in {', '.join(wrong)}"


def wrong_blocks(each: Seen) -> list[str]:
    """Those of the objective's gradient that are beyond their bounds."""
    judge, _, found = each.gradient
    return [
        block
        for block, array in found.items()
        if not np.all(np.abs(array - judge.gradient[block]) <= judge.gradient_error(block).total)
    ]
