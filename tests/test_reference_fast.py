"""The fast reference: against the oracle and the direct reference, its certificates, hand-overs, batches and errors."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from deqverify.cells import LinearSoftmaxCell
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Subject
from deqverify.oracle import Oracle
from deqverify.problem import SoftmaxProblem
from deqverify.reference import reference, solve
from deqverify.reference.fast import api, batched, buffers, lean, vjp
from deqverify.reference.fast.cost import METHODS
from deqverify.reference.fast.layer import FastLayer
from deqverify.reference.fast.system import System
from deqverify.registry import laws
from deqverify.theory.closed_form import ClosedForm, dobrushin
from deqverify.trial import Effort
from tests.examples import NEAR_ONE, gaussian, refined

UNIT = 2.0**-53
ITERATIVE = ("mass", "mixed", "mixedlu")
PATTERNS = {
    "identity": np.eye(24),
    "permutation": np.roll(np.eye(24), 1, axis=0),
    "blocks": np.kron(np.eye(2), np.ones((12, 12))),
}


def tensors(problem: SoftmaxProblem) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(problem.A), torch.tensor(problem.Phi.T.copy())


def truth(problem: SoftmaxProblem, cotangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Z and Λ by LU, both refined with residuals in ball arithmetic."""
    exact, oracle = ClosedForm(problem, cotangent), Oracle(problem)
    adjoint = exact.adjoint
    for _ in range(2):
        adjoint = adjoint + exact.solve_transposed(oracle.adjoint_residual(adjoint, cotangent))
    return refined(problem), adjoint


