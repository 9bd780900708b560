"""What a green run means, measured: what is planted shows, and the numbers are those of a direct experiment."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest

from deqverify.implementations.subject import Subject
from deqverify.losses import Squared
from deqverify.problem import SoftmaxProblem
from tools import power, power_page
from tools.power import (
    CLAIMS,
    QUANTITIES,
    Planted,
    Rarity,
    Size,
    drawn,
    measurable,
    measure,
    near,
    read,
    seen,
    sees,
    smallest,
    smallest_of,
)

SIMPLEST = SoftmaxProblem(np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1)), np.zeros((1, 1)), 0.5, Squared())


def test_one_quantity_is_off_by_the_planted_size_and_no_other() -> None:
    # z = x/(1 − γ) = 2, ∂z/∂x = 2, ∂z/∂γ = x/(1 − γ)² = 4, and A has one entry, in which nothing changes.
    right = {"z": 2.0, "dtheta": 4.0, "dx": 2.0}
    for quantity in QUANTITIES:
        subject = Subject(Planted(quantity, 0.25), "float64")
        pulled = subject.pull(subject.solve(SIMPLEST), np.ones((1, 1)))
        found = {"z": subject.equilibrium(SIMPLEST).item(), "dtheta": pulled["gamma"].item(), "dx": pulled["x"].item()}
        for name, value in found.items():
            assert value == right[name] * (1.25 if name == quantity else 1.0), (quantity, name)
    with pytest.raises(ValueError, match=r"^quantity: 'y' is not one of z"):
        Planted("y", 0.5)


def test_the_smallest_size_is_bisected() -> None:
    for size in (1e-12, 3e-5, 0.4):
        found = smallest(lambda planted, size=size: planted >= size)  # type: ignore[misc]
        assert size <= found <= 1.4 * size  # 17 decades halved seven times
    assert smallest(lambda planted: False) == math.inf


@pytest.mark.parametrize(
    ("law_id", "quantity"),
    [("existence", "z"), ("adjoint-certificate", "dx"), ("gradient-theta", "dtheta"), ("gradient-x", "dx")],
)
def test_a_law_sees_a_large_error_and_none_where_there_is_none(law_id: str, quantity: str) -> None:
    examples = drawn(law_id, 0)[: power.TRIED]
    assert measurable(law_id)
    assert quantity in sees(law_id, examples)
    telling = [each for each in examples if seen(law_id, quantity, 1.0, "exact", each)]
    assert len(telling) >= 6, "a few have nothing that could be off, as features of zero"
    for each in examples:
        assert not any(seen(law_id, quantity, 0.0, claim, each) for claim in CLAIMS)
    exact, claimed = (smallest_of(law_id, quantity, claim, telling) for claim in CLAIMS)
    assert exact < 1e-10 < 1e-7 < claimed < 1.0, "a claim of 1e-6 hides what is smaller"


def test_what_compares_an_implementation_with_itself_sees_no_factor_and_another_cell_is_not_asked() -> None:
    assert sees("deterministic", drawn("deterministic", 0)[: power.TRIED]) == []
    assert not measurable("node-order")
    assert not measurable("trace"), "the reference shows none"


def test_rates_have_problems_near_them_and_do_not_overlap() -> None:
    for gamma, rates in ((0.5, [0.5]), (0.9, [0.9]), (0.99, [0.99]), (0.75, []), (0.97, [])):
        problem = SIMPLEST.with_blocks(gamma=np.asarray(gamma))
        assert [rate for rate in power.RATES if near(problem, rate)] == rates  # type: ignore[arg-type]


def test_the_probability_is_that_of_defects_planted_at_random() -> None:
    counts, frequency, rng = (0, 3, 12), 0.2, random.Random(0)
    rarity = Rarity("existence", "every problem", 1.0, counts)
    tries = 20_000
    found = sum(any(rng.random() < frequency for _ in range(rng.choice(counts))) for _ in range(tries))
    # Five standard deviations of a share of so many tries.
    assert abs(found / tries - rarity.probability(frequency)) < 5 * 0.5 / tries**0.5
    assert rarity.probability(rarity.at(0.5)) == pytest.approx(0.5, abs=1e-9)  # halved forty times
    assert rarity.at(0.95) == math.inf, "a third of the seeds can tell nothing"
    assert Rarity("existence", "", 1.0, (1,)).at(0.5) == pytest.approx(0.5, abs=1e-9)


def test_what_is_measured_is_kept_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "examples_of", lambda law_id: 12)
    measure(["existence"], [0, 1], tmp_path / "power.json")
    document, sizes, rarities = read(tmp_path / "power.json")
    assert document["seeds"] == 2
    assert {(size.claim, size.rate) for size in sizes} == {(claim, rate) for claim in CLAIMS for rate in power.RATES}
    assert [rarity.regime for rarity in rarities] == list(power.REGIMES)
    assert all(count <= 12 for count in rarities[0].telling)
    text = power_page.page(document, sizes, rarities)
    assert text.count("| `existence` |") == len(CLAIMS) + len(power.REGIMES)
    assert document["day"] in text
    svg = power_page.picture(sizes, rarities)
    assert svg.count("existence") >= 1
    assert "probability that it is found" in svg


def test_quantiles_are_of_the_seeds_that_drew_such_a_problem() -> None:
    size = Size("existence", "z", "exact", 0.9, (4.0, math.inf, 1.0, 2.0, 3.0), without=1)
    assert (size.at(0.5), size.at(0.95)) == (2.0, 4.0)
    blind = Size("existence", "z", "exact", 0.9, (1.0, math.inf), without=0)
    assert blind.at(0.95) == math.inf


def test_the_page_is_what_was_measured() -> None:
    document, sizes, rarities = read()
    assert power.PAGE.read_text(encoding="utf-8") == power_page.page(document, sizes, rarities)
    assert "Infinity" not in power.MEASURED.read_text(encoding="utf-8"), "JSON has no such word"
    assert {*power_page.SHOWN} < {size.law for size in sizes}
    pairs = {(size.law, size.quantity) for size in sizes}
    assert len(sizes) == len(pairs) * len(CLAIMS) * len(power.RATES)
