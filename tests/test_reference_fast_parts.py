"""The parts of the fast reference by themselves: sums, rates, inner solvers, buffers, what it gives and refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from deqverify.implementations.protocol import Status
from deqverify.reference import reference
from deqverify.reference.fast import buffers, refine, solve, vjp
from deqverify.reference.fast.answer import finite
from deqverify.reference.fast.cost import (
    METHODS,
)
from deqverify.reference.fast.system import System
from tests.test_reference_fast import UNIT, gaussian, tensors


def test_an_answer_is_finite_if_its_entries_are() -> None:
    """Though their sum may overflow."""
    large = torch.full((1, 3), 1.5e308, dtype=torch.float64)
    assert finite(large) is Status.CONVERGED
    for broken in (math.nan, math.inf):
        large[0, 1] = broken
        assert finite(large) is Status.DIVERGED


def test_buffers_are_kept_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "LIMIT", 2 * 6 * 8)
    buffers.clear()
    kind = torch.float64, torch.device("cpu")

    def given(count: int) -> list[int]:
        """Where matrices were that are taken, after as many new ones were given back."""
        made = [torch.empty(2, 3, dtype=torch.float64) for _ in range(count)]
        buffers.give(*made)
        taken = [buffers.take(2, 3, *kind) for _ in range(count)]
        return [[m.data_ptr() for m in made].index(t.data_ptr()) for t in taken if any(t is m for m in made)]

    try:
        for _ in range(3):  # what was taken counts no longer
            assert given(3) == [1, 0]
        buffers.give(torch.empty(2, 3, dtype=torch.float64))
        assert buffers.take(3, 2, *kind).shape == (3, 2)
        assert buffers.take(2, 3, torch.float32, kind[1]).dtype == torch.float32
        buffers.clear()
        assert buffers._kept == 0
        assert given(2) == [1, 0]
    finally:
        buffers.clear()


def test_rates_are_the_smaller_of_two_bounds() -> None:
    """Doeblin's, and where that says little the distance of columns from their mean, of S in several blocks of rows."""
    rounding = {m: 2 * (m + 4) * UNIT for m in (6, 300)}
    for m, seed, scale in ((6, 0, 1.0), (300, 1, 1.0), (300, 2, 3.0), (6, 3, 30.0)):
        A = torch.tensor(gaussian(m, 1, 0.5, seed=seed, scale=scale).A)
        S = torch.softmax(A, 0).numpy()
        doeblin, distance = 1 - S.min(axis=1).sum(), np.abs(S - S.mean(axis=1, keepdims=True)).sum(axis=0).max()
        tau = min(doeblin, distance) if doeblin > 0.98 else doeblin
        expected = 0.5 * min(1.0, tau + rounding[m])
        assert System(A, 0.5).rate() == pytest.approx(expected, abs=m * UNIT)
    # Eighths are exact, and so is their sum: rounding alone is left.
    assert System(torch.zeros(8, 8, dtype=torch.float64), 0.5).rate() == 0.5 * 2 * 12 * UNIT


def test_a_spread_is_exact_for_permutations_and_equal_columns() -> None:
    for m in (5, 130):  # of 130 columns every second is looked at
        assert System(1e3 * torch.eye(m, dtype=torch.float64), 0.5).spread() == pytest.approx((1 - 1 / m) ** 0.5)
        assert System(torch.zeros(m, m, dtype=torch.float64), 0.5).spread() <= 1e-7  # the root of a rounding
    A = torch.tensor(gaussian(130, 1, 0.5).A)
    columns = torch.softmax(A, 0)[:, ::2].square().sum(0)
    assert System(A, 0.5).spread() == pytest.approx(math.sqrt(float(columns.mean()) - 1 / 130), rel=1e-12)


def test_careful_sums_have_fewer_terms() -> None:
    for m, plain, careful in ((64, 73, 73), (100, 109, 74), (129, 138, 75)):
        system = System(torch.zeros(m, m, dtype=torch.float64), 0.5)
        assert system.terms == plain
        system.careful()
        assert system.terms == careful


