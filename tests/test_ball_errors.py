"""What an implementation of any cell may differ by: no honest answer exceeds it, and wrong ones do.

Random problems come from fixed seeds. That no bound is exceeded is a statement about every one of them; how near
honest answers come depends a little on how a processor rounds, and is asserted within factors that say so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deqverify.bounds import DISCRIMINATING, Bound, Budget
from deqverify.cells import LinearSoftmaxCell
from deqverify.cells.tanh import TanhCell
from deqverify.claims import DIRECT, Accuracy, Claims
from deqverify.comparison import compare
from deqverify.dtypes import round_to
from deqverify.errors import BallErrors, Objective
from deqverify.losses import LogCosh
from deqverify.theory.closed_form import ClosedForm
from tests.any_cell import Answer, Given, SmallRelu, direct, meets, picard, worst
from tests.examples import LOSSES, random_problem
from tests.test_balls import grid_problem, linear_problem, objective_of, tanh_problem

TANH, LINEAR, RELU = TanhCell(), LinearSoftmaxCell(), SmallRelu()
DTYPES = ("float64", "float32")
RATES = (0.5, 0.9, 0.99)

ACCURACIES = {
    "relative": Accuracy(1e-6),
    "loose": Accuracy(1e-4),
    "maximum norm": Accuracy(1e-4, norm="max"),
    "1-norm": Accuracy(1e-4, norm="1"),
    "rms, with atol and eps": Accuracy(1e-4, 1e-5, 1e-2, norm="rms"),
    "absolute": Accuracy(0.0, 1e-4),
    "over the batch": Accuracy(1e-4, per="batch"),
    "rms over the batch": Accuracy(1e-4, 1e-5, norm="rms", per="batch"),
    "value": Accuracy(1e-4, of="value"),
    "value, rms": Accuracy(1e-4, norm="rms", of="value"),
    "value, over the batch": Accuracy(1e-4, 1e-5, norm="max", per="batch", of="value"),
}


def errors_of(given: Given, accuracy: Accuracy, dtype: str, **options: Any) -> BallErrors:
    claims = Claims(forward=accuracy, backward=accuracy, dtypes=("float64", "float32", "float16", "bfloat16"))
    return BallErrors(given.cell, given.theta, given.x, claims, dtype, cotangent=given.cotangent, **options)


def compared(errors: BallErrors, answer: Answer) -> Iterator[tuple[str, Any, Bound, Any]]:
    """Every quantity: its error, its bound and its size."""
    gradient = errors.pulled()
    found = {"z": answer.z, "adjoint": answer.adjoint, **answer.parts.theta, "x": answer.parts.x}
    exact = {"z": (errors.z, errors.z_error), "adjoint": (errors.adjoint, errors.adjoint_error()), **gradient}
    for name, value in found.items():
        yield name, np.abs(np.asarray(value, dtype=np.float64) - exact[name][0]), exact[name][1], np.abs(exact[name][0])


def ratios(errors: BallErrors, answer: Answer) -> dict[str, float]:
    """The largest measured/allowed of every quantity."""
    return {name: compare(name, off, bound, size).ratio for name, off, bound, size in compared(errors, answer)}


def tanh_problems(dtype: str) -> Iterator[tuple[Given, int]]:
    for seed in range(1, 25):
        given = tanh_problem(seed, RATES[seed % 3], dtype)
        yield given, seed


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_alone_is_forgiven_and_little_more(dtype: str) -> None:
    """Newton's method with dense solves, all in the dtype."""
    seen = defaultdict(list)
    for given, _ in tanh_problems(dtype):
        errors = errors_of(given, DIRECT, dtype)
        assert errors.decided
        for name, ratio in ratios(errors, direct(given, dtype)).items():
            assert ratio <= 1.0
            seen[name].append(ratio)
    # A direct solve is forgiven Higham's worst case, 3s units, of which rounding to nearest takes a few hundredths.
    assert all(0.001 < np.median(values) < 0.3 for values in seen.values()), {k: np.median(v) for k, v in seen.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accuracy", [ACCURACIES["relative"], ACCURACIES["loose"]], ids=str)
def test_sweeps_that_stop_by_their_claim_stay_below_the_bounds(accuracy: Accuracy, dtype: str) -> None:
    seen = defaultdict(list)
    for given, _ in tanh_problems(dtype):
        answer = picard(given, dtype, accuracy)
        if answer is not None:  # in float32 sweeps may end in a cycle
            for name, ratio in ratios(errors_of(given, accuracy, dtype), answer).items():
                assert ratio <= 1.0
                seen[name].append(ratio)
    assert len(seen["z"]) >= 16
    # Sweeps end anywhere below their claim, on average at a rate-th part of it, and err in a direction of their own.
    assert all(0.02 < np.median(values) < 0.8 for values in seen.values()), {k: np.median(v) for k, v in seen.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", list(ACCURACIES))
def test_the_worst_honest_answer_comes_near_the_bounds(kind: str, dtype: str) -> None:
    """Its residual is 99.9 % of the claim in the direction in which one entry moves most: for that entry the bound on z
    is what it is wrong by, but for rounding and curvature."""
    accuracy, seen = ACCURACIES[kind], defaultdict(list)
    for given, seed in [
        *list(tanh_problems(dtype))[:8],
        (linear_problem(3, 0.9, dtype), 1),
        (grid_problem(1, dtype), 2),
    ]:
        errors = errors_of(given, accuracy, dtype)
        if not errors.decided:
            continue
        answer = worst(given, dtype, accuracy, seed % errors.s, errors.z)
        z = np.asarray(answer.z, dtype=np.float64)
        if dtype == "float64" and accuracy.of == "residual":
            assert meets(accuracy, given.f(z), z).all()
        for name, ratio in ratios(errors, answer).items():
            assert ratio <= 1.0, (kind, seed, name)
            seen[name].append(ratio)
    assert len(seen["z"]) >= 8
    near = 0.3 if dtype == "float32" and accuracy.rtol == 1e-6 else 0.8  # rounding of 6e-8 · m is part of the bound
    assert np.median(seen["z"]) > near
    assert np.median(seen["adjoint"]) > near
    if accuracy.rtol == 1e-4 and accuracy.of == "residual":
        assert np.median(seen["x"]) > 0.1


@pytest.mark.parametrize("dtype", DTYPES)
def test_ten_times_the_claim_is_seen(dtype: str) -> None:
    """In the direction of one row of M; with a claim of 1e-4 curvature takes a little of the ten."""
    for given, seed in list(tanh_problems(dtype))[:12]:
        errors = errors_of(given, Accuracy(1e-4), dtype)
        answer = worst(given, dtype, Accuracy(1e-4), seed % errors.s, errors.z, share=10.0)
        found = ratios(errors, answer)
        assert found["z"] > 5.0
        assert found["adjoint"] > 5.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_wrong_gradients_are_seen(dtype: str) -> None:
    """A missing transpose, the one-step gradient, a sign and half of the adjoint: each by a factor of ten at least."""
    for given, seed in tanh_problems(dtype):
        errors = errors_of(given, ACCURACIES["relative"], dtype)
        right = direct(given, dtype)
        J = given.jacobian(errors.z)
        transposed = np.linalg.solve(np.eye(errors.s) - J, given.cotangent[..., None])[..., 0]
        for wrong in (transposed, given.cotangent, -right.adjoint, 0.5 * right.adjoint):
            if np.abs(wrong - errors.adjoint).max() > 1e-2 * np.abs(errors.adjoint).max():  # a symmetric J hides one
                found = ratios(errors, given.answer(errors.z, wrong))
                assert found["adjoint"] > 10.0
                if seed % 4:  # where tanh is saturated, 1 − f² in float32 is mostly rounding
                    assert max(found["x"], found["W"]) > 10.0


@pytest.mark.parametrize("accuracy", [DIRECT, ACCURACIES["relative"], ACCURACIES["loose"]], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bounds_are_informative(dtype: str, accuracy: Accuracy) -> None:
    """At least four entries in five allow at most a tenth of their size, contraction up to .99."""
    shares = defaultdict(list)
    for given, _ in tanh_problems(dtype):
        errors = errors_of(given, accuracy, dtype)
        assert errors.decided
        assert errors.in_range
        for name, _, bound, size in compared(errors, direct(given, dtype)):
            shares[name].append(np.mean(bound.total <= DISCRIMINATING * size))
    assert all(np.mean(share) >= 0.8 for share in shares.values()), {k: np.mean(v) for k, v in shares.items()}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_dtypes_that_compute_in_a_wider_one_are_forgiven_their_storage(dtype: str) -> None:
    """Computed in float32, answers rounded once: nearly all of what is allowed is that rounding."""
    for seed in range(1, 9):
        given = tanh_problem(seed, 0.5, dtype)
        claims = Claims(dtypes=("float32", dtype), computes_in={dtype: "float32"})
        errors = BallErrors(given.cell, given.theta, given.x, claims, dtype, cotangent=given.cotangent)
        answer = direct(given, "float32")
        z, adjoint = (round_to(np.asarray(v, dtype=np.float64), dtype) for v in (answer.z, answer.adjoint))
        parts = given.cast("float32").cell.pull(*(given.cast("float32")[1:3]), answer.z, answer.adjoint)
        kept = {k: round_to(np.asarray(v, dtype=np.float64), dtype) for k, v in parts.theta.items()}
        stored = Answer(
            z, adjoint, parts._replace(theta=kept, x=round_to(np.asarray(parts.x, dtype=np.float64), dtype))
        )
        found = ratios(errors, stored)
        assert max(found.values()) <= 1.0
        unit = 2.0**-11 if dtype == "float16" else 2.0**-8
        assert np.all(errors.z_error.total <= 1.1 * unit * np.abs(errors.z) + 1e-4)  # and a float32 solve's rounding


def test_sweeps_in_half_precision_stay_below_the_bounds() -> None:
    accuracy, tried = Accuracy(1e-2), 0
    for seed in range(1, 13):
        given = tanh_problem(seed, 0.5, "float16")
        errors, answer = errors_of(given, accuracy, "float16"), picard(given, "float16", accuracy, 100)
        if answer is not None and errors.decided:
            tried += 1
            assert max(ratios(errors, answer).values()) <= 1.0
    assert tried >= 6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_whole_model_stays_below_the_bounds(loss: Any, dtype: str) -> None:
    """Outputs, objective, ∂L/∂F and every block of the gradient, computed in the dtype by direct solves."""
    for seed, make in enumerate((tanh_problem, linear_problem, grid_problem)):
        given = make(seed + 2, dtype=dtype)
        n, s = len(given.x), given.cotangent[0].size
        objective = objective_of(loss, n, s, seed)
        objective = replace(objective, B=round_to(objective.B, dtype))
        claims = Claims()
        errors = BallErrors(given.cell, given.theta, given.x, claims, dtype, objective=objective)
        assert errors.decided
        assert errors.in_range
        cast = given.cast(dtype)
        B, Y = (np.asarray(a, dtype=dtype) for a in (objective.B, objective.Y))
        z = cast.newton(np.zeros_like(cast.cotangent))
        F = B @ z.reshape(n, s).T
        dF = np.asarray(loss.gradient(F, Y), dtype=dtype)
        cotangent = (B.T @ dF).T.reshape(z.shape)
        parts = cast.cell.pull(cast.theta, cast.x, z, cast.adjoint(z, cotangent))
        found = {**parts.theta, "x": parts.x, "B": dF @ z.reshape(n, s)}
        assert set(found) == set(errors.gradient)
        for name, (exact, bound) in errors.gradient.items():
            assert np.all(np.abs(np.asarray(found[name], dtype=np.float64) - exact) <= bound.total), name
        value, bound = errors.value
        assert abs(float(loss.value(F, Y)) - value) <= float(bound.total)
        assert np.all(np.abs(np.asarray(cotangent, np.float64) - errors.cotangent) <= errors.cotangent_error)


def test_what_is_true_of_the_linear_cell_is_what_the_closed_forms_say() -> None:
    for seed in range(12):
        problem = random_problem(seed, (0.5, 0.9, 0.99)[seed % 3], LOSSES[seed % 7])
        errors, budget = both(problem, DIRECT, "float64")
        closed, theory = budget.exact.gradient, budget.theory
        for name, block in (("A", "A"), ("gamma", "gamma"), ("x", "Phi"), ("B", "B")):
            value = errors.gradient[name][0]
            value = value.T if name == "x" else value
            assert np.all(np.abs(value - closed[block]) <= theory.gradient[block])
        assert np.all(np.abs(errors.z.T - budget.exact.Z).sum(axis=0) <= theory.z)
        assert abs(errors.value[0] - budget.exact.loss) <= theory.value


def both(problem: Any, accuracy: Accuracy, dtype: str) -> tuple[BallErrors, Budget]:
    claims = Claims(forward=accuracy, backward=accuracy)
    theta = {"A": problem.A, "gamma": np.asarray(problem.gamma)}
    objective = Objective(problem.B, problem.Y, problem.loss)
    errors = BallErrors(LINEAR, theta, problem.Phi.T, claims, dtype, objective=objective)
    return errors, Budget(ClosedForm(problem), claims, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["direct", "relative", "loose", "1-norm", "rms over the batch", "value"])
def test_on_the_linear_cell_balls_are_as_sharp_as_closed_forms(kind: str, dtype: str) -> None:
    """γ up to .9. Either may be the sharper one.

    Balls are in z, Λ and ∂L/∂Φ: they follow the very numbers, the rows of (I − J)⁻¹ where the closed form has 1/(1−γ)
    for each, and one rounding of each operation where it has a count; so about as large in rounding, and for a claim
    m times as large at most, m ≤ 5, each entry having a worst residual of its own. Closed forms are in ∂L/∂A: they
    know that the softmax does not see the constant part of Λ's error, which is the largest, where balls add the errors
    of every term (theory: swing): up to thirty times at γ = .9, and like 1/(1−γ) near 1, so that the linear cell keeps
    its own.
    """
    accuracy = DIRECT if kind == "direct" else ACCURACIES[kind]
    seen = defaultdict(list)
    for seed in range(18):
        problem = random_problem(seed, (0.25, 0.5, 0.9)[seed % 3]).rounded_to(dtype)
        errors, budget = both(problem, accuracy, dtype)
        assert errors.decided
        seen["z"] += ratio(errors.z_error.total.sum(axis=1), budget.bound(lambda e: e.z))
        adjoint = errors.adjoint_error(errors.cotangent_error).total.max(axis=1)
        seen["adjoint"] += ratio(adjoint, budget.bound(lambda e: e.adjoint))
        for name, block in (("A", "A"), ("gamma", "gamma"), ("x", "Phi"), ("B", "B")):
            total = errors.gradient[name][1].total
            bound = budget.bound(lambda e, block=block: e.gradient[block])
            seen[name] += ratio(total.T if name == "x" else total, bound)
        seen["value"] += ratio(errors.value[1].total, budget.bound(lambda e: e.value))
    for name, values in seen.items():
        assert 0.1 <= np.median(values) <= 3.0, (name, np.median(values))
        assert max(values) <= (30.0 if name == "A" else 6.0), (name, max(values))


def ratio(balls: Any, closed: Bound) -> list[float]:
    found, known = np.ravel(balls), np.ravel(np.broadcast_to(closed.total, np.shape(balls)))
    assert np.isfinite(known).all()
    return [a / b for a, b in zip(found, known, strict=True) if b > 0]


def test_out_of_range_is_said() -> None:
    given = linear_problem(2, dtype="float32")
    assert errors_of(given, DIRECT, "float32").in_range
    huge = given._replace(x=given.x * 2.0**122)
    assert not errors_of(huge, DIRECT, "float32").in_range
    assert errors_of(huge, DIRECT, "float64").in_range


def test_what_belongs_to_an_objective_asks_for_one() -> None:
    given = tanh_problem(1)
    with pytest.raises(ValueError, match=r"^objective: "):
        _ = errors_of(given, DIRECT, "float64").value
    with pytest.raises(ValueError, match=r"^cotangent: "):
        BallErrors(given.cell, given.theta, given.x, Claims(), "float64")
    both_given = Objective(np.ones((1, 3)), np.zeros((1, len(given.x))), LogCosh())
    with pytest.raises(ValueError, match=r"^cotangent: "):
        errors_of(given, DIRECT, "float64", objective=both_given)


def test_no_data_points_have_no_errors() -> None:
    given = tanh_problem(1)
    errors = BallErrors(given.cell, given.theta, given.x[:0], Claims(), "float32", cotangent=given.cotangent[:0])
    assert errors.decided
    assert errors.in_range
    assert errors.z_error.total.shape == errors.z.shape == given.cotangent[:0].shape
    assert all(not value.any() for value, _ in errors.pulled().values())
