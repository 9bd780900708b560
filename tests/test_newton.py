"""The reference for any cell: exact to rounding, its adjoint dense, its statuses honest, in three frameworks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from deqverify.cells import Parts, cells
from deqverify.cells.arithmetic import gate, relu
from deqverify.dtypes import dtype as known_dtype
from deqverify.frameworks import framework
from deqverify.implementations.protocol import Layer, Status
from deqverify.implementations.subject import Subject
from deqverify.reference import reference
from deqverify.registry import laws
from deqverify.theory.closed_form import ClosedForm
from deqverify.trial import Effort
from tests.examples import random_problem
from tests.test_frameworks import HERE
from tests.tokens import CELL as TOKENS
from tests.tokens import instance

TANH = cells()["tanh"]


def dense(seed: int = 0, rate: float = 0.9, m: int = 4, n: int = 3) -> tuple[dict[str, Any], Any]:
    generator = np.random.default_rng(seed)
    W = generator.normal(size=(m, m))
    W *= rate / np.abs(W).sum(axis=1).max()
    return {"W": W, "U": generator.normal(size=(m, 2)), "b": generator.normal(size=m)}, generator.normal(size=(n, 2))


def asked(name: str, cell: Any, theta: Any, x: Any, dtype: str = "float64", z0: Any = None, layer: Any = None) -> Any:
    """The layer's solution and pull, for NumPy arrays."""
    bridge = framework(name)
    native = {key: bridge.native(value, dtype, "cpu") for key, value in theta.items()}
    start = None if z0 is None else bridge.native(z0, dtype, "cpu")
    solution, pull = (layer or reference("newton", name)).vjp(cell, native, bridge.native(x, dtype, "cpu"), start)
    return solution, lambda c: pull(bridge.native(c, dtype, "cpu"))