def test_sums_by_halves_and_middles() -> None:
    for m in range(8):
        z = torch.arange(m, dtype=torch.float64).expand(2, m)
        assert refine.total(z).tolist() == [[m * (m - 1) / 2]] * 2
    one = torch.ones(1, 1)
    assert refine.total(one) is not one, "what is returned is changed in place"
    # One by one nothing is left of the small numbers; by halves they meet first.
    z = torch.tensor([[1.0, 2.0**-53, 0.0, 2.0**-53]], dtype=torch.float64)
    assert float(refine.total(z)) == 1.0 + 2.0**-52
    assert refine.middle(torch.tensor([[1.0, 5.0, 2.0]])).tolist() == [[3.0]]
    norm, allowed = torch.tensor([0.0, 3.0, 1.0]), torch.tensor([0.0, 2.0, 4.0])
    assert refine._worst(norm, allowed) == (1.5, 3.0)
    assert refine._worst(norm[:1], allowed[:1]) == (0.0, 0.0)
    assert refine._worst(norm[:0], allowed[:0]) == (0.0, 0.0)
    assert refine._worst(norm[1:2], 0 * norm[1:2])[0] == math.inf


def test_a_row_of_zeros_is_exact() -> None:
    A, x = tensors(gaussian(12, 3, 0.9))
    x[1] = 0.0
    for method in METHODS[1:]:
        answer, pull = vjp(A, x, 0.9, method=method)
        assert answer.bound is not None
        assert answer.bound[1] == 0.0
        assert not answer.z[1].any()
        found = pull(x)
        assert found.bound is not None
        assert found.bound[1] == 0.0
        assert torch.all(answer.bound[::2] > 0.0)


