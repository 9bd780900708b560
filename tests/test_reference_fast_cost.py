"""How the fast reference chooses a method: a model of what each costs, and the calibration that it is fitted to."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from deqverify.reference.fast import calibrate as calibration
from deqverify.reference.fast import models, vjp
from deqverify.reference.fast.cost import METHODS, CostModel, features
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
