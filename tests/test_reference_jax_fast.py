"""The fast reference in JAX: its gradients against the bounds of the closed forms, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deqverify.cells import LinearSoftmaxCell, cells
from deqverify.claims import Claims
from deqverify.errors.judge import astray, gradient_astray, judge
from deqverify.losses import Squared
from deqverify.problem import SoftmaxProblem
from deqverify.reference import reference

jax = pytest.importorskip("jax")

from deqverify.frameworks.jax_bridge import computing  # noqa: E402
from deqverify.reference.jax_fast import solve  # noqa: E402

CELL = LinearSoftmaxCell()
SHAPES = ((1, 1), (5, 3))
"""(m, n): each is compiled, for a second or so."""


def instance(m: int, n: int, gamma: float, dtype: str, spread: float) -> tuple[SoftmaxProblem, Any]:
    rng = np.random.default_rng(m)
    A, Phi, c = spread * rng.standard_normal((m, m)), rng.standard_normal((m, n)), rng.standard_normal((n, m))
    problem = SoftmaxProblem(A, np.ones((1, m)), Phi, np.zeros((1, n)), gamma, Squared()).rounded_to(dtype)
    return problem, c.astype(dtype).astype(np.float64)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_equilibria_and_gradients_are_within_the_bounds_of_a_direct_solve(m: int, n: int, dtype: str) -> None:
    """Also near γ = 1, where the slow mode is nearly all of z and λ, and where S is nearly a permutation."""
    for gamma, spread in ((0.5, 1.0), (1 - 2.0**-15, 1.0), (0.9, 30.0), (2.0**-30, 1.0)):
        problem, c = instance(m, n, gamma, dtype, spread)
        truth = judge(problem, Claims(), dtype, c)
        with computing(dtype):
            A, x, g, cotangent = (jax.numpy.asarray(a, dtype) for a in (problem.A, problem.x, problem.gamma, c))
            z, pull = jax.vjp(solve, A, x, g)
            found = zip(("A", "x", "gamma"), pull(cotangent), strict=True)
        assert not astray(truth, np.asarray(z, dtype=float)), (gamma, spread)
        for block, value in found:
            assert not gradient_astray(truth, block, np.asarray(value, dtype=float)), (block, gamma, spread)


def test_it_may_be_called_inside_other_transformations() -> None:
    """Many problems at once by ``vmap``, a gradient of a gradient against differences of the gradient."""
    rng = np.random.default_rng(0)
    with computing("float64"):
        A, x = jax.numpy.asarray(rng.standard_normal((2, 3, 3))), jax.numpy.asarray(rng.standard_normal((2, 2, 3)))
        several = jax.vmap(lambda A, x: solve(A, x, 0.5))(A, x)
        # The same operations on a batch, in another order perhaps: a few dozen roundings of numbers of size one.
        np.testing.assert_allclose(several[1], solve(A[1], x[1], 0.5), rtol=0, atol=2.0**-46)

        def slope(gamma: Any) -> Any:
            return jax.grad(lambda gamma: (solve(A[0], x[0], gamma) ** 2).sum())(gamma)

        h = 2.0**-17  # differences are off by h² of the third derivative, and rounding over h
        difference = (slope(0.5 + h) - slope(0.5 - h)) / (2 * h)
        np.testing.assert_allclose(jax.grad(slope)(0.5), difference, rtol=1e-6, atol=0)


def test_what_does_not_fit_is_refused_by_name() -> None:
    A, x = np.zeros((3, 3), dtype=np.float32), np.zeros((2, 3), dtype=np.float32)
    for arguments, said in (
        ((A[:2], x, 0.5), r"^A: expected \(m, m\) with m ≥ 1, got \(2, 3\); use jax.vmap"),
        ((A[None], x, 0.5), r"^A: expected"),
        ((A, x[:, :2], 0.5), r"^x: expected \(n, 3\) to go with A, got \(2, 2\)"),
        ((A, x, np.ones(2)), r"^gamma: one problem takes one number, got shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=said):
            solve(*arguments)
    with pytest.raises(TypeError, match=r"cell: the fast reference solves the LinearSoftmaxCell, not .*'reference"):
        reference("fast", "jax").vjp(cells()["linear"], {"A": A, "U": A}, jax.numpy.asarray(x))