def gradients(function: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """z and the gradients of ``Σ z³`` by autograd."""
    wanted = [t.detach().requires_grad_() for t in inputs]
    z = function(*wanted)
    return (z.detach(), *torch.autograd.grad((z**3).sum(), wanted))


def plain(A: torch.Tensor, x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    U = torch.eye(A.shape[-1], dtype=A.dtype) - gamma.reshape(-1, *[1] * (A.ndim - 1)).squeeze() * torch.softmax(A, -2)
    return torch.linalg.solve(U, x.mT).mT


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("gamma", [0.5, 0.99, NEAR_ONE])
@pytest.mark.parametrize("m", [1, 6, 40, 150])
def test_the_answer_is_as_accurate_as_certified(method: Any, gamma: float, m: int) -> None:
    problem, accuracy = gaussian(m, 3, gamma, seed=m), 1e-8
    cotangent = gaussian(m, 3, gamma, seed=m + 1).Phi
    Z, adjoint = truth(problem, cotangent)
    answer, pull = vjp(*tensors(problem), gamma, accuracy=accuracy, method=method)
    found = pull(torch.tensor(cotangent.T.copy()))
    error = np.abs(answer.z.numpy().T - Z).sum(axis=0) / np.abs(Z).sum(axis=0)
    adjoint_error = np.abs(found.x.numpy().T - adjoint).max(axis=0) / np.abs(adjoint).max(axis=0)
    # A direct solve: a residual of (3m · growth + m + 8) u, growth at most 2 here, amplified by 1/(1−γ) at the most.
    rounding = 2 * (6 * m + m + 8) * UNIT / (1 - gamma)
    own = 4 * UNIT  # of the truth, stored in float64
    for measured, bound in ((error, answer.bound), (adjoint_error, found.bound)):
        assert np.all(measured <= (rounding if bound is None else bound.numpy()) + own)
        assert bound is None or np.all(bound.numpy() <= accuracy)
    assert (answer.status, found.status) == (Status.CONVERGED, Status.CONVERGED)


@pytest.mark.parametrize("method", ITERATIVE)
def test_near_one_each_method_certifies_what_an_lu_cannot(method: Any) -> None:
    problem = gaussian(128, 4, NEAR_ONE, seed=5)
    Z, _ = truth(problem, problem.Phi)
    answer, pull = vjp(*tensors(problem), NEAR_ONE, accuracy=1e-10, method=method)
    found = pull(tensors(problem)[1])
    assert answer.used == method
    assert answer.bound is not None
    assert found.bound is not None
    assert float(answer.bound.max()) <= 1e-10
    assert found.turns > 0
    assert answer.turns <= 20
    error = np.abs(answer.z.numpy().T - Z).sum(axis=0) / np.abs(Z).sum(axis=0)
    assert np.all(error <= answer.bound.numpy() + 4 * UNIT)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("method", [None, "mass", "mixed"])
def test_where_s_mixes_slowly_it_hands_over_or_stays_honest(pattern: str, method: Any) -> None:
    problem = gaussian(24, 3, NEAR_ONE, shift=20.0 * PATTERNS[pattern])
    Z, adjoint = truth(problem, problem.Phi)
    answer, pull = vjp(*tensors(problem), NEAR_ONE, accuracy=1e-10, method=method)
    found = pull(tensors(problem)[1])
    error = np.abs(answer.z.numpy().T - Z).sum(axis=0) / np.abs(Z).sum(axis=0)
    adjoint_error = np.abs(found.x.numpy().T - adjoint).max(axis=0) / np.abs(adjoint).max(axis=0)
    direct = 2 * (7 * 24 + 8) * UNIT / (1 - NEAR_ONE)  # as above
    assert answer.used == "lu"
    assert answer.bound is None
    assert np.all(error <= direct)
    assert np.all(adjoint_error <= direct)


def test_a_wrong_certificate_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate of a random matrix claimed for the identity: the bound is then a lie, and the oracle shows it."""
    problem = gaussian(24, 1, NEAR_ONE, shift=8.0 * PATTERNS["blocks"])
    Z, _ = truth(problem, problem.Phi)
    monkeypatch.setattr(System, "rate", lambda self: 0.5)
    answer, _ = vjp(*tensors(problem), NEAR_ONE, accuracy=1e-3, method="mass")
    error = np.abs(answer.z.numpy().T - Z).sum(axis=0) / np.abs(Z).sum(axis=0)
    assert answer.bound is not None
    assert np.all(error > answer.bound.numpy())


def test_the_rate_bounds_dobrushins_coefficient() -> None:
    for seed in range(30):
        m = 1 + seed % 12
        problem = gaussian(m, 1, 0.75, seed=seed, scale=1 + seed % 3)
        assert System(torch.tensor(problem.A), 0.75).rate() >= 0.75 * dobrushin(ClosedForm(problem).S)
    for pattern in PATTERNS.values():
        assert System(torch.tensor(50.0 * pattern), 0.75).rate() == pytest.approx(0.75, abs=1e-9)  # e⁻⁵⁰ · 24 off one


@pytest.mark.parametrize("method", [None, *METHODS])
def test_autograd_agrees_with_finite_differences(method: Any) -> None:
    A, x = tensors(gaussian(5, 3, 0.7))
    inputs = [t.requires_grad_() for t in (A, x, torch.tensor(0.7, dtype=torch.float64))]
    # torch's defaults: steps of 1e-6 and tolerances of 1e-3 relative, for O(1) quantities.
    assert torch.autograd.gradcheck(lambda *t: solve(*t, accuracy=1e-12, method=method), inputs)


@pytest.mark.parametrize(("m", "n"), [(1, 2), (16, 3), (lean.WIDEST + 8, 5)])
@pytest.mark.parametrize("method", [None, *METHODS])
def test_gradients_agree_with_autograd_through_a_plain_solve(m: int, n: int, method: Any) -> None:
    A, x = tensors(gaussian(m, n, 0.9))
    gamma = torch.tensor(0.9, dtype=torch.float64)
    ours = gradients(lambda *t: solve(*t, accuracy=1e-11, method=method), A, x, gamma)
    for found, expected in zip(ours, gradients(plain, A, x, gamma), strict=True):
        # 1e-11 in z and λ, λ being driven by 3z² (a factor 3), all amplified by 1/(1−γ) = 10; rounding is far below.
        assert (found - expected).abs().max() <= 1e-11 * 4 * 10 * (m * n) ** 0.5 * expected.abs().max() + 1e-13 * (
            m == 1
        )


def test_only_what_is_asked_is_computed_and_twice_is_refused() -> None:
    A, x = tensors(gaussian(200, 2, 0.9))
    for wanted in ("A", "x", "gamma"):
        inputs = {"A": A, "x": x, "gamma": torch.tensor(0.9, dtype=torch.float64)}
        inputs[wanted] = inputs[wanted].clone().requires_grad_()
        (alone,) = torch.autograd.grad(solve(**inputs).sum(), inputs[wanted])
        assert torch.isfinite(alone).all()
        assert alone.shape == inputs[wanted].shape
    leaf = A.clone().requires_grad_()
    for k in (1, 2):
        inputs = (leaf, x) if k == 1 else (leaf.expand(k, -1, -1), x.expand(k, -1, -1))
        with pytest.raises(RuntimeError, match="create_graph: solve is differentiable once"):
            torch.autograd.grad(solve(*inputs, 0.9).square().sum(), leaf, create_graph=True)


@pytest.mark.parametrize(("k", "m", "n"), [(0, 3, 1), (3, 5, 2), (70, 1, 1), (1100, 16, 1), (70, 16, 8), (70, 40, 2)])
@pytest.mark.parametrize("one_gamma", [True, False])
def test_many_problems_equal_each_alone(k: int, m: int, n: int, one_gamma: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    A, x = (torch.randn(k, *shape, generator=generator, dtype=torch.float64) for shape in ((m, m), (n, m)))
    gamma = torch.tensor(0.9, dtype=torch.float64) if one_gamma else torch.linspace(0.1, 0.9, k, dtype=torch.float64)
    found = gradients(solve, A, x, gamma)
    assert found[0].shape == x.shape
    assert found[3].shape == gamma.shape
    rounding = 200 * (m + 8) * UNIT  # a residual of 2 · 6m u or so, amplified by 1/(1−γ) = 10 in each of two passes
    total = 0.0
    for i in range(0, k, 97):
        each = gradients(plain, A[i], x[i], gamma if one_gamma else gamma[i])
        for part, alone in zip(found[:3], each[:3], strict=True):
            assert (part[i] - alone).abs().max() <= 10 * rounding * max(
                float(each[2].abs().max()), float(alone.abs().max())
            )
        if not one_gamma:
            assert abs(found[3][i] - each[3]) <= 10 * rounding * float((each[2].abs() * each[0].abs()).sum())
    if one_gamma and k:
        total = sum(float(gradients(plain, A[i], x[i], gamma)[3]) for i in range(k))
        assert float(found[3]) == pytest.approx(total, rel=100 * rounding)


def test_both_ways_of_many_agree_near_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    A = 3 * torch.randn(80, 12, 12, generator=generator, dtype=torch.float64)
    x = torch.rand(80, 2, 12, generator=generator, dtype=torch.float64)
    z = solve(A, x, NEAR_ONE)
    monkeypatch.setattr(batched, "WIDEST", 0)
    error = (solve(A, x, NEAR_ONE) - z).abs().sum(2) / z.abs().sum(2)
    assert float(error.max()) <= 2 * (7 * 12 + 8) * UNIT / (1 - NEAR_ONE)


def test_nan_leaves_neighbours_alone_and_overflow_is_not_called_converged() -> None:
    problem = gaussian(20, 3, 0.9)
    for method in (None, *METHODS):
        subject = Subject(reference("fast", *([method] if method else [])))
        poisoned = problem.x.copy()
        poisoned[1, 0] = np.nan
        solved, clean = subject.solve(problem, x=poisoned), subject.solve(problem)
        assert solved.status is Status.DIVERGED
        allowed = 1e-9 * np.abs(clean.z[[0, 2]]).sum(axis=1)  # both 1e-10 from the truth, 1/(1−γ) is in it already
        assert np.all(np.abs(solved.z[[0, 2]] - clean.z[[0, 2]]).sum(axis=1) <= allowed)
        large = problem.with_features(problem.Phi * 1e200)
        beyond = problem.with_features(np.minimum(np.abs(problem.Phi), 2.0) * 5e307)  # z is ten times as large
        assert subject.solve(large).status is Status.CONVERGED
        assert subject.solve(beyond).status is Status.DIVERGED


def test_buffers_are_used_again_and_never_handed_out() -> None:
    buffers.clear()
    A, x = tensors(gaussian(150, 2, 0.9))
    first, _ = vjp(A, x, 0.9, method="lu")
    kept = first.z.clone()
    for seed in range(3):
        vjp(*tensors(gaussian(150, 2, 0.9, seed=seed + 1)), 0.9, method="lu")
    assert torch.equal(first.z, kept)
    answer, pull = vjp(A, x, 0.9, method="lu")
    gradient = pull(x).A
    assert gradient is not None
    before = gradient.clone()
    del answer, pull
    vjp(*tensors(gaussian(150, 2, 0.5, seed=9)), 0.5, method="lu")
    assert torch.equal(gradient, before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"A": np.eye(2)}, TypeError, "A: expected a torch tensor"),
        ({"A": torch.eye(2, dtype=torch.int64)}, TypeError, "A: expected float64 or float32"),
        ({"A": torch.zeros(2, 3, dtype=torch.float64)}, ValueError, r"A: expected \(m, m\)"),
        ({"x": torch.zeros(4, 3, dtype=torch.float64)}, ValueError, r"x: expected \(n, 2\)"),
        ({"x": torch.zeros(4, 2)}, TypeError, "x: torch.float32 on cpu, but A is torch.float64"),
        ({"gamma": 1.0}, ValueError, "gamma: must lie strictly between 0 and 1"),
        ({"gamma": torch.tensor([0.5, 0.6])}, ValueError, "gamma: one problem takes one number"),
        ({"accuracy": 0.0}, ValueError, "accuracy: must lie strictly between 0 and 1"),
        ({"method": "qr"}, ValueError, "method: use one of lu, mass, mixed, mixedlu"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"A": torch.eye(2, dtype=torch.float64), "x": torch.ones(4, 2, dtype=torch.float64), "gamma": 0.5}
    with pytest.raises(error, match=message):
        solve(**(given | change))


def test_errors_of_batches_and_options() -> None:
    A, x = torch.zeros(3, 2, 2, dtype=torch.float64), torch.ones(3, 1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="gamma: expected a number or one a problem"):
        solve(A, x, torch.tensor([0.5, 0.6], dtype=torch.float64))
    with pytest.raises(ValueError, match="method: many problems at once"):
        solve(A, x, 0.5, method="mass")
    with pytest.raises(ValueError, match="A: one problem"):
        vjp(A, x, 0.5)
    with pytest.raises(ValueError, match=r"reference\[fast\] has no option 'numpy'"):
        reference("fast", "numpy")


@pytest.mark.parametrize(
    "options", [("fast",), ("fast", "lu"), ("fast", "mass"), ("fast", "mixed"), ("fast", "batched")]
)
@pytest.mark.parametrize("id", ["enclosure", "gradient-x", "status-nan", "answers-kept"])
def test_the_laws_hold(id: str, options: tuple[str, ...]) -> None:
    law, subject = laws()[id], Subject(reference(*options))
    if law.missing(subject):
        pytest.skip(str(law.missing(subject)))
    trial = law.trial(subject, Effort(15, seconds=60, seed=0))
    assert trial.error is None, trial.error
    assert trial.failure is None, trial.failure


def test_another_cell_is_refused() -> None:
    for options in (("fast",), ("fast", "batched")):
        with pytest.raises(TypeError, match=r"^cell: the fast reference solves the LinearSoftmaxCell"):
            reference(*options).vjp(object(), {}, torch.ones(1, 1))


def test_the_factor_of_many_problems_is_refused_by_name() -> None:
    A, x = torch.zeros(3, 2, 2, dtype=torch.float64), torch.ones(3, 1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^gamma: expected a number or one a problem, \(3,\), got \(2,\)"):
        solve(A, x, torch.full((2,), 0.5, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"^gamma: torch.float32 on cpu, but A is torch.float64"):
        solve(A, x, torch.full((3,), 0.5))
    with pytest.raises(ValueError, match=r"^gamma: must lie strictly between 0 and 1, got 0.5 to 1.0$"):
        solve(A, x, torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64))
    none = solve(A[:0], x[:0], torch.zeros(0, dtype=torch.float64))
    assert none.shape == (0, 1, 2)


def test_a_gradient_that_is_asked_for_alone_is_the_same() -> None:
    A, x = tensors(gaussian(12, 3, 0.5))
    for method in METHODS:
        _, pull = vjp(A, x, 0.5, method=method)
        everything = pull(torch.ones_like(x))
        assert everything.A is not None
        assert everything.gamma is not None
        leaf = x.clone().requires_grad_()
        solve(A, leaf, 0.5, method=method).sum().backward()
        assert torch.allclose(leaf.grad, everything.x, rtol=1e-9, atol=0)  # both are certified to 1e-10
        weights = A.clone().requires_grad_()
        solve(weights, x, 0.5, method=method).sum().backward()
        # 1e-10 in z and in Λ each, carried through products of twelve
        assert (weights.grad - everything.A).abs().max() <= 1e-8 * everything.A.abs().max()


def test_a_layer_at_a_tolerance_claims_it_and_stops_earlier() -> None:
    generator = np.random.default_rng(0)
    theta = {"A": torch.tensor(generator.normal(size=(24, 24))), "gamma": torch.tensor(0.9, dtype=torch.float64)}
    x = torch.tensor(generator.normal(size=(5, 24)))
    tight = FastLayer("mass")
    loose = tight.at_tolerance(1e-3)
    assert (loose.name, loose.claims.forward.rtol, loose.claims.backward.rtol) == (tight.name, 1e-3, 1e-3)
    (few, _), (many, _) = (layer.vjp(LinearSoftmaxCell(), theta, x) for layer in (loose, tight))
    assert 0 < few.iterations < many.iterations


@pytest.mark.parametrize("method", ["lu", "mass", None])
def test_a_graph_that_is_dropped_is_freed_at_once(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for Python's garbage collection: it counts objects, and a factorisation is one."""
    kept: list[Any] = []
    solved = api.solver

    def watched(*arguments: Any) -> Any:
        answer = solved(*arguments)
        kept.append(weakref.ref(answer))
        return answer

    monkeypatch.setattr(api, "solver", watched)
    A = torch.eye(4, dtype=torch.float64, requires_grad=True)
    gc.disable()
    try:
        z = solve(A, torch.ones(2, 4, dtype=torch.float64), 0.5, method=method)
        torch.autograd.grad(z.sum(), A)
        del z
        assert [alive() for alive in kept] == [None]
    finally:
        gc.enable()
