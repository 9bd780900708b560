"""The cost model of the fast reference: what it adds up, what it chooses, and how it is measured."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
import torch

from deqverify.reference.fast import calibrate as calibration
from deqverify.reference.fast import models, vjp
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
from tests.examples import gaussian
from tests.test_reference_fast import tensors


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
        ("mixed", 4, 0.9, 1e-4, 1.0, "float32", 11),  # 12 terms at the most, which truncate at 13 · .105: 12.2/1.16
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_calibration_finds_the_times_that_were_measured(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times made of known coefficients, without noise: a fit gives them back, in the dtype that was asked for."""
    known = {"lu": (1e-4, 0.0, 1e-8, 1e-11, 0.0, 0.0), "mass": (1e-3, 1e-7, 0.0, 0.0, 0.0, 1e-10)}
    known |= {"turn mass": (1e-5, 0.0, 1e-9, 0.0, 0.0, 1e-11)}
    seen = set()

    def measure(A: Any, x: Any, c: Any, gamma: float, accuracy: float, method: Any, *_: Any) -> tuple[float, int, str]:
        m, n = A.shape[0], x.shape[0]
        assert (A.shape, x.shape, c.shape) == ((m, m), (n, m), (n, m))
        assert {t.dtype for t in (A, x, c)} == {dtype}
        seen.add((method, accuracy))
        turns = {"lu": 0, "mass": 4 if accuracy > 1e-6 else 12}.get(method, 1)
        model = CostModel(known | dict.fromkeys(("mixed", "mixedlu", "turn mixed", "turn mixedlu"), known["mass"]))
        return model.part(method, m, n) + (model.turns(method, m, n, turns) if turns else 0.0), turns, method

    monkeypatch.setattr(calibration, "measure", measure)
    model, methods = calibration.calibrate(dtype), METHODS if dtype == torch.float64 else METHODS[:3]
    name = "float64" if dtype == torch.float64 else "float32"
    assert model.where == {"dtype": name, "device": "cpu", "threads": str(torch.get_num_threads())}
    assert set(model.coefficients) == {*methods, *(f"turn {method}" for method in methods[1:])}
    assert seen == {("lu", 1e-3), *((method, accuracy) for method in methods[1:] for accuracy in (1e-3, 1e-11))}
    for m, n in ((16, 1), (100, 20), (1024, 8)):
        for name, row in known.items():  # of a condition of some thousands, in float64
            assert model.part(name, m, n) == pytest.approx(CostModel({name: row}).part(name, m, n), rel=1e-6)


def test_an_iteration_gives_up_where_the_rest_would_cost_more_than_an_lu() -> None:
    """Two blocks that hardly mix: at γ = .999 mass-corrected Picard takes thousands of turns; a thousand cost an LU."""
    where = {"dtype": "float64", "device": "cpu", "threads": str(torch.get_num_threads())}
    A, x = tensors(gaussian(24, 2, 0.999, shift=20.0 * np.kron(np.eye(2), np.ones((12, 12)))))
    try:
        models.use(CostModel(coefficients(lu=1.0, turn_mass=0.01, mixed=9.0, mixedlu=9.0), where))
        assert vjp(A, x, 0.5)[0].used == "mass"
        models.use(CostModel(coefficients(lu=1.0, turn_mass=1e-6, mixed=9.0, mixedlu=9.0), where))
        assert vjp(A, x, 0.5)[0].used == "mass"
        models.use(CostModel(coefficients(lu=1.0, mass=-0.5, turn_mass=1e-3, mixed=9.0, mixedlu=9.0), where))
        answer, _ = vjp(A, x, 0.999)
        assert (answer.used, answer.bound, answer.turns) == ("lu", None, 0)
    finally:
        models.reset()
