"""The cost model of the fast reference: what it adds up, what it chooses, how it is measured; and its small parts."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import torch

from deqverify.implementations.protocol import Status
from deqverify.reference import reference
from deqverify.reference.fast import buffers, models, refine, solve, vjp
from deqverify.reference.fast import calibrate as calibration
from deqverify.reference.fast.answer import finite
from deqverify.reference.fast.cost import (
    CLEARLY,
    METHODS,
    CostModel,
    expected_turns,
    features,
    narrow_dtype,
    series_terms,
)
from deqverify.reference.fast.defaults import DEFAULTS
from deqverify.reference.fast.system import System
from tests.test_reference_fast import UNIT, gaussian, tensors


def test_the_cost_model_chooses_by_its_coefficients(tmp_path: Any) -> None:
    cheap, dear = tuple(1e-9 for _ in features(1, 1)), tuple(1.0 for _ in features(1, 1))
    where = {"dtype": "float64", "device": "cpu", "threads": str(torch.get_num_threads())}
    for method in METHODS:
        coefficients = dict.fromkeys(METHODS, dear) | {f"turn {m}": dear for m in METHODS if m != "lu"}
        coefficients |= {method: cheap, f"turn {method}": cheap}
        model = CostModel(coefficients, where)
        model.save(tmp_path / "model.json")
        assert CostModel.load(tmp_path / "model.json") == model
        assert model.choose(200, 3, 0.9, 1e-8, 0.1) == method
        assert model.worth_a_look(200, 3, 1e-8) == (method != "lu")
        try:
            models.use(model)
            assert vjp(*tensors(gaussian(200, 3, 0.9)), 0.9, accuracy=1e-8)[0].used == method
        finally:
            models.reset()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_calibration_measures_every_method_there_is(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "SIZES", [(m, n) for m in (8, 16, 48) for n in (1, 8)])
    model = calibration.calibrate(dtype, seconds=0.01)
    measured = METHODS if dtype == torch.float64 else METHODS[:3]
    assert set(measured) <= set(model.coefficients)
    assert all(c >= 0.0 for row in model.coefficients.values() for c in row)
    assert sum(model.coefficients["lu"]) > 0.0  # an LU takes time


def test_a_fit_ends_whatever_the_sizes() -> None:
    """Features lie ten digits apart, on which non-negative least squares turned in circles, first on a GPU's times."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sizes = [(m, n, turns) for m, n in calibration.SIZES_ON_A_GPU for turns in (4, 12)]
        base = np.asarray([features(m, n) for m, n, _ in sizes])
        turns = np.asarray([[turns] for *_, turns in sizes])
        rows = np.hstack([base, turns * base])
        made = np.zeros(12)
        made[[0, 3, 6, 8]] = 1e-2, 4e-13, 2e-4, 1e-11
        noisy = rows @ made * np.exp(0.2 * rng.normal(size=len(rows)))
        found = calibration.fitted(rows, noisy)
        assert (found >= 0.0).all()
        # The least squares do no worse than what the times were made of.
        assert np.linalg.norm(rows @ found / noisy - 1.0) <= np.linalg.norm(rows @ made / noisy - 1.0) * (1 + 1e-9)


def test_the_clock_of_one_thread_is_its_own() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert calibration.clock(torch.ones(1)) is time.thread_time
        torch.set_num_threads(2)
        assert calibration.clock(torch.ones(1)) is time.perf_counter
    finally:
        torch.set_num_threads(threads)


def coefficients(**totals: float) -> dict[str, tuple[float, ...]]:
    """Parts that cost as much whatever the sizes, by default nothing; ``turn_mass`` is "turn mass"."""
    given = {name.replace("_", " "): value for name, value in totals.items()}
    names = (*METHODS, *(f"turn {method}" for method in METHODS if method != "lu"))
    return {name: (given.get(name, 0.0), 0.0, 0.0, 0.0, 0.0, 0.0) for name in names}


def test_seconds_are_a_sum_over_features_and_turns_of_both_passes() -> None:
    assert features(2, 3) == (1.0, 2.0, 4.0, 8.0, 6.0, 12.0)
    row = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
    model = CostModel(coefficients(mass=5.0) | {"lu": row, "turn mass": row}, {"dtype": "float64"})
    assert model.part("lu", 2, 3) == 1.0 + 20.0 + 400.0 + 8e3 + 6e4 + 12e5 == 1268421.0
    assert model.turns("mass", 2, 3, 0.5) == 0.5 * 1268421.0
    assert model.seconds("lu", 2, 3, 0.5, 1e-6, 1.0) == 1268421.0
    # 26 turns, as below, of each pass.
    assert model.seconds("mass", 2, 3, 0.5, 1e-6, 1.0) == 5.0 + 2 * 26 * 1268421.0


