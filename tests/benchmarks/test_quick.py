"""Quick comparisons in one process, by pytest-benchmark: grouped by pass, saved, compared, drawn.

pytest tests/benchmarks/test_quick.py --benchmark-autosave --benchmark-histogram=.deqverify/quick
pytest tests/benchmarks/test_quick.py --benchmark-compare --benchmark-compare-fail=median:30%
"""

from __future__ import annotations

from typing import Any

import pytest

from deqverify.benchmarking.problems import FixedProblem, achieved, truth
from deqverify.benchmarking.targets import Unavailable, timed_target

pytest.importorskip("pytest_benchmark")

NAMES = (
    "reference",
    "reference[numpy]",
    "reference[mass]",
    "reference[fast]",
    "reference[jax]",
    "plain[solve]",
    "jaxopt[gmres]",
    "scipy[gmres]",
)
FIXED = FixedProblem(64, 64, 0.9)
LOOSE = 1e-6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", ["forward", "gradient", "step"])
def test_pass(benchmark: Any, name: str, which: str) -> None:
    """A target's time, and that it is no faster for being wrong."""
    problem = FIXED.problem()
    try:
        who = timed_target(name)
        run = who.prepare(problem, "float64", "cpu", LOOSE if who.tunable else None)
    except Unavailable as missing:
        pytest.skip(str(missing))

    def call() -> None:
        getattr(run, which)()
        run.synchronise()

    try:
        call()  # compiles
    except Unavailable as missing:  # a forward pass alone
        pytest.skip(str(missing))
    benchmark.group = f"{which} {FIXED}"
    benchmark(call)
    reached = achieved(problem, *run.answer(which))
    benchmark.extra_info.update(worst=reached.worst, iterations=run.iterations)
    # A residual of LOOSE is an error of up to √m·(1+γ)/(1−γ) times that, in each pass; both meet in ∂L/∂A.
    allowed = 2 * LOOSE * FIXED.m**0.5 * (1 + FIXED.gamma) / (1 - FIXED.gamma) if who.tunable else 1e-12
    assert reached.worst <= allowed + max(truth(problem).doubt.values())
