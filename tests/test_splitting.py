"""The reference by operator splitting: it solves the monotone cell to its claim, and its trace and step are its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deqverify.cells import Monotone, cells
from deqverify.cells.probed import ProbedCell
from deqverify.dtypes import Array
from deqverify.frameworks import framework
from deqverify.implementations.protocol import Status
from deqverify.implementations.subject import Subject
from deqverify.reference import reference
from deqverify.reference.splitting import SPLITTINGS, TOLERANCE, SplittingLayer
from deqverify.registry import laws
from deqverify.trial import Effort

CELL = cells()["monotone"]


def instance(seed: int = 0, m: int = 4, n: int = 3, skew: float = 1.0) -> tuple[dict[str, Array], Array]:
    generator = np.random.default_rng(seed)
    P, Q, U, b = (generator.normal(size=shape) for shape in ((m, m), (m, m), (m, 2), (m,)))
    theta = {"P": P / 4, "Q": skew * Q, "mu": np.asarray(0.5), "U": U, "b": b}
    return theta, generator.normal(size=(n, 2))


def solved(layer: Any, theta: dict[str, Array], x: Array, z0: Array | None = None) -> Any:
    bridge = framework(layer.framework)
    native = {name: bridge.native(value, "float64", "cpu") for name, value in theta.items()}
    start = None if z0 is None else bridge.native(z0, "float64", "cpu")
    return layer.vjp(CELL, native, bridge.native(x, "float64", "cpu"), start)


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("method", SPLITTINGS)
def test_it_solves_to_its_claim_and_near_what_newton_finds(method: str, name: str) -> None:
    theta, x = instance()
    layer = reference(method, name)
    bridge, solution = framework(name), solved(layer, theta, x)[0]
    z, f = bridge.to_numpy(solution.z), CELL.step(theta, x)
    assert solution.statuses == [Status.CONVERGED] * 3
    claim = layer.claims.forward
    assert np.all(claim.norms_of(f(z) - z) <= claim.allows(claim.norms_of(f(z))) * (1 + 2.0**-40))  # its own rounding
    exact = bridge.to_numpy(solved(reference("newton", name), theta, x)[0].z)
    mu, size = 0.5, np.linalg.norm(exact, axis=1).max() + 1.0
    # ⟨e, (I − W)e⟩ ≥ μ‖e‖², and the residual of f bounds that of the variational inequality within 1 + ‖I − W‖.
    lipschitz = CELL.certificate(theta).lipschitz  # type: ignore[union-attr]
    assert np.linalg.norm(z - exact, axis=1).max() <= (1 + lipschitz) / mu * claim.rtol * size


@pytest.mark.parametrize("method", SPLITTINGS)
def test_the_trace_is_that_of_the_sweeps_and_the_step_the_best_one(method: str) -> None:
    theta, x = instance(1)
    known = CELL.certificate(theta)
    assert isinstance(known, Monotone)
    plain, traced = reference(method, "numpy"), reference(method, "numpy").traced()
    assert solved(plain, theta, x)[0].trace is None
    start = np.random.default_rng(2).normal(size=(3, 4))
    solution = solved(traced, theta, x, start)[0]
    first = start if method == "forward-backward" else np.maximum(start, 0.0)
    wrong = CELL.step(theta, x)(first) - first
    assert solution.trace[0] == pytest.approx(np.linalg.norm(wrong, axis=1).max(), rel=2.0**-40)  # a sum of four
    assert solution.iterations == len(solution.trace) - 1
    best = known.mu / known.lipschitz**2 if method == "forward-backward" else 1.0 / known.lipschitz
    assert solution.step == pytest.approx(best, rel=2.0**-50)


def test_a_cap_is_reported_and_kept() -> None:
    theta, x = instance(skew=30.0)
    capped = reference("forward-backward", "numpy").limited(3)
    solution = solved(capped, theta, x)[0]
    assert (solution.status, solution.iterations) == (Status.CAPPED, 3)
    assert solved(reference("peaceman-rachford", "numpy"), theta, x)[0].status is Status.CONVERGED  # the better rate


@pytest.mark.parametrize("method", SPLITTINGS)
def test_a_tolerance_is_solved_to_and_claimed(method: str) -> None:
    theta, x = instance()
    layer = reference(method, "numpy")
    coarse, fine = (layer.at_tolerance(tolerance) for tolerance in (1e-2, 1e-10))
    sweeps = [solved(each, theta, x)[0].iterations for each in (coarse, layer, fine)]
    assert sweeps[0] < sweeps[1] < sweeps[2]
    assert [each.claims.forward.rtol for each in (coarse, layer, fine)] == [1e-2, TOLERANCE, 1e-10]
    assert coarse.claims.backward == layer.claims.backward


def test_data_points_that_are_solved_are_left_alone() -> None:
    theta, x = instance(3)
    together = solved(reference("peaceman-rachford", "numpy"), theta, x)[0].z
    for k in range(3):
        alone = solved(reference("peaceman-rachford", "numpy"), theta, x[k : k + 1])[0].z
        # The same sweeps in another order of summation, a few dozen of them.
        np.testing.assert_allclose(together[k : k + 1], alone, rtol=0, atol=2.0**-40 * (1 + np.abs(alone).max()))


def test_what_is_not_finite_is_called_diverged() -> None:
    theta, x = instance()
    x[1, 0] = np.nan
    solution = solved(reference("forward-backward", "numpy"), theta, x)[0]
    assert solution.statuses == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
    assert np.isnan(solution.z[1]).all()


def test_it_takes_the_monotone_cell_and_no_other() -> None:
    theta, x = instance()
    with pytest.raises(TypeError, match="monotone cell and μ > 0, got relu"):
        reference("forward-backward", "numpy").vjp(cells()["relu"], {"W": np.eye(4) / 2} | theta, x)
    with pytest.raises(TypeError, match="μ > 0"):
        solved(reference("forward-backward", "numpy"), theta | {"mu": np.asarray(-1.0)}, x)
    with pytest.raises(ValueError, match="not written for jax"):
        reference("forward-backward", "jax")


@pytest.mark.parametrize("method", SPLITTINGS)
def test_a_probe_that_is_not_zero_is_solved_with(method: str) -> None:
    theta, x = instance(4)
    probed, probe = ProbedCell(CELL), np.random.default_rng(5).normal(size=(3, 4))
    layer = reference(method, "numpy")
    z = layer.vjp(probed, theta | {"probe": probe}, x)[0].z
    residual = np.linalg.norm(CELL.step(theta, x)(z) + probe - z, axis=1)
    assert np.all(residual <= 2 * layer.tolerance * np.linalg.norm(z, axis=1))  # the claim's ‖f‖ is near ‖z‖
    assert (z < 0).any()


JUDGED = ("existence", "uniqueness", "trace", "status-forward", "status-cap", "adjoint-certificate", "splitting-rate")


@pytest.mark.parametrize("method", SPLITTINGS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_laws_spare_it(method: str, dtype: str) -> None:
    subject = Subject(SplittingLayer("numpy", method), dtype)
    for name in JUDGED:
        trial = laws()[name].trial(subject, Effort(examples=10, seconds=60, seed=3))
        assert trial.error is None, trial.error
        assert trial.failure is None, (name, trial.failure)