@pytest.mark.parametrize("gamma", [0.0, -0.5, 1.0, math.nan])
def test_gamma_lies_strictly_between_its_ends(gamma: float) -> None:
    A, x = torch.zeros(3, 2, 2, dtype=torch.float64), torch.ones(3, 1, 2, dtype=torch.float64)
    with pytest.raises(
        ValueError, match=r"^gamma: must lie strictly between 0 and 1, got .*; an equilibrium needs γ < 1$"
    ):
        solve(A[0], x[0], gamma)
    with pytest.raises(ValueError, match=r"^gamma: must lie strictly between 0 and 1, got "):
        solve(A, x, torch.tensor([0.5, gamma, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("accuracy", [0.0, 1.0, math.nan])
def test_an_accuracy_lies_strictly_between_its_ends(accuracy: float) -> None:
    A, x = tensors(gaussian(2, 1, 0.5))
    with pytest.raises(ValueError, match=r"^accuracy: must lie strictly between 0 and 1, got "):
        vjp(A, x, 0.5, accuracy=accuracy)


def test_shapes_that_do_not_fit_are_refused() -> None:
    A, x = torch.zeros(3, 2, 2, dtype=torch.float64), torch.ones(3, 1, 2, dtype=torch.float64)
    for wrong in (A[0, 0], A[None], A[:, :, :0], A[:, :1, :1].expand(3, 1, 2)):
        with pytest.raises(ValueError, match=r"^A: expected \(m, m\) or \(k, m, m\) with m ≥ 1, got \("):
            solve(wrong, x, 0.5)
    for wrong in (x[0], x[:2], x[:, :, :1]):
        with pytest.raises(ValueError, match=r"^x: expected \(3, n, 2\) to go with A, got \("):
            solve(A, wrong, 0.5)


def test_what_the_fast_layers_claim() -> None:
    found = {name: reference("fast", *name) for name in ((), ("lu",), ("mass",), ("batched",))}
    assert [layer.name for layer in found.values()] == [
        "reference[fast]",
        "reference[fast,lu]",
        "reference[fast,mass]",
        "reference[fast,batched]",
    ]
    assert [layer.claims.forward.rtol for layer in found.values()] == [1e-10, 0.0, 1e-10, 0.0]
    assert all(layer.claims.backward == layer.claims.forward for layer in found.values())
    assert all(layer.claims.devices == ("cpu", "cuda") and not layer.claims.starts for layer in found.values())


def system(m: int = 24, gamma: float = 0.75) -> tuple[System, torch.Tensor, torch.Tensor]:
    """A system, its K = γS, and three inputs."""
    A, x = tensors(gaussian(m, 3, gamma))
    return System(A, gamma), gamma * torch.softmax(A, 0), x


def test_inner_solvers_are_what_they_say() -> None:
    """With float64 for the narrow dtype: a series of so many terms, and a solution; 1e-13 is rounding over (1 − γ)²."""
    of, K, x = system()
    series, narrow = refine.Series(of, torch.float64, 3), refine.Narrow(of, torch.float64)
    U = torch.eye(24, dtype=torch.float64) - K
    for transposed, matrix in ((False, K), (True, K.mT)):
        powers = [x]
        for _ in range(4):
            powers.append(powers[-1] @ matrix.mT)
        size = 1e-13 * float(sum(p.abs().max() for p in powers))
        assert (series.correction(x, transposed) - sum(powers[:4])).abs().max() <= size
        assert (series.start(x, x, transposed) - sum(powers)).abs().max() <= size
        exact = torch.linalg.solve(U.mT if transposed else U, x.mT).mT
        found = narrow.start(x, x, transposed)
        if transposed:  # v, to which the constant s is added later
            found = found + found.sum(1, keepdim=True) * (0.75 / 0.25 / 24)
        assert (found - exact).abs().max() <= 1e-13 * exact.abs().max() * 16


def test_what_was_used_is_given_back() -> None:
    """A matrix of each system and of each factorisation; one in float64 is 8m² bytes."""
    A, x = tensors(gaussian(150, 2, 0.9))
    many, inputs = tensors(gaussian(8, 1, 0.5))
    for count, solved in (
        (2, lambda: vjp(A, x, 0.9, method="lu")),
        (1, lambda: vjp(A, x, 0.9, method="mass")),
    ):
        buffers.clear()
        solved()
        assert buffers._kept >= count * 8 * 150**2
    buffers.clear()
    solve(many.expand(64, 8, 8), inputs.expand(64, 1, 8), 0.5)
    assert buffers._kept >= 2 * 8 * 64 * 8**2
    buffers.clear()


def test_lu_is_direct() -> None:
    for m, gamma in ((150, 0.9), (12, 1 - 1e-6), (12, 0.9)):
        A, x = tensors(gaussian(m, 2, gamma))
        answer, pull = vjp(A, x, gamma, method="lu")
        found = pull(x)
        assert (answer.used, answer.bound, answer.turns, found.bound, found.turns) == ("lu", None, 0, None, 0)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_wanted_is_not_given_and_what_is_does_not_change(method: Any) -> None:
    for m in (12, 150):
        A, x = tensors(gaussian(m, 2, 0.9))
        answer, _ = vjp(A, x, 0.9, method=method)
        with torch.no_grad():
            everything = answer.pull(x)
            weights, gamma = answer.pull(x, (True, True, False)), answer.pull(x, (False, True, True))
            neither = answer.pull(x, (False, True, False))
        assert weights.gamma is gamma.A is neither.A is neither.gamma is None
        assert weights.A is not None
        # Both ways of γ's gradient: sums of m terms, of an adjoint certified to 1e-10.
        assert float(gamma.gamma) == pytest.approx(float(everything.gamma), rel=1e-9)
        assert torch.allclose(weights.A, everything.A, rtol=0, atol=1e-9 * float(everything.A.abs().max()))


def test_columns_far_apart_have_a_softmax_each() -> None:
    A = torch.tensor([[3.0, -2000.0, 1.0], [1.0, -2001.0, 2.0], [0.0, -1999.0, 2.0]], dtype=torch.float64)
    shifted, x = A - A.amax(0), torch.ones(1, 3, dtype=torch.float64)
    for method in METHODS:
        assert torch.allclose(solve(A, x, 0.5, method=method), solve(shifted, x, 0.5, method=method), rtol=1e-9, atol=0)


def test_a_gamma_with_a_graph_is_read_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    A, x = tensors(gaussian(3, 1, 0.5))
    solve(A, x, torch.tensor(0.5, dtype=torch.float64, requires_grad=True)).sum().backward()
    assert not [str(w.message) for w in recwarn if "scalar" in str(w.message)]


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_scale_does_not_matter(method: Any) -> None:
    """Powers of two, which no operation rounds: accuracies are relative in both passes."""
    A, x = tensors(gaussian(24, 3, 0.9))
    turns = set()
    for scale in (2.0**-30, 1.0, 2.0**30):
        answer, pull = vjp(A, scale * x, 0.9, accuracy=1e-8, method=method)
        found = pull(scale * x)
        assert answer.bound is not None
        assert found.bound is not None
        assert float(torch.maximum(answer.bound, found.bound).max()) <= 1e-8
        turns.add((answer.turns, found.turns))
    assert len(turns) == 1


def test_columns_of_the_logits_gradient_sum_to_zero_whatever_is_constant_in_the_adjoint() -> None:
    """The constant part is 2³⁰ times the rest, and what its rounding leaves in a sum is taken out once more: left are
    the sum's own rounding, that of 24 entries, and of what is taken out."""
    of, _, x = system()
    generator = torch.Generator().manual_seed(0)
    v = 2.0**30 + torch.randn(3, 24, generator=generator, dtype=torch.float64)
    dA, _ = of.pull(x, v, torch.zeros(3, 1, dtype=torch.float64), True, True)
    assert dA is not None
    assert torch.all(dA.sum(0).abs() <= 4 * 24 * UNIT * dA.abs().sum(0))
