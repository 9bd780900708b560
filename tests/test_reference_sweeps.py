"""The sweeps of the iterative reference by hand: norms, certificates, corrections, the rate; options and reports."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

import deqverify.reference.iterative as iterative
from deqverify.cells import Contraction, LinearSoftmaxCell
from deqverify.claims import DIRECT, Accuracy
from deqverify.frameworks import framework
from deqverify.implementations.protocol import Status
from deqverify.reference import METHODS, reference
from deqverify.reference.iterative import MassCorrectedLayer, PicardLayer, iterate
from deqverify.reference.numpy_direct import NumpyDirect
from deqverify.reference.sweeps import MassCorrected, Picard, max_norm, one_norm, unit_roundoff, zero_mass_rate
from deqverify.theory.closed_form import ClosedForm
from tests.examples import random_problem

UNIT = 2.0**-53
GAMMA = 0.75
CELL = LinearSoftmaxCell()


def stochastic(m: int, seed: int = 0) -> np.ndarray:
    S = np.random.default_rng(seed).random((m, m))
    return S / S.sum(axis=0)


def test_norms_and_roundings_by_hand() -> None:
    r = [[1.0, -2.0, 0.5, 0.0], [0.0, 0.0, -4.0, 0.0]]
    for native in (np.asarray(r), torch.tensor(r, dtype=torch.float64)):
        assert one_norm(native).tolist() == [3.5, 4.0]
        assert max_norm(native).tolist() == [4.0, 8.0]
        assert unit_roundoff(native) == UNIT
    assert max_norm(np.ones((1, 9))).tolist() == [3.0]
    assert unit_roundoff(np.zeros((1, 1), dtype=np.float32)) == 2.0**-24
    assert unit_roundoff(torch.zeros((1, 1), dtype=torch.bfloat16)) == 2.0**-8


def test_a_sweep_may_stop_when_certified_or_at_its_floor() -> None:
    m, n = 4, 3
    rng = np.random.default_rng(0)
    K, x, z, candidate, r = GAMMA * stochastic(m), *rng.normal(size=(4, n, m))
    mass = MassCorrected(K, GAMMA, 0.5)
    for sweep, rate, doubts in (
        (Picard(K, GAMMA).forward(x), GAMMA, np.zeros(n)),
        (Picard(K, GAMMA).adjoint(x), GAMMA, np.zeros(n)),
        (mass.forward(x), 0.5, 4 * (m + 2) * UNIT * np.abs(x).sum(axis=1) / (1 - GAMMA)),
        (mass.adjoint(x), GAMMA, np.zeros(n)),
    ):
        assert np.all(np.abs(sweep.doubt - doubts) <= 8 * UNIT * doubts)
        for tolerance in (1e-3, 1e-13, 1e-15, 0.0):
            for i in range(n):
                f = sum(abs(float(candidate[i, k] + r[i, k])) for k in range(m))
                floor = 0.5 * UNIT * (m + 8) * float(sweep.norm(z)[i] + sweep.norm(x)[i])
                certified = (1 - rate) * (tolerance * f / m**0.5 - doubts[i])
                found = float(sweep.allowed(z, candidate, r, tolerance)[i])
                assert abs(found - max(certified, floor)) <= 20 * UNIT * (max(certified, floor) + doubts[i])


def test_picard_sweeps_are_the_two_equations() -> None:
    K, x, z = GAMMA * stochastic(3), *np.random.default_rng(0).normal(size=(2, 2, 3))
    forward, adjoint = Picard(K, GAMMA).forward(x), Picard(K, GAMMA).adjoint(x)
    for i in range(2):
        assert np.abs(forward.step(z)[i] - (K @ z[i] + x[i])).max() <= 16 * UNIT * np.abs(z).sum()
        assert np.abs(adjoint.step(z)[i] - (K.T @ z[i] + x[i])).max() <= 16 * UNIT * np.abs(z).sum()
    assert (forward.norm, adjoint.norm) == (one_norm, max_norm)
    f = forward.step(z)
    assert forward.correct(f) is f
    candidate, r = forward.complete(z, f)
    assert candidate is z
    assert np.array_equal(r, f - z)


def test_the_corrected_state_has_the_mass_of_the_equilibrium() -> None:
    K, x, f = GAMMA * stochastic(5), *np.random.default_rng(0).normal(size=(2, 3, 5))
    sweep = MassCorrected(K, GAMMA, 0.5).forward(x)
    size = np.abs(x).sum() / (1 - GAMMA) + np.abs(f).sum()
    corrected = sweep.correct(f)
    assert np.abs(corrected.sum(axis=1) - x.sum(axis=1) / (1 - GAMMA)).max() <= 16 * UNIT * size
    assert np.ptp(corrected - f, axis=1).max() <= 8 * UNIT * size  # by the same amount everywhere
    assert np.abs(sweep.step(f) - (f @ K.T + x)).max() <= 16 * UNIT * size


def test_the_completed_adjoint_leaves_the_residual_that_is_reported() -> None:
    K, c, v = GAMMA * stochastic(5), *np.random.default_rng(0).normal(size=(2, 3, 5))
    sweep = MassCorrected(K, GAMMA, 0.5).adjoint(c)
    candidate, r = sweep.complete(v, sweep.step(v))
    size = (np.abs(c) + np.abs(v)).sum() / (1 - GAMMA)
    assert np.abs(c + candidate @ K - candidate - r).max() <= 32 * UNIT * size
    assert np.abs(r.max(axis=1) + r.min(axis=1)).max() <= 16 * UNIT * size  # centred: nothing constant is left
    centred = sweep.correct(v)
    assert np.abs(centred.max(axis=1) + centred.min(axis=1)).max() <= 8 * UNIT * size
    assert np.ptp(centred - v, axis=1).max() <= 8 * UNIT * size


def test_the_rate_is_the_lesser_of_its_two_bounds() -> None:
    lesser = set()
    for m in (1, 2, 3, 4, 7, 20):
        for seed in range(6):
            S = stochastic(m, seed) ** (1 + seed % 3)
            K = GAMMA * S / S.sum(axis=0)
            doeblin = GAMMA - sum(min(K[i]) for i in range(m))
            middle = [sorted(K[i])[m // 2] for i in range(m)]
            median = max(sum(abs(K[i, j] - middle[i]) for i in range(m)) for j in range(m))
            lesser.add(doeblin < median)
            assert abs(zero_mass_rate(K, GAMMA) - max(0.0, min(doeblin, median))) <= 4 * m * UNIT
            assert abs(zero_mass_rate(torch.tensor(K), GAMMA) - zero_mass_rate(K, GAMMA)) <= 4 * m * UNIT
    assert lesser == {True, False}
    same = np.full((3, 3), 0.25)  # all columns alike: one sweep is enough
    assert zero_mass_rate(same, GAMMA) == 0.0


def test_there_is_a_rate_only_for_stochastic_columns() -> None:
    K = np.full((2, 2), 0.25)  # γ = ½: column sums may be off by 2 (m + 4) u γ = 6·2⁻⁵³
    for off, known in ((5, True), (6, True), (7, False), (-6, True), (-7, False)):
        moved = K.copy()
        moved[0, 1] += off * 2.0**-53
        assert np.isfinite(zero_mass_rate(moved, 0.5)) == known
    assert zero_mass_rate(np.array([[0.75, 0.25], [-0.25, 0.25]]), 0.5) == np.inf
    assert zero_mass_rate(np.array([[0.5, 0.0], [0.0, 0.5]]), 0.5) == 0.5


def test_an_iteration_reports_products_residuals_and_the_state_they_belong_to() -> None:
    K, x = 0.5 * stochastic(3), np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    sweep = Picard(K, 0.5).forward(x)
    start = np.zeros((2, 3))
    found = iterate(sweep, start, 1e-3, 100)
    assert not start.any()
    assert found.status is Status.CONVERGED
    assert found.trace is not None
    assert found.iterations == len(found.trace)
    residuals = np.abs(sweep.step(found.z) - found.z).sum(axis=1)
    assert found.residual == found.trace[-1] == residuals.max()
    assert found.trace[0] == 1.0  # ‖x‖₁ at z₀ = 0
    capped = iterate(sweep, start, 1e-3, 2)
    assert (capped.status, capped.iterations) == (Status.CAPPED, 2)
    assert np.array_equal(capped.z[0], x[0])  # one sweep from zero
    with pytest.raises(ValueError, match=r"^max_iterations: a residual costs one iteration, got 0$"):
        iterate(sweep, start, 1e-3, 0)
    assert iterate(sweep, start, 1e-3, 1).status is Status.CAPPED
    empty = iterate(Picard(K, 0.5).forward(x[:0]), start[:0], 1e-3, 5)
    assert (empty.status, empty.iterations, empty.residual) == (Status.CONVERGED, 1, 0.0)


def test_a_data_point_that_is_done_stays_as_it_is() -> None:
    K, x = 0.5 * stochastic(3), np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 1e-3]])
    sweep = Picard(K, 0.5).forward(x)
    solved = np.linalg.solve(np.eye(3) - K, x[0])
    together = iterate(sweep, np.stack([solved, np.zeros(3)]), 1e-6, 100)
    assert np.array_equal(together.z[0], solved)
    assert together.trace is not None
    assert together.trace[1] < 1.1e-3  # of the one that still moves
    assert np.array_equal(together.z[1], iterate(Picard(K, 0.5).forward(x[1:]), np.zeros((1, 3)), 1e-6, 100).z[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_diverges_alone(bad: float) -> None:
    K, x = 0.5 * stochastic(3), np.ones((2, 3))
    x[1, 0] = bad
    with np.errstate(invalid="ignore"):
        found = iterate(Picard(K, 0.5).forward(x), np.zeros((2, 3)), 1e-6, 100)
    assert found.status is Status.DIVERGED
    assert np.isfinite(found.z[0]).all()
    assert np.isnan(found.z[1]).all()


ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("options", [(), ("numpy",), ("picard",), ("numpy", "mass"), ("mass",)])
def test_claims_say_where_they_are_made_and_what_is_used(options: tuple[str, ...]) -> None:
    layer = reference(*options)
    claims = layer.claims
    assert Path(claims.where) == Path(inspect.getfile(type(layer))).relative_to(ROOT)
    iterates = bool({"picard", "mass"} & set(options))
    method = ",".join(option for option in options if option != "torch")
    named = {
        "": "reference",
        "numpy": "reference[numpy]",
        "picard": "reference[picard]",
        "numpy,mass": "reference[mass]",
    }
    assert layer.name == named.get(method, "reference[mass]")
    assert layer.framework == ("numpy" if "numpy" in options else "torch")
    assert claims.starts is iterates
    assert claims.forward == claims.backward == (Accuracy(1e-10) if iterates else DIRECT)


def test_the_direct_layer_in_torch_claims_the_halves_it_computes_in_float32() -> None:
    claims = reference().claims
    assert claims.dtypes == ("float64", "float32", "float16", "bfloat16")
    assert claims.computes_in == {"float16": "float32", "bfloat16": "float32"}
    assert claims.devices == ("cpu", "cuda")
    assert claims.second_order is True


def test_options_are_refused_by_name() -> None:
    known = ", ".join(("torch", "numpy", "jax", *METHODS, "bits=8", "straight-through", "fast", "worst"))
    with pytest.raises(ValueError, match=f"^reference has no option 'tinygrad'; use some of {known}$"):
        reference("tinygrad")
    with pytest.raises(ValueError, match=r"^reference takes one of numpy and torch, not both$"):
        reference("torch", "numpy")
    assert reference("numpy", "numpy").framework == "numpy"


def test_a_lowered_cap_is_never_raised() -> None:
    layer = PicardLayer("numpy", max_iterations=10)
    assert layer.limited(3).max_iterations == 3
    assert layer.limited(30).max_iterations == 10
    assert layer.max_iterations == 10
    assert PicardLayer("numpy").max_iterations == iterative.MAX_ITERATIONS == 1000
    assert (PicardLayer("torch").tolerance, PicardLayer("torch").trace) == (1e-10, False)
    told = MassCorrectedLayer(NumpyDirect(), 1e-6, 7, trace=True)
    assert (told.tolerance, told.max_iterations, told.trace, told.framework) == (1e-6, 7, True, "numpy")
    assert told.claims.forward == told.claims.backward == Accuracy(1e-6)
    default = MassCorrectedLayer(NumpyDirect())
    assert (default.tolerance, default.max_iterations, default.trace) == (1e-10, 1000, False)


@pytest.mark.parametrize("norm", ["2", "max"])
def test_a_cell_without_the_1_norm_is_refused_by_both(norm: Literal["2", "max"]) -> None:
    class Other(LinearSoftmaxCell):
        def certificate(self, theta: Any) -> Contraction:
            return Contraction(0.5, norm)

    said = rf"^cell: the iterations are certified by a contraction in the 1-norm, not by .*{norm}"
    theta, x = {"A": np.zeros((2, 2)), "gamma": np.array(0.5)}, np.ones((1, 2))
    for layer in (PicardLayer("numpy"), MassCorrectedLayer(NumpyDirect())):
        with pytest.raises(ValueError, match=said):
            layer.vjp(Other(), theta, x)


def theta_of(A: np.ndarray, gamma: float, native: Any = np.asarray) -> dict[str, Any]:
    return {"A": native(A), "gamma": native(gamma)}


@pytest.mark.parametrize("native", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_handing_over_is_reported_with_the_residual_of_the_direct_solve(native: Any) -> None:
    framework = "numpy" if native is np.asarray else "torch"
    direct: Any = reference(framework)
    x = native(np.array([[1.0, 2.0, -1.0], [0.5, 0.0, 0.0]]))
    for gamma, hands_over in ((0.999, True), (0.75, False)):
        theta = theta_of(20.0 * np.eye(3), gamma, native)
        layer = MassCorrectedLayer(direct, trace=True)
        solution, pull = layer.vjp(CELL, theta, x)
        assert (solution.iterations == 0) is hands_over
        r = np.abs(np.asarray(solution.z @ CELL.matrix(theta).T + x - solution.z)).sum(axis=1)
        rounding = 8 * 8 * UNIT * 4 / (1 - gamma)  # of the residual's own evaluation, at the size of z
        assert solution.residual is not None
        assert abs(solution.residual - r.max()) <= rounding
        assert solution.trace is not None
        assert not hands_over or solution.trace == [solution.residual]
        assert pull(x).status is Status.CONVERGED
        assert MassCorrectedLayer(direct).vjp(CELL, theta, x)[0].trace is None
        if hands_over:
            assert np.array_equal(np.asarray(solution.z), np.asarray(direct.vjp(CELL, theta, x)[0].z))
            assert pull(np.nan * x).status is Status.DIVERGED


def test_the_hand_over_is_where_two_hundred_sweeps_do_not_suffice() -> None:
    # 1e-10 needs γτ ≤ 1e-10^(1/200) = 0.8913: with S = I, τ = 1 and γτ = γ.
    for gamma, hands_over in ((0.8912, False), (0.8914, True)):
        solution, _ = MassCorrectedLayer(NumpyDirect()).vjp(CELL, theta_of(60.0 * np.eye(3), gamma), np.ones((1, 3)))
        assert (solution.iterations == 0) is hands_over


@pytest.fixture(autouse=True)
def keeping_graph() -> Iterator[None]:
    """These tests pull more than once, and say so."""
    with framework("torch").keeping_graph():
        yield


FRAMEWORKS: dict[str, Any] = {"numpy": np.asarray, "torch": torch.tensor}


@pytest.mark.parametrize("framework", list(FRAMEWORKS))
@pytest.mark.parametrize("method", [(), ("picard",), ("mass",)])
def test_a_pull_is_the_gradient_at_the_state_solved(framework: str, method: tuple[str, ...]) -> None:
    native = FRAMEWORKS[framework]
    problem = next(p for p in map(random_problem, range(100)) if p.m > 2 and p.n > 1)
    theta, x = theta_of(problem.A, problem.gamma, native), problem.Phi.T.copy()
    c = np.random.default_rng(0).normal(size=x.shape)
    exact = ClosedForm(problem, c.T)
    solution, pull = reference(framework, *method).vjp(CELL, theta, native(x))
    # Both passes to 1e-10 of their size in the 2-norm, or to rounding, amplified by 4; products of the two.
    z, adjoint = np.abs(exact.Z).sum(), np.abs(exact.adjoint).sum()
    assert np.abs(np.asarray(solution.z).T - exact.Z).max() <= 1e-9 * z
    for _ in range(2):
        found = pull(native(c))
        assert np.abs(np.asarray(found.x).T - exact.adjoint).max() <= 1e-9 * adjoint
        assert np.abs(np.asarray(found.theta["A"]) - exact.gradient["A"]).max() <= 1e-8 * z * adjoint
        assert abs(float(found.theta["gamma"]) - exact.gradient["gamma"]) <= 1e-8 * z * adjoint
        assert method == () or found.status is Status.CONVERGED


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_solved_in_float32_and_rounded(dtype: str) -> None:
    problem = next(p for p in map(random_problem, range(100)) if p.m > 2 and p.n > 1).rounded_to(dtype)
    narrow = getattr(torch, dtype)

    def native(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=narrow)

    solution, pull = reference().vjp(CELL, theta_of(problem.A, problem.gamma, native), native(problem.Phi.T.copy()))
    assert solution.z.dtype is pull(solution.z).x.dtype is narrow
    exact = ClosedForm(problem).Z
    # Half a unit in the last place of each entry, and float32's error of a solve with κ ≤ 7.
    allowed = torch.finfo(narrow).eps / 2 * np.abs(exact) + 2.0**-24 * 100 * np.abs(exact).sum(axis=0)
    assert np.all(np.abs(solution.z.double().numpy().T - exact) <= allowed)


@pytest.mark.parametrize("framework", list(FRAMEWORKS))
def test_an_answer_never_is_the_start_itself(framework: str) -> None:
    K, native = 0.5 * stochastic(3), FRAMEWORKS[framework]
    start = native(np.linalg.solve(np.eye(3) - K, np.ones(3))[None, :])
    found = iterate(Picard(native(K), 0.5).forward(native(np.ones((1, 3)))), start, 1e-6, 5)
    assert found.iterations == 1
    assert found.z is not start
    assert not np.shares_memory(np.asarray(found.z), np.asarray(start))


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_direct_solve_keeps_the_dtype_and_reports_nan(framework: str, dtype: str) -> None:
    def native(values: Any) -> Any:
        return np.asarray(values, dtype) if framework == "numpy" else torch.tensor(values, dtype=getattr(torch, dtype))

    layer: Any = reference(framework)
    theta = {"A": native([[0.0, 1.0], [2.0, 0.0]]), "gamma": native(0.5)}
    x, poisoned = native([[1.0, 2.0], [3.0, 4.0]]), native([[1.0, 2.0], [np.nan, 4.0]])
    sound, pull = layer.vjp(CELL, theta, x)
    assert sound.status is Status.CONVERGED
    assert sound.z.dtype == pull(x).x.dtype == pull(x).theta["A"].dtype == x.dtype
    diverged, _ = layer.vjp(CELL, theta, poisoned)
    assert diverged.status is Status.DIVERGED
    assert np.array_equal(np.asarray(diverged.z[0]), np.asarray(sound.z[0]))
    assert np.isnan(np.asarray(pull(poisoned).x)[1]).all()
    lost, _ = layer.vjp(CELL, theta | {"gamma": native(np.nan)}, x)
    assert lost.status is Status.DIVERGED
    if framework == "numpy":
        assert (pull(x).status, pull(poisoned).status) == (Status.CONVERGED, Status.DIVERGED)


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_a_direct_solve_without_data_gives_new_arrays_of_its_shape(framework: str) -> None:
    native: Any = np.asarray if framework == "numpy" else torch.tensor
    x = native(np.zeros((0, 2)))
    solution, pull = reference(framework).vjp(CELL, theta_of(np.zeros((2, 2)), 0.5, native), x)
    found = pull(x)
    assert tuple(solution.z.shape) == tuple(found.x.shape) == (0, 2)
    assert solution.z is not x
    assert not np.asarray(found.theta["A"]).any()
    assert float(found.theta["gamma"]) == 0.0


@pytest.mark.parametrize("method", ["picard", "mass"])
@pytest.mark.parametrize("scale", [1.0, 60.0])  # 60: S near the identity, handed over
def test_an_iteration_leaves_no_graph_behind(method: str, scale: float) -> None:
    def wanted(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, requires_grad=True)

    x = wanted(np.ones((2, 3)))
    solution, pull = reference(method).vjp(CELL, theta_of(scale * np.eye(3), 0.95, wanted), x, wanted(np.zeros((2, 3))))
    found = pull(wanted(np.ones((2, 3))))
    assert not any(array.requires_grad for array in (solution.z, found.x, *found.theta.values()))
