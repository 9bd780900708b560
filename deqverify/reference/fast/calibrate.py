"""The coefficients of a cost model, measured: every method on a few sizes, fitted by non-negative least squares.

A fit minimises relative errors, so that small problems count like large ones. With one thread on a CPU the clock is the
thread's own, which other processes hardly disturb.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter, thread_time
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from deqverify.reference.fast.cost import METHODS, CostModel, Method, features
from deqverify.reference.fast.models import key
from deqverify.reference.fast.solver import Solver, solver

SIZES = [(m, n) for m in (16, 32, 64, 128, 192, 256, 384, 512, 768, 1024) for n in (1, 8, 64, 384) if m * m * n < 2.2e8]
SIZES_ON_A_GPU = [(m, n) for m in (16, 64, 256, 1024, 2048, 4096) for n in (1, 64, 384)] + [(8192, 16)]
"""Below a thousand there is little but launches."""
ACCURACIES = (1e-3, 1e-11)


def calibrate(
    dtype: torch.dtype = torch.float64, device: str = "cpu", seconds: float = 20.0, model: CostModel | None = None
) -> CostModel:
    """Measures every method on Gaussian logits at :data:`SIZES`, or those of a GPU, for about ``seconds``, which sets
    the repeats alone.

    ``models.use`` takes the result for the process, :meth:`CostModel.save` keeps it. ``model`` is only the hand that a
    solver needs while it is measured.
    """
    where = dict(zip(("dtype", "device", "threads"), key(dtype, device), strict=True))
    model = model or CostModel({name: features(1, 1) for name in ("lu", *METHODS)}, where)
    generator = torch.Generator().manual_seed(0)
    coefficients: dict[str, tuple[float, ...]] = {}
    sizes = SIZES if device == "cpu" else SIZES_ON_A_GPU
    each = seconds / (len(sizes) * (len(METHODS) * 2 - 1))
    for method in METHODS if dtype == torch.float64 else METHODS[:3]:  # for float32 there is no narrower LU
        rows, times = [], []
        for m, n in sizes:
            A, x, c = (
                torch.randn(shape, generator=generator, dtype=dtype).to(device) for shape in ((m, m), (n, m), (n, m))
            )
            for accuracy in ACCURACIES if method != "lu" else ACCURACIES[:1]:
                spent, turns, used = measure(A, x, c, 0.9, accuracy, method, model, each)
                if used == method:
                    base = features(m, n)
                    rows.append(np.concatenate([base, turns * np.asarray(base)]) if method != "lu" else base)
                    times.append(spent)
        found = fitted(np.asarray(rows), np.asarray(times))
        coefficients[method] = tuple(found[:6].tolist())
        if method != "lu":
            coefficients[f"turn {method}"] = tuple(found[6:].tolist())
    return CostModel(coefficients, where)


def fitted(rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Coefficients, none below zero, of least relative errors. Columns are scaled: between 1 and m³ lie ten digits, on
    which the solver can turn in circles."""
    relative = rows / times[:, None]
    scale = np.linalg.norm(relative, axis=0)
    return np.asarray(scipy.optimize.nnls(relative / scale, np.ones(len(times)))[0] / scale)


def measure(
    A: Tensor,
    x: Tensor,
    c: Tensor,
    gamma: float,
    accuracy: float,
    method: Method | None,
    model: CostModel,
    seconds: float,
) -> tuple[float, int, str]:
    """Median seconds of a forward and a backward pass, their turns, and the method that gave the answer."""
    now = clock(A)
    state: dict[str, Any] = {}

    def once() -> None:
        answer = solver(A, x, gamma, accuracy, method, model)
        gradients = answer.pull(c)
        state.update(answer=answer, turns=answer.turns + gradients.turns)

    with torch.no_grad():
        once()
        samples: list[float] = []
        deadline = perf_counter() + seconds
        while len(samples) < 3 or (perf_counter() < deadline and len(samples) < 50):
            started = now()
            once()
            samples.append(now() - started)
    answer = state["answer"]
    return statistics.median(samples), state["turns"], answer.used if isinstance(answer, Solver) else "lu"


def clock(tensor: Tensor) -> Callable[[], float]:
    """A clock for operations on ``tensor``: the thread's own where one thread does everything."""
    if tensor.device.type != "cpu":

        def synchronised() -> float:
            torch.cuda.synchronize(tensor.device)
            return perf_counter()

        return synchronised
    return thread_time if torch.get_num_threads() == 1 else perf_counter