@pytest.mark.parametrize(
    ("method", "m", "gamma", "accuracy", "spread", "dtype", "turns"),
    [
        # ln(2e7)/ln 2 = 24.3 turns, rounded up, and the first look.
        ("mass", 4, 0.5, 1e-6, 1.0, "float64", 26),
        ("mass", 4, 1.0, 1e-6, 0.5, "float64", 26),
        # No digits beyond rounding: ln(1/(5u)) = 35.13 at m = 25.
        ("mass", 25, 0.5, 1e-30, 1.0, "float64", 52),
        ("mass", 4, 0.5, 1e-6, 0.0, "float64", 4),  # a rate of 1e-3 at the least: 16.8/6.9
        ("mass", 4, 0.999, 0.5, 10.0, "float64", 1 + math.ceil(math.log(40.0) / -math.log(0.999999))),
        ("mixedlu", 4, 0.5, 1e-6, 1.0, "float64", 2),
        ("mixedlu", 25, 0.5, 1e-30, 1.0, "float64", 3),
        # 11 terms of a rate of .6, whose truncation, 12 ln .6 = 6.13, is less than .51 and the 5.55 of bfloat16.
        ("mixed", 4, 0.6, 1e-4, 1.0, "float32", 3),  # 12.2/(.85 · 6.06) = 2.8
        ("mixed", 4, 0.6, 0.5, 1.0, "float32", 1),
    ],
)
def test_turns_are_the_digits_asked_over_those_gained(
    method: Any, m: int, gamma: float, accuracy: float, spread: float, dtype: str, turns: int
) -> None:
    assert expected_turns(method, m, gamma, accuracy, spread, dtype) == turns


def test_a_series_ends_where_narrow_products_round() -> None:
    """bfloat16 has 8 ln 2 = 5.55 digits to the base e."""
    rates = {1e-9: 1, 0.0: 1, 0.03: 2, 0.6: 11, 0.99: 12, 0.999999: 12}
    assert {rate: series_terms(rate, torch.bfloat16) for rate in rates} == rates
    assert series_terms(0.03, torch.float32) == 5  # 16.6/3.5
    assert narrow_dtype(torch.float32, "cpu") == narrow_dtype(torch.float64, "cuda") == torch.bfloat16


def test_another_method_is_taken_where_it_promises_clearly_less() -> None:
    for share, chosen in ((CLEARLY - 0.01, "mass"), (CLEARLY + 0.01, "lu")):
        model = CostModel(coefficients(lu=1.0, mass=share, mixed=2.0, mixedlu=2.0), {"dtype": "float64"})
        assert model.choose(30, 2, 0.9, 1e-8, 0.1) == chosen
        assert model.worth_a_look(30, 2, 1e-8) == (chosen == "mass")
    single = CostModel(coefficients(lu=1.0, mass=2.0, mixed=2.0), {"dtype": "float32"})
    assert set(single.times(30, 2, 0.9, 1e-3, 0.1)) == {"lu", "mass", "mixed"}, "for float32 there is no narrower LU"
    assert set(model.times(30, 2, 0.9, 1e-3, 0.1)) == set(METHODS)


def test_a_look_is_remembered_and_not_for_ever() -> None:
    model = CostModel(coefficients(lu=1.0, mass=0.5, mixed=2.0, mixedlu=2.0), {"dtype": "float64"})
    assert model.worth_a_look(30, 2, 1e-8)
    model.coefficients = coefficients(lu=1.0, mass=3.0, mixed=2.0, mixedlu=2.0)
    assert model.worth_a_look(30, 2, 1e-8)
    assert not any(model.worth_a_look(*other) for other in ((31, 2, 1e-8), (30, 3, 1e-8), (30, 2, 1e-7)))
    for n in range(1000):
        model.worth_a_look(30, n, 1e-6)
    assert len(model._looks) <= 1001
    assert not model.worth_a_look(30, 2, 1e-8)


def test_models_are_of_a_dtype_a_device_and_a_number_of_threads() -> None:
    threads = str(torch.get_num_threads())
    assert models.key(torch.float32, "cpu") == ("float32", "cpu", threads)
    assert models.key(torch.float64, "cuda") == ("float64", "cuda", "0")
    other = CostModel(coefficients(lu=1.0), {"dtype": "float32", "device": "cpu", "threads": threads})
    try:
        models.use(other)
        assert models.model_for(torch.ones(1)) is other
        assert models.model_for(torch.ones(1, dtype=torch.float64)) is DEFAULTS["cpu", "float64"]
    finally:
        models.reset()
    assert models.model_for(torch.ones(1)) is DEFAULTS["cpu", "float32"]
    assert models._find(torch.float64, "cuda", 1) is DEFAULTS["cuda", "float64"]


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
    assert System(torch.zeros(6, 6, dtype=torch.float64), 0.5).rate() <= rounding[6]


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
