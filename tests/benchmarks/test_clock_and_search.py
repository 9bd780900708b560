"""Timing, memory, the floor, the search for equal accuracy, and the judgement on two commits: with known answers."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deqverify.benchmarking.against import LEAST, SEEN, Comparison, exit_code
from deqverify.benchmarking.matching import loosest, match
from deqverify.benchmarking.matching import rows as matched
from deqverify.benchmarking.measuring import Row, growth, peak_memory, rows, timed
from deqverify.benchmarking.problems import FixedProblem, achieved, digest
from deqverify.benchmarking.results import plain
from deqverify.benchmarking.scaling import exponent
from deqverify.benchmarking.targets import Unavailable, fixed_names, names, timed_target
from deqverify.claims import Claims
from deqverify.problem import SoftmaxProblem
from deqverify.theory.closed_form import ClosedForm
from tools import floor as limits
from tools.floor import Rates, floor_of

SMALL = FixedProblem(4, 3, 0.5)


def test_a_sleep_is_timed_by_the_clock_and_not_by_the_processor() -> None:
    calls = []

    def call() -> None:
        calls.append(1)
        time.sleep(0.02)

    found = timed(call, lambda: None, budget=0.05)
    assert len(calls) == found.count + 1, "one call warms up"
    assert found.count >= 5
    assert found.fastest >= 0.02
    assert found.steady < 0.01, "a sleep costs no processor time"


def test_peak_memory_sees_an_array_that_is_freed_again() -> None:
    found = peak_memory(lambda: bytearray(1 << 26))
    if found is None:
        pytest.skip("resident memory can't be read here")
    assert abs(found - (1 << 26)) <= 1 << 20  # pages of the interpreter beside it: well below 1 MiB


def test_an_unrolled_gradient_grows_and_an_implicit_one_does_not() -> None:
    fixed = FixedProblem(64, 1024, 0.9)  # a state of half a megabyte: what the allocator keeps is small beside it
    unrolled, implicit = (
        growth(timed_target(name), fixed, "float64") for name in ("plain[unrolled]", "reference[picard]")
    )
    if unrolled is None or implicit is None:
        pytest.skip("resident memory can't be read here")
    # A state or two are kept at every step; pages that the allocator had from before are missing (PyTorch 2.11: .83).
    assert unrolled > 0.5
    assert implicit <= 0.1
    assert growth(timed_target("plain[solve]"), fixed, "float64") is None


def test_the_floor_of_a_direct_solve_by_hand() -> None:
    rate = Rates(gemm=1e9, getrf=5e8, copies={1 << 16: math.inf}, order=1024)
    forward = 2 / 3 * 30**3 / 5e8 + 2 * 30 * 30 * 7 / 1e9
    assert limits.floor(rate, 30, 7, 8, "forward") == pytest.approx(forward, rel=1e-14)  # a few roundings
    products = 5 * 2 * 30 * 30 * 7 / 1e9
    assert limits.floor(rate, 30, 7, 8, "forward", products=5) == pytest.approx(products, rel=1e-14)  # likewise
    assert limits.floor(rate, 30, 7, 8, "gradient") > 2 * forward - 2 / 3 * 30**3 / 5e8


def test_no_target_undercuts_its_floor() -> None:
    direct = ("reference", "reference[numpy]", "plain[solve]")
    for row in rows(direct, ("forward", "gradient"), FixedProblem(128, 128, 0.9), "float64", "cpu"):
        least = floor_of(row)
        assert row.timing
        assert least
        assert row.timing.steady >= 0.8 * least, "rates are measured: what they cannot be off by is a fifth"


def test_a_match_belongs_to_its_cell(tmp_path: Path) -> None:
    cache, row = tmp_path / "cache.json", Row("plain[unrolled]", "forward", SMALL, "float64", "cpu")
    tanh, relu = (replace(row, problem=replace(SMALL, cell=cell)) for cell in ("tanh", "relu"))
    assert digest(tanh.problem.problem()) == digest(relu.problem.problem()), "the same weights and inputs"
    for each in (tanh, relu):
        match(timed_target(row.name), each, 1e-3, cache)
    assert len(json.loads(cache.read_text())) == 2


@pytest.mark.parametrize("offset", [1e-3, 0.3, 1.0, 40.0])
def test_the_search_finds_the_loosest_tolerance_that_reaches(offset: float) -> None:
    tried = []

    def error_at(tolerance: float) -> float:
        tried.append(tolerance)
        return tolerance * offset

    found = loosest(error_at, 1e-6, 1e-15)
    assert found.reached
    assert found.error <= 1e-6
    assert found.tries == len(tried)
    assert tried[0] == pytest.approx(1e-5, rel=1e-12), "the loosest tried first"  # 10 · 10⁻⁶, rounded
    if offset >= 1:
        assert found.error * 10 > 1e-6, "a tolerance ten times as loose would not do"


def test_not_reached_is_a_result() -> None:
    found = loosest(lambda tolerance: max(tolerance, 1e-3), 1e-6, 1e-15)
    assert not found.reached
    assert found.error == 1e-3
    assert not loosest(lambda tolerance: math.inf, 1e-6, 1e-15).reached


def test_a_match_is_cached_and_a_loose_backward_pass_is_seen(tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    row = Row("reference[picard]", "gradient", SMALL, "float64", "cpu")
    found = match(timed_target("reference[picard]"), row, 1e-6, cache)
    assert found.reached
    assert found.error <= 1e-6
    kept = json.loads(cache.read_text())
    (key,) = kept
    assert "torch=" in key
    kept[key]["error"] = 0.25
    cache.write_text(json.dumps(kept))
    assert match(timed_target("reference[picard]"), row, 1e-6, cache).error == 0.25
    kept[key]["tolerance"] = 0.1
    cache.write_text(json.dumps(kept))
    (made,) = matched(["reference[picard]"], ["gradient"], SMALL, "float64", "cpu", 1e-6, 0.01, cache)
    assert made.achieved is not None
    assert made.achieved.worst <= 1e-6, "what the cache says is checked when it is used"
    phantom = timed_target("torchdeq")
    assert not match(phantom, row, 1e-6, cache).reached, "the phantom gradient"
    assert match(phantom, replace(row, which="forward"), 1e-6, cache).reached, "its equilibrium is right"


def test_rows_show_what_was_achieved_and_what_is_missing() -> None:
    found = list(rows(["reference", "no-such-target"], ["forward", "step"], SMALL, "float64", "cpu", 0.01))
    assert [row.name for row in found] == ["reference", "reference", "no-such-target"]
    good = plain(found[0])
    assert good["worst"] <= 1e-14  # u·κ(U) = 3e-16, with γ = ½
    assert good["timing"]["median"] > 0
    assert good["control"] > 0
    assert "not installed" in found[2].note
    with pytest.raises(Unavailable, match="float16"):
        timed_target("plain[solve]").prepare(SMALL.problem(), "float16")


class Whole:
    """A model that shows no z."""

    name, claims = "whole", Claims()

    def value_and_grad(self, problem: SoftmaxProblem) -> tuple[float, dict[str, Any]]:
        exact = ClosedForm(problem)
        return exact.loss, exact.block_gradient


def test_a_whole_model_is_judged_by_its_gradient_alone() -> None:
    forward, gradient = rows([f"{__name__}:Whole"], ["forward", "gradient"], SMALL, "float64", "cpu", 0.01)
    assert "shows no z" in forward.note
    assert gradient.achieved is not None
    assert gradient.achieved.z is None
    assert gradient.achieved.worst <= 1e-14  # u·κ(U) = 3e-16, with γ = ½


def test_a_library_is_timed_on_another_cell_and_a_forward_pass_alone_says_so() -> None:
    fixed = FixedProblem(4, 3, 0.5, cell="tanh")
    found = list(
        rows(["plain[unrolled]", "scipy", "plain[solve]"], ["forward", "gradient"], fixed, "float64", "cpu", 0.01)
    )
    unrolled, backward, scipy, refused, direct = found
    assert unrolled.achieved is not None
    assert backward.achieved is not None
    assert unrolled.achieved.z == backward.achieved.z
    assert unrolled.achieved.x is None, "a forward pass is judged by its z"
    # Errors of a residual of 1e-6 of z are twice that at rate ½, in each pass, of data points of one size.
    assert backward.achieved.worst <= 1e-4
    assert scipy.achieved is not None
    assert scipy.achieved.x is None
    assert "forward pass alone" in refused.note
    assert refused.missing
    assert "does not take the cell tanh" in direct.note


def test_a_layer_of_jax_is_timed_under_one_jit() -> None:
    pytest.importorskip("jax")
    from deqverify.benchmarking.targets import JaxRun

    run = timed_target("reference[jax]").prepare(SMALL.problem(), "float64")
    assert isinstance(run, JaxRun)
    assert achieved(SMALL.problem(), *run.answer("gradient")).worst <= 1e-14  # u·κ(U) = 3e-16, with γ = ½
    run.step()
    run.synchronise()


def test_parameters_do_not_depend_on_what_is_installed() -> None:
    assert set(fixed_names()) <= set(names())
    assert "reference[fast]" in fixed_names()


def judged(effects: list[float], noises: list[float]) -> Comparison:
    return Comparison("x", effects, noises)


def test_the_judgement_on_two_commits() -> None:
    half = math.log(1.5)
    assert judged([half] * 3, [0.01] * 3).verdict == "SLOWER"
    assert judged([-half] * 3, [0.01] * 3).verdict == "faster"
    assert judged([0.9 * LEAST] * 3, [0.0] * 3).verdict == "unchanged"
    assert judged([0.9 * LEAST] * 3, [0.0] * 3).undecided, "more rounds, so near the threshold"
    assert not judged([0.0] * 3, [0.0] * 3).undecided
    assert judged([half] * 3, [SEEN] * 3).verdict == "too noisy to tell"
    assert judged([half, half, -0.01], [0.0] * 3).verdict == "unchanged", "the rounds disagree"
    assert exit_code([judged([half] * 3, [0.01] * 3)]) == 1
    assert exit_code([judged([0.0] * 3, [0.01] * 3)]) == 0
    assert exit_code([Comparison("x", error="ImportError")]) == 2


def test_exponents_of_powers() -> None:
    values = [2.0, 4, 8, 16, 32, 64]
    found = exponent(values, [3 * x**2.5 for x in values])
    assert found is not None
    assert abs(found - 2.5) < 1e-12  # a least-squares fit of exact logarithms
    assert exponent([1.0, 2.0], [1.0, 2.0]) is None