CASES: dict[str, Callable[[], tuple[Any, Any, Any]]] = {
    "tanh": lambda: (TANH, *dense()),
    "tanh near one": lambda: (TANH, *dense(rate=1 - 1e-6)),
    "tokens": lambda: (TOKENS, *instance()),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("name", HERE)
def test_the_residual_is_that_of_rounding(name: str, case: str, dtype: str) -> None:
    cell, theta, x = CASES[case]()
    bridge, u = framework(name), known_dtype(dtype).unit_roundoff
    theta, x = ({k: v.astype(dtype).astype(float) for k, v in theta.items()}, x.astype(dtype).astype(float))
    solution, _ = asked(name, cell, theta, x, dtype)
    assert solution.status is Status.CONVERGED
    assert solution.statuses == [Status.CONVERGED] * 3
    assert bridge.kind(solution.z) == (dtype, "cpu")
    assert solution.iterations <= 12
    z = bridge.to_numpy(solution.z)
    # One evaluation of f in the dtype: at most 8 products and tanh, the rest of it at slope one; evaluated in float64.
    terms = np.abs(theta["W"]).sum() + np.abs(theta["U"]).sum() * np.abs(x).max() + 2.0
    assert np.abs(cell.step(theta, x)(z) - z).max() <= 16 * max(u, 2.0**-53) * terms


@pytest.mark.parametrize("name", HERE)
def test_a_linear_cell_is_solved_as_the_closed_form_has_it(name: str) -> None:
    problem = next(p for p in map(random_problem, range(100)) if p.m > 2 and p.n > 1)
    c = np.random.default_rng(0).normal(size=problem.Phi.T.shape)
    exact, cell = ClosedForm(problem, c.T), cells()["linear-softmax"]
    solution, pull = asked(name, cell, {"A": problem.A, "gamma": problem.gamma}, problem.Phi.T)
    bridge, found = framework(name), pull(c)
    # LU of a matrix of condition at most 2m/(1−γ): m³u times that.
    allowed = 2 * problem.m**4 * 2.0**-53 / (1.0 - problem.gamma)
    assert np.abs(bridge.to_numpy(solution.z).T - exact.Z).max() <= allowed * np.abs(exact.Z).max()
    assert np.abs(bridge.to_numpy(found.x).T - exact.adjoint).max() <= allowed * np.abs(exact.adjoint).max()
    assert found.status is Status.CONVERGED


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("name", HERE)
def test_the_pull_is_what_autograd_gives_through_many_steps(name: str, case: str) -> None:
    cell, theta, x = CASES[case]()
    c = np.random.default_rng(1).normal(size=(x.shape[0], *cell.state(theta, x.shape[1:])))
    solution, pull = asked(name, cell, theta, x)
    bridge, found = framework(name), pull(c)
    leaves = {key: torch.tensor(value).requires_grad_() for key, value in theta.items()}
    inputs = torch.tensor(x).requires_grad_()
    z = torch.tensor(bridge.to_numpy(solution.z))
    for _ in range(300):  # slopes of tanh are below one: the rate at z* is far from ‖W‖_∞
        z = cell.step(leaves, inputs)(z)
    wanted = torch.autograd.grad(z, (*leaves.values(), inputs), torch.tensor(c))
    got = [*(found.theta[key] for key in leaves), found.x]
    for g, w in zip(got, wanted, strict=True):
        # Unrolled sums of 300 terms against one solve, both in float64: far below 1e-9 of the largest entry.
        np.testing.assert_allclose(bridge.to_numpy(g), w.numpy(), rtol=0, atol=1e-9 * float(w.abs().max()))


@pytest.mark.parametrize("name", HERE)
def test_the_derivative_along_a_tangent_is_the_pulls_transpose(name: str) -> None:
    cell, theta, x = CASES["tokens"]()
    generator, bridge = np.random.default_rng(2), framework(name)
    native = {k: bridge.native(v, "float64", "cpu") for k, v in theta.items()}
    d = {k: generator.normal(size=v.shape) for k, v in theta.items()}
    dx, c = generator.normal(size=x.shape), generator.normal(size=(3, 2, 3))
    along = {k: bridge.native(v, "float64", "cpu") for k, v in d.items()}, bridge.native(dx, "float64", "cpu")
    _, dz = reference("newton", name).jvp(cell, native, bridge.native(x, "float64", "cpu"), along)
    found = asked(name, cell, theta, x)[1](c)
    pulled = sum(np.sum(bridge.to_numpy(found.theta[k]) * d[k]) for k in d) + np.sum(bridge.to_numpy(found.x) * dx)
    # ⟨c, dz⟩ = ⟨pull(c), d⟩: sums of about 70 products of size one, amplified by at most 5.
    assert np.sum(bridge.to_numpy(dz) * c) == pytest.approx(pulled, rel=1e-10)


@pytest.mark.parametrize("name", HERE)
def test_a_start_whose_square_is_no_number_any_more_is_not_taken_for_the_equilibrium(name: str) -> None:
    """1e-170: the 2-norm of its residual underflows unless scaled. First seen on a GPU, whose rounding led there."""
    cell, theta, _ = CASES["tanh"]()
    still = {**theta, "b": np.zeros(4)}
    found, _ = asked(name, cell, still, np.zeros((1, 2)), z0=np.array([[0.0, -1e-170, 0.0, 5e-171]]))
    assert found.status is Status.CONVERGED
    # The equilibrium is zero; Newton's step from a start so small is exact up to rounding, and a second one takes that.
    assert np.abs(framework(name).to_numpy(found.z)).max() <= 1e-200


@pytest.mark.parametrize("name", HERE)
def test_starts_are_accepted_and_no_gradient_reaches_them(name: str) -> None:
    cell, theta, x = CASES["tanh"]()
    plain, _ = asked(name, cell, theta, x)
    bridge = framework(name)
    far, _ = asked(name, cell, theta, x, z0=np.full((3, 4), 50.0))
    again, _ = asked(name, cell, theta, x, z0=bridge.to_numpy(plain.z))
    assert again.iterations <= 1
    # Each residual is rounding, at most 1e-15 · 16, times 1/(1 − 0.9).
    np.testing.assert_allclose(bridge.to_numpy(far.z), bridge.to_numpy(plain.z), rtol=0, atol=1e-12)
    native = {k: bridge.native(v, "float64", "cpu") for k, v in theta.items()}
    z0 = bridge.native(np.ones((3, 4)), "float64", "cpu")
    zero = reference("newton", name).start_gradient(cell, native, bridge.native(x, "float64", "cpu"), z0, z0)
    np.testing.assert_array_equal(bridge.to_numpy(zero), np.zeros((3, 4)))


def test_a_cap_that_binds_is_reported_and_one_that_does_not_is_not() -> None:
    cell, theta, x = CASES["tanh"]()
    for cap in range(8):
        layer = reference("newton", "numpy").limited(cap)
        solution, _ = asked("numpy", cell, theta, x, layer=layer)
        residual = np.abs(cell.step(theta, x)(solution.z) - solution.z).max()
        assert solution.iterations == cap or solution.status is Status.CONVERGED
        # Newton's residuals fall from 1e-5 to 1e-12 in one step: nothing lies between. At the cap itself nobody looks.
        assert solution.status is not Status.CONVERGED or residual < 1e-14
        assert solution.status in (Status.CONVERGED, Status.CAPPED)
    assert solution.status is Status.CONVERGED


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_converged_under_a_cap_is_what_no_cap_would_have_bettered(dtype: str) -> None:
    cell, seen = cells()["sigmoid"], set()
    for seed in range(40):
        theta, x = dense(seed, rate=3.0, m=1, n=1)
        best, _ = asked("numpy", cell, theta, x, dtype)
        for cap in range(7):
            found, _ = asked("numpy", cell, theta, x, dtype, layer=reference("newton", "numpy").limited(cap))
            seen.add(found.status)
            assert found.status is not Status.CONVERGED or found.z == best.z
    assert seen == {Status.CONVERGED, Status.CAPPED}


def test_a_data_point_that_is_not_finite_is_said_and_leaves_the_others_alone() -> None:
    for name in HERE:
        cell, theta, x = CASES["tokens"]()
        clean, _ = asked(name, cell, theta, x)
        x[1] = np.nan
        solution, _ = asked(name, cell, theta, x)
        bridge = framework(name)
        assert solution.status is Status.DIVERGED
        assert solution.statuses == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
        z, whole = bridge.to_numpy(solution.z), bridge.to_numpy(clean.z)
        assert np.isnan(z[1]).all()
        # The same steps; products in another order may round otherwise.
        np.testing.assert_allclose(z[[0, 2]], whole[[0, 2]], rtol=0, atol=1e-13)


@dataclass(frozen=True)
class Affine:
    """``f(z) = wz + x`` for states of one number: no equilibrium at w = 1, x ≠ 0."""

    name: ClassVar[str] = "affine"
    kink: bool = False

    def state(self, theta: Any, inputs: Any) -> Any:
        return inputs

    def step(self, theta: Any, x: Any) -> Any:
        return lambda z: relu(theta["w"] * z + x) if self.kink else theta["w"] * z + x

    def certificate(self, theta: Any) -> None:
        return None

    def pull(self, theta: Any, x: Any, z: Any, cotangent: Any) -> Parts:
        v = cotangent * gate(theta["w"] * z + x) if self.kink else cotangent
        return Parts({"w": (v * z).sum()}, v, theta["w"] * v)

    def push(self, theta: Any, x: Any, z: Any, tangent: Parts) -> Any:
        raise NotImplementedError("not asked for here")

    def draw(self, draw: Any, dtype: str, n: int) -> Any:
        raise NotImplementedError("not drawn")


@pytest.mark.parametrize("name", HERE)
def test_where_there_is_no_equilibrium_nothing_is_claimed(name: str) -> None:
    theta, x = {"w": np.asarray(1.0)}, np.array([[1.0], [0.0]])
    solution, pull = asked(name, Affine(), theta, x)
    # I − J is singular in both; the second data point stands at an equilibrium from the start.
    assert solution.statuses == [Status.CAPPED, Status.CONVERGED]
    assert solution.status is Status.CAPPED
    assert pull(np.ones((2, 1))).status is Status.DIVERGED


@pytest.mark.parametrize("start", [-8.0, 0.0, 8.0])
def test_kinks_are_left_behind(start: float) -> None:
    """``z = relu(−3z + x)``: x/4 where x > 0, and 0 elsewhere; no contraction, so that Picard's iteration diverges."""
    x = np.array([[2.0], [-2.0], [1e-3]])
    solution, pull = asked("numpy", Affine(kink=True), {"w": np.asarray(-3.0)}, x, z0=np.full((3, 1), start))
    assert solution.status is Status.CONVERGED
    np.testing.assert_allclose(solution.z, [[0.5], [0.0], [0.00025]], rtol=4 * 2.0**-53, atol=0)
    np.testing.assert_allclose(pull(np.ones((3, 1))).x, [[0.25], [0.0], [0.25]], rtol=4 * 2.0**-53)


def test_the_last_bit_of_a_linear_problem() -> None:
    """``z = x/(1 − w)`` in exact arithmetic, for a w close to one."""
    w, x = 1.0 - 2.0**-20, 0.7
    solution, _ = asked("numpy", Affine(), {"w": np.asarray(w)}, np.array([[x]]))
    exact = Fraction(x) / (1 - Fraction(w))
    # The residual may be that of one rounding of wz + x, half a unit of z's last place: times 1/(1−w) = 2^20.
    assert abs(Fraction(float(solution.z[0, 0])) - exact) <= 2**20 * exact * Fraction(2.0**-52)


@pytest.mark.parametrize("name", HERE)
def test_no_data_and_one_state_are_legal(name: str) -> None:
    cell, theta, x = CASES["tanh"]()
    bridge = framework(name)
    solution, pull = asked(name, cell, theta, x[:0])
    found = pull(np.zeros((0, 4)))
    assert (tuple(solution.z.shape), solution.status, solution.statuses) == ((0, 4), Status.CONVERGED, [])
    assert not any(bridge.to_numpy(value).any() for value in found.theta.values())
    one, _ = asked(name, cell, {"W": [[0.5]], "U": [[1.0]], "b": [0.0]}, np.zeros((1, 1)))
    assert bridge.to_numpy(one.z).tolist() == [[0.0]]


def test_options() -> None:
    assert reference("newton").framework == "torch"
    assert reference("jax", "newton").framework == "jax"
    assert isinstance(reference("newton", "numpy"), Layer)
    for method in ("picard", "mass"):
        with pytest.raises(ValueError, match=rf"reference\[{method}\] is not written for jax"):
            reference("jax", method)
    with pytest.raises(ValueError, match="one of newton and picard"):
        reference("newton", "picard")


QUICK = ("existence", "restart", "euler", "adjoint-certificate", "adjoint-identity", "status-cap",
         "status-nan", "memory-layout", "batch-of-one", "empty-batch")  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("law", QUICK)
def test_no_law_rejects_it(law: str, name: str, dtype: str) -> None:
    subject = Subject(reference("newton", name), dtype)
    trial = laws()[law].trial(subject, Effort(10, 20.0, seed=0))
    assert (trial.failure, trial.error, trial.crashed, trial.reported) == (None, None, 0, 0)
    assert trial.informative


def test_a_graph_on_the_inputs_does_not_matter() -> None:
    cell, theta, x = CASES["tanh"]()
    leaves = {k: torch.tensor(v).requires_grad_() for k, v in theta.items()}
    solution, pull = reference("newton").vjp(cell, leaves, torch.tensor(x).requires_grad_())
    assert not solution.z.requires_grad
    assert not pull(torch.ones(3, 4, dtype=torch.float64)).x.requires_grad


@pytest.mark.skipif("jax" not in HERE, reason="JAX is not installed")
def test_few_sizes_of_a_batch_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge, sizes = framework("jax"), set[int]()
    compiled = bridge.compiled

    def recording(function: Any) -> Any:
        def called(cell: Any, theta: Any, x: Any, *others: Any) -> Any:
            sizes.add(len(x))
            assert all(len(other) == len(x) for other in others)
            return compiled(function)(cell, theta, x, *others)

        return called

    monkeypatch.setattr(bridge, "compiled", recording)
    for n in (1, 2, 3, 4, 5):
        theta, x = dense(n=n)
        solution, pull = asked("jax", TANH, theta, x)
        assert (solution.z.shape, pull(np.ones((n, 4))).x.shape) == ((n, 4), (n, 2))
    assert sizes == {4, 8}
