"""The formulas of bounds.py again, entry by entry, for every kind of claim: no axis confused, no term lost.

Everything added is positive, so that two ways of adding agree to a few hundred roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from deqverify.bounds import FLOAT64, Arithmetic, Bound, Budget, Errors
from deqverify.claims import DIRECT, Accuracy, Claims
from deqverify.losses import CrossEntropy, Logistic, Loss, Poisson, Squared
from deqverify.problem import SoftmaxProblem
from deqverify.theory.closed_form import ClosedForm

SAME = 300 * 2.0**-53

# float16 makes every term visible: tiny is 2⁻¹⁴, and the root of tiny 2⁻⁷.
CASES: dict[str, tuple[str, Claims]] = {
    "direct": ("float16", Claims()),
    "direct, computed in float32": ("float16", Claims(computes_in={"float16": "float32"})),
    "relative residual": ("float16", Claims(Accuracy(1e-3), Accuracy(1e-2))),
    "absolute residual, computed in float32": (
        "float16",
        Claims(Accuracy(atol=1e-3), Accuracy(atol=1e-2), computes_in={"float16": "float32"}),
    ),
    "relative value": ("float16", Claims(Accuracy(1e-3, of="value"), Accuracy(1e-2, of="value"))),
    "absolute value, computed in float32": (
        "bfloat16",
        Claims(Accuracy(atol=1e-3, of="value"), Accuracy(atol=1e-2, of="value"), computes_in={"bfloat16": "float32"}),
    ),
    "the forward pass alone": ("float32", Claims(Accuracy(1e-3), DIRECT)),
    "the backward pass alone": ("float32", Claims(DIRECT, Accuracy(1e-3))),
    "no exact gradient": ("float32", Claims(Accuracy(1e-3), None)),
}


def problems() -> Iterator[SoftmaxProblem]:
    losses: tuple[Loss, ...] = (Squared(), Logistic(0.125), CrossEntropy(0.125))
    for seed, ((m, p, n), loss) in enumerate(zip(((2, 3, 4), (4, 2, 3), (1, 2, 3)), losses, strict=True)):
        rng = np.random.default_rng(seed)
        Y = (np.arange(p)[:, None] == rng.integers(0, p, size=n)).astype(float)
        A, B, Phi = rng.normal(size=(m, m)), rng.normal(size=(p, m)), rng.normal(size=(m, n))
        yield SoftmaxProblem(A, B, Phi, Y, 0.75, loss)
        yield SoftmaxProblem(A, B / 64, Phi / 64, Y, 0.75, loss)  # equilibria and adjoints below one


class Entrywise:
    """The errors of one data point i at a time, as derived in the docstrings of :class:`Errors`."""

    def __init__(self, exact: ClosedForm, errors: Errors):
        self.q, self.exact, self.a = exact.problem, exact, errors.arithmetic
        self.forward, self.backward = errors.forward, errors.backward
        self.m, self.p, self.n, self.gamma = self.q.m, self.q.p, self.q.n, self.q.gamma
        self.solving = self.a.unit * (3 * self.m * exact.growth + self.m + 8)
        self.underflow = (self.m + self.n + self.p) * self.a.tiny
        for name in (
            "z",
            "F",
            "dF",
            "cotangent",
            "adjoint",
            "swing",
            "softmax",
            "M",
            "eM",
            "centred",
            "eSM",
        ):  # asked for again and again
            setattr(self, name, cache(getattr(self, name)))

    def one(self, X: Any, i: int) -> float:
        return sum(abs(float(X[k, i])) for k in range(X.shape[0]))

    def top(self, X: Any, i: int) -> float:
        return max(abs(float(X[k, i])) for k in range(X.shape[0]))

    def claimed(self, claim: Accuracy, X: Any, i: int, off: float) -> float:
        """In the 2-norm of data point i of X, for a residual that is off by ``off`` there otherwise."""
        if claim.exact:
            return float(min(self.a.norm_floor, 2.0**-63))  # squares that underflow, in float32 at the latest
        S = [[float(s) for s in row] for row in self.exact.S]
        if claim.of == "value":
            across, down, off = self.gamma * max(sum(row) for row in S), self.gamma, off / (1.0 - self.gamma)
        else:
            inverse = np.linalg.inv(np.eye(self.m) - self.gamma * np.array(S))
            across, down = max(sum(row) for row in inverse.tolist()) - 1.0, self.gamma / (1.0 - self.gamma)
        gain = (across * down) ** 0.5
        size = sum(float(x) ** 2 for x in X[:, i]) ** 0.5
        found = (claim.atol + claim.rtol * (size + gain * off)) / (1.0 - claim.rtol * gain)
        found = found * (1.0 + (self.m * self.n + 4) * self.a.unit) + self.a.norm_floor
        return found * (1.0 - self.gamma if claim.of == "value" else 1.0)

    def amplified(self, error: float) -> float:
        return error / (1.0 - self.gamma)

    def certified(self, claim: Accuracy) -> float:
        return (1.0 + self.gamma) / (1.0 - self.gamma) if claim.of == "value" else 1.0

    def residual(self, i: int) -> float:
        z = self.one(self.exact.Z, i)
        own = self.solving * (z + self.one(self.q.Phi, i)) + self.underflow
        return own + self.claimed(self.forward, self.exact.Z, i, own) * self.m**0.5

    def z(self, i: int) -> float:
        return self.amplified(self.residual(i)) + self.a.storage * self.one(self.exact.Z, i)

    def certificate(self, i: int) -> float:
        stored = 2 * self.a.storage * self.one(self.exact.Z, i)
        return self.amplified(self.residual(i) * self.certified(self.forward) + stored)

    def F(self, j: int, i: int) -> float:
        row = [abs(float(b)) for b in self.q.B[j]]
        product = sum(b * abs(float(self.exact.Z[k, i])) for k, b in enumerate(row))
        return max(row) * self.z(i) + (self.m + 1) * self.a.unit * product + self.underflow

    def dF(self, j: int, i: int) -> float:
        error = np.array([[self.F(k, c) for c in range(self.n)] for k in range(self.p)])
        curved = float(self.q.loss.spread(self.exact.F, self.q.Y, error)[j, i])  # tests/test_losses.py
        terms = float(self.q.loss.terms(self.exact.F, self.q.Y)[j, i])
        return curved + (self.p + 6) * self.a.unit * terms + self.underflow

    def value(self) -> float:
        q, errors = self.q, [[self.F(j, i) for i in range(self.n)] for j in range(self.p)]
        spread, terms = q.loss.spread(self.exact.F, q.Y, np.array(errors)), q.loss.value_terms(self.exact.F, q.Y)
        total = self.underflow
        for j, i in np.ndindex(self.p, self.n):
            total += (abs(float(self.exact.dF[j, i])) + float(spread[j, i])) * errors[j][i]
            total += (self.p * self.n + 12) * self.a.unit * float(terms[j, i])
        return total

    def cotangent(self, k: int, i: int) -> float:
        unit = (self.p + 1) * self.a.unit + self.a.storage
        rows = range(self.p)
        added = (abs(float(self.q.B[j, k])) * (self.dF(j, i) + unit * abs(float(self.exact.dF[j, i]))) for j in rows)
        return sum(added) + self.underflow

    def adjoint_given(self, i: int, given: float) -> float:
        size = self.top(self.exact.adjoint, i)
        return self.amplified(self.dual(i, given)) + self.a.storage * size

    def dual(self, i: int, given: float) -> float:
        size = self.top(self.exact.adjoint, i)
        own = self.solving * (size + self.top(self.exact.cotangent, i)) + given + self.underflow
        return own + self.claimed(self.backward, self.exact.adjoint, i, own * self.m**0.5)

    def adjoint(self, i: int) -> float:
        return self.adjoint_given(i, max(self.cotangent(k, i) for k in range(self.m)))

    def swing(self, i: int) -> float:
        size = self.top(self.exact.adjoint, i)
        own = self.dual(i, max(self.cotangent(k, i) for k in range(self.m)))
        columns = [[float(s) for s in column] for column in self.exact.S.T]
        half = [sum(abs(s - t) for s, t in zip(a, b, strict=True)) / 2 for a in columns for b in columns]
        found = own / (1.0 - self.gamma * max(half))
        if self.backward.of == "value":
            found += self.amplified(own)
        return found + self.a.storage * size

    def adjoint_certificate(self, i: int) -> float:
        stored = self.amplified(2 * self.a.storage * self.top(self.exact.adjoint, i))
        return self.adjoint_given(i, 0.0) * self.certified(self.backward) + stored

    def softmax(self, k: int, j: int) -> float:
        logit = max(float(a) for a in self.q.A[:, j]) - float(self.q.A[k, j])
        return float(self.exact.S[k, j]) * self.a.unit * (self.m + 4 + logit) + self.a.tiny

    def M(self, k: int, j: int) -> float:
        return self.gamma * sum(abs(float(self.exact.adjoint[k, i] * self.exact.Z[j, i])) for i in range(self.n))

    def eM(self, k: int, j: int) -> float:
        total = 0.0
        for i in range(self.n):
            total += abs(float(self.exact.adjoint[k, i])) * self.z(i)
            total += self.adjoint(i) * (abs(float(self.exact.Z[j, i])) + self.z(i))
        return self.gamma * (total + self.underflow) + (self.n + 2) * self.a.unit * self.M(k, j)

    def centred(self, k: int, j: int) -> float:
        total = 0.0
        for i in range(self.n):
            column = [float(v) for v in self.exact.adjoint[:, i]]
            total += abs(column[k] - (max(column) + min(column)) / 2) * self.z(i)
            total += self.swing(i) * (abs(float(self.exact.Z[j, i])) + self.z(i))
        return self.gamma * (total + self.underflow) + (self.n + 2) * self.a.unit * self.M(k, j)

    def eSM(self, k: int, j: int) -> float:
        S = float(self.exact.S[k, j])
        return S * self.centred(k, j) + (self.softmax(k, j) + 2 * self.a.unit * S) * self.M(k, j)

    def A(self, k: int, j: int) -> float:
        rows, unit = range(self.m), self.a.unit
        S, SM = float(self.exact.S[k, j]), float(self.exact.S[k, j]) * self.M(k, j)
        mass = sum(float(self.exact.S[r, j]) * self.M(r, j) for r in rows)
        column = sum(self.eSM(r, j) for r in rows) + (self.m + 2) * unit * mass
        found = self.eSM(k, j) + S * column + self.softmax(k, j) * mass + 2 * unit * (SM + S * mass) + self.underflow
        return found + self.a.storage * abs(float(self.exact.gradient["A"][k, j]))

    def B(self, j: int, k: int) -> float:
        total = 0.0
        for i in range(self.n):
            z, dF = abs(float(self.exact.Z[k, i])), abs(float(self.exact.dF[j, i]))
            total += self.dF(j, i) * (z + self.z(i)) + dF * self.z(i) + (self.n + 1) * self.a.unit * dF * z
        return total + self.underflow + self.a.storage * abs(float(self.exact.gradient["B"][j, k]))

    def Phi(self, k: int, i: int) -> float:
        return self.adjoint(i) + self.a.storage * abs(float(self.exact.gradient["Phi"][k, i]))

    def gradient_gamma(self) -> float:
        total = self.underflow
        for i in range(self.n):
            total += self.adjoint(i) * (self.one(self.exact.Z, i) + self.z(i))
            total += self.top(self.exact.adjoint, i) * self.z(i)
            for k in range(self.m):
                adjoint = abs(float(self.exact.adjoint[k, i]))
                for j in range(self.m):
                    z = abs(float(self.exact.Z[j, i]))
                    product = (self.m * self.n + self.m + 2) * self.a.unit * float(self.exact.S[k, j])
                    total += adjoint * (self.softmax(k, j) + product) * z
        return total + self.a.storage * abs(float(self.exact.gradient["gamma"]))

    def gauge(self, j: int) -> float:
        rows = range(self.m)
        column = sum(float(self.exact.S[k, j]) * (self.M(k, j) + self.eM(k, j)) for k in rows)
        rounding = sum(self.softmax(k, j) for k in rows) + (3 * self.m + 8) * self.a.unit
        return rounding * column + self.m * self.underflow + 2 * self.a.storage * column


def table(entry: Callable[..., float], *shape: int) -> np.ndarray:
    return np.array([entry(*index) for index in np.ndindex(shape)]).reshape(shape)


@pytest.mark.parametrize("case", list(CASES))
def test_every_bound_is_its_formula(case: str) -> None:
    dtype, claims = CASES[case]
    for problem in problems():
        exact = ClosedForm(problem)
        budget = Budget(exact, claims, dtype)
        for errors in (budget.rounding, budget.claimed):
            m, p, n, hand = problem.m, problem.p, problem.n, Entrywise(exact, errors)
            expected = {
                "residual": (errors.residual, table(hand.residual, n)),
                "z": (errors.z, table(hand.z, n)),
                "certificate": (errors.certificate, table(hand.certificate, n)),
                "F": (errors.F, table(hand.F, p, n)),
                "dF": (errors.dF, table(hand.dF, p, n)),
                "value": (errors.value, table(hand.value)),
                "cotangent": (errors.cotangent, table(hand.cotangent, m, n)),
                "adjoint": (errors.adjoint, table(hand.adjoint, n)),
                "swing": (errors.swing_from(errors.cotangent), table(hand.swing, n)),
                "adjoint certificate": (errors.adjoint_certificate(), table(hand.adjoint_certificate, n)),
                "softmax": (errors.softmax, table(hand.softmax, m, m)),
                "gauge": (errors.gauge(errors.adjoint), table(hand.gauge, m)),
                "A": (errors.gradient["A"], table(hand.A, m, m)),
                "B": (errors.gradient["B"], table(hand.B, p, m)),
                "Phi": (errors.gradient["Phi"], table(hand.Phi, m, n)),
                "gamma": (errors.gradient["gamma"], table(hand.gradient_gamma)),
            }
            for name, (found, by_hand) in expected.items():
                assert np.shape(found) == by_hand.shape, name
                assert np.all(np.abs(found - by_hand) <= SAME * by_hand), name
            assert set(errors.gradient) == {"A", "B", "Phi", "gamma"}


def test_an_adjoint_may_be_pulled_alone() -> None:
    for problem in problems():
        errors = Errors(ClosedForm(problem), Arithmetic.of("float32"))
        alone = errors.pulled(errors.cotangent)
        assert set(alone) == {"A", "Phi", "gamma"}
        assert all(np.array_equal(alone[block], errors.gradient[block]) for block in alone)


@pytest.mark.parametrize(
    ("name", "computes_in", "expected"),
    [
        ("float64", None, (2.0**-53, 0.0, 2.0**-1022, np.finfo(np.float64).max, 2.0**-511)),
        ("float32", "float32", (2.0**-24, 0.0, 2.0**-126, np.finfo(np.float32).max, 2.0**-63)),
        ("float16", "float32", (2.0**-24, 2.0**-11, 2.0**-14, 65504.0, 2.0**-63)),
    ],
)
def test_arithmetic_knows_what_is_computed_and_what_is_stored(
    name: str, computes_in: str | None, expected: tuple[float, ...]
) -> None:
    a = Arithmetic.of(name, computes_in)
    assert (a.unit, a.storage, a.tiny, a.largest, a.norm_floor) == expected


def test_a_budget_judges_by_the_claims() -> None:
    (problem, *_) = problems()
    exact, forward, backward = ClosedForm(problem), Accuracy(1e-3), Accuracy(1e-2, of="value")
    budget = Budget(exact, Claims(forward, backward), "float32")
    assert (budget.claimed.forward, budget.claimed.backward) == (forward, backward)
    assert (budget.rounding.forward, budget.rounding.backward) == (DIRECT, DIRECT)
    assert Budget(exact, Claims(forward), "float32").claimed.forward == forward
    assert Budget(exact, Claims(backward=backward), "float32").claimed.backward == backward
    direct = Budget(exact, Claims(), "float32")
    assert direct.claimed is direct.rounding
    assert Budget(exact, Claims(backward=None), "float32").claimed.backward is DIRECT
    assert direct.theory.arithmetic is FLOAT64
    assert direct.theory.exact is exact
    narrow = Budget(exact, Claims(computes_in={"float16": "float32"}), "float16").arithmetic
    assert narrow == Arithmetic.of("float16", "float32")


def test_the_terms_of_a_bound_are_rounding_and_claim() -> None:
    (problem, *_) = problems()
    budget = Budget(ClosedForm(problem), Claims(Accuracy(1e-3)), "float32")
    bound = budget.bound(lambda e: e.z)
    assert list(bound.terms) == ["rounding in float32, amplified", "claimed solver accuracy, amplified"]
    assert np.array_equal(bound.terms["rounding in float32, amplified"], budget.rounding.z)
    assert np.all(np.abs(bound.total - budget.claimed.z) <= 4 * 2.0**-53 * budget.claimed.z)
    direct = Budget(ClosedForm(problem), Claims(), "float16").bound(lambda e: e.z)
    assert list(direct.terms) == ["rounding in float16, amplified"]


def test_bounds_of_squares_and_of_inner_products() -> None:
    for problem in problems():
        exact = ClosedForm(problem)
        budget = Budget(exact, Claims(), "float32")
        gradient, errors = exact.gradient, budget.rounding.gradient
        squared = along = size = 0.0
        rng = np.random.default_rng(0)
        direction = {block: np.asarray(rng.normal(size=gradient[block].shape)) for block in ("A", "B", "gamma")}
        for block, d in direction.items():
            for g, e, t in zip(gradient[block].flat, errors[block].flat, d.flat, strict=True):
                squared += 2 * abs(g) * e + e * e
                along += abs(t) * e
                size += abs(t * g)
        found = budget.squared("A", "B", "gamma").total
        assert abs(found - squared) <= SAME * squared
        bound = budget.along(direction)
        rounding = sum(d.size for d in direction.values()) * 2.0**-53 * size
        assert abs(bound.terms["rounding in float32, amplified"] - along) <= SAME * along
        assert abs(bound.terms["rounding of the inner product"] - rounding) <= SAME * rounding


@pytest.mark.parametrize("claims", [Claims(), Claims(Accuracy(0.1), Accuracy(0.2))], ids=["direct", "loose"])
def test_the_range_is_left_when_products_exceed_a_sixty_fourth_of_it(claims: Claims) -> None:
    for problem in problems():
        exact = ClosedForm(problem)
        budget = Budget(exact, claims, "float32")
        errors = budget.claimed
        adjoint = float(np.abs(exact.adjoint).sum()) + problem.m * sum(float(e) for e in errors.adjoint)
        dF, Z = (float(np.abs(a).sum() + e.sum()) for a, e in ((exact.dF, errors.dF), (exact.Z, errors.z)))
        size = 64 * (adjoint + dF) * max(1.0, Z)
        for largest, inside in ((size * (1 + 2.0**-40), True), (size * (1 - 2.0**-40), False)):
            budget.arithmetic = Arithmetic(2.0**-24, 0.0, 2.0**-126, largest, 2.0**-63)
            assert budget.in_range is inside


@pytest.mark.filterwarnings("error")
def test_beyond_every_range_a_budget_says_so_without_a_warning() -> None:
    # exp(680) lies within float64's range, but with the error of F that a loose claim allows it does not.
    steep = SoftmaxProblem([[0.0]], [[1.0]], [[340.0]], [[1.0]], 0.5, Poisson(0.125))
    assert Budget(ClosedForm(steep), Claims(), "float64").in_range is True
    assert Budget(ClosedForm(steep), Claims(Accuracy(0.1)), "float64").in_range is False
    assert Budget(ClosedForm(steep), Claims(), "float32").in_range is False
    # Two terms of 1.4e308, whose sum overflows, and infinities times the zero in B.
    beyond = SoftmaxProblem([[0.0]], [[1.0], [0.0]], [[354.75, 354.75]], np.ones((2, 2)), 0.5, Poisson(0.125))
    for claims in (Claims(), Claims(Accuracy(0.1))):
        assert Budget(ClosedForm(beyond), claims, "float64").in_range is False


def test_a_bound_adds_by_name_and_scales_from_both_sides() -> None:
    first = Bound({"a": np.array([1.0, 2.0]), "b": np.asarray(4.0)})
    second = Bound({"c": np.array([8.0, 16.0]), "a": np.asarray(32.0)})
    assert list((first + second).terms) == ["a", "b", "c"]
    assert (first + second).total.tolist() == [45.0, 54.0]
    assert (3.0 * first).total.tolist() == (first * 3.0).total.tolist() == [15.0, 18.0]
    assert first.at((1,)) == {"a": 2.0, "b": 4.0}
