"""Scenarios: each claim holds on small sizes, and fails on a change that was planted."""

from __future__ import annotations

import datetime
import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from deqverify.losses import Squared
from deqverify.scenarios.registry import ORDER, Claim, Outcome, Scenario, Work, scenarios
from deqverify.scenarios.writing import LARGEST, picture

SCENARIOS = scenarios()

SMALL: dict[str, dict[str, Any]] = {
    "linear-rate": {"widths": (2, 4), "p": 2, "n": 3, "steps": 60},
    "trust-region": {"cases": (("squared", 2, 1, 3),), "until": 1.0, "points": 12},
    "ling": {"n": 3, "times": (0.5, 16), "seeds": 1, "steps": 12},
    "gao": {"n": 3, "times": (0.5, 16), "seeds": 1, "steps": 12},
    "unhinged": {"cases": ((2, 2, 3, 0.5),), "growth": 5.0, "points": 17},
    "two-layer": {"d": 8, "m": 2, "p": 1, "n": 4, "noises": (0.5,), "alphas": (0.1, 0.03, 0.01), "seeds": 1},
    "implicit-bias": {
        "m": 6,
        "p": 2,
        "n": 3,
        "seeds": 3,
        "steps": 60,
        "images": 20,
        "image_steps": 1,
        "image_seeds": 1,
    },
    "bits": {"m": 5, "p": 1, "n": 8, "bits": (2, 3, 5, 7), "seeds": 3, "steps": 200},
    "consensus": {"sizes": ((1, 1, 4), (2, 1, 4)), "count": 60, "steps": 120, "samples": 400},
    "edge": {"size": (2, 1, 4), "times": (0.2, 2.0), "count": 24, "steps": 1200},
    "correlations": {"widths": (8, 32, 128), "n": 3, "seeds": 6, "steps": 10},
    "lattice": {"sites": 32, "disorder": 8.0, "beta": 2.0, "steps": 200, "disorders": 1, "tolerances": (1e-3,)},
    "spheres": {"cases": ((2, 2, 1, 2, False),), "until": 400.0, "points": 8},
}
"""Sizes for tests: a second or two each."""


def skipped_without_what_it_needs(name: str) -> None:
    for module in SCENARIOS[name].needs:
        pytest.importorskip(module)


@cache
def outcome(name: str) -> Outcome:
    skipped_without_what_it_needs(name)
    return SCENARIOS[name].compute(Work(), **SMALL[name])


@pytest.mark.parametrize("name", SMALL)
def test_every_claim_holds_and_the_picture_is_drawn(name: str) -> None:
    found = outcome(name)
    assert [f"{claim.name}: {claim.measured}, {claim.bound}" for claim in found.claims if not claim.holds] == []
    assert all(len(row) == len(found.columns) for row in found.rows)
    figure = Figure()
    found.draw(figure)
    assert figure.axes


def test_a_picture_sets_its_labels_and_holds_no_date() -> None:
    drawn = picture(outcome("trust-region"))
    assert drawn.startswith("<?xml")
    assert "mathdefault" not in drawn, "labels of powers of ten are set, not spelt"
    assert str(datetime.date.today()) not in drawn


def test_committed_results_are_small_whole_and_hold_or_are_said_to_fail() -> None:
    folder = Path(__file__).parent.parent / "docs" / "scenarios"
    index = (folder / "README.md").read_text(encoding="utf-8")
    for name in ORDER:
        assert (folder / f"{name}.svg").stat().st_size < LARGEST
        known = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        (row,) = (line for line in index.splitlines() if line.startswith(f"| [{name}]({name}.md)"))
        assert known["holds"] != ("fails" in row), name
        of = SCENARIOS[name]
        assert (known["title"], known["source"]) == (of.title, of.source)
        assert known["sizes"].keys() == of.full.keys(), "sizes were renamed since"
        page = (folder / f"{name}.md").read_text(encoding="utf-8").replace("\\|", "|")
        assert [claim["name"] for claim in known["claims"] if claim["name"] not in page] == []


def failing(name: str, plant: Callable[[Any, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The claims, by their place, that fail once ``plant`` changed the scenario's module."""
    skipped_without_what_it_needs(name)
    of: Scenario = SCENARIOS[name]
    plant(importlib.import_module(of.compute.__module__), monkeypatch)
    found = of.compute(Work(), **SMALL[name])
    return {k for k, claim in enumerate(found.claims) if not claim.holds}


Plant = Callable[[Any, pytest.MonkeyPatch], None]


def scaled(name: str, by: Callable[[Any], Any], at: int | None = None) -> Plant:
    """The function ``name`` of the module gives ``by`` of what it gave, or of its part number ``at``."""

    def plant(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        right = getattr(module, name)

        def wrong(*args: Any, **kwargs: Any) -> Any:
            found = right(*args, **kwargs)
            return by(found) if at is None else (*found[:at], by(found[at]), *found[at + 1 :])

        monkeypatch.setattr(module, name, wrong)

    return plant


def without(block: str) -> Plant:
    return scaled("gradient", lambda g: g | {block: 0 * g[block]})


def shared(plant: Plant) -> Plant:
    """Planted in what the two scenarios on ReLU cells share."""
    return lambda _, monkeypatch: plant(importlib.import_module("deqverify.scenarios.relu_descent"), monkeypatch)


def negated(g: dict[str, Any], by: float) -> dict[str, Any]:
    return {name: -by * value for name, value in g.items()}


def in_gradient(by: Callable[[Any], Any]) -> Plant:
    return scaled("loss_and_gradient", by, 1)


def flat_start(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """γ ≈ 0: the equilibrium model is the shallow one."""
    right = module.start
    monkeypatch.setattr(module, "start", lambda *case: replace(right(*case), gamma=1e-12))


def still_readout(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.MODELS["equilibrium"]
    wrong = replace(right, gradient=lambda *args: [(g := right.gradient(*args))[0], 0 * g[1]])
    monkeypatch.setitem(module.MODELS, "equilibrium", wrong)


def teachers_exchanged(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right, other = module.made, {"equilibrium": "Gaussian", "Gaussian": "equilibrium"}
    monkeypatch.setattr(module, "made", lambda seed, teacher, *rest: right(seed, other[teacher], *rest))


def wider(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.start
    monkeypatch.setattr(module, "start", lambda seed, width, n: right(seed, max(width, 16 * n), n))


def of_rows(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class OfRows(module.ClosedForm):
        S = property(lambda self: (E := np.exp(self.problem.A)) / E.sum(axis=1, keepdims=True))

    monkeypatch.setattr(module, "ClosedForm", OfRows)


def stopped_early(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Early(module.ClosedForm):
        @property
        def Z(self) -> Any:
            return self.solve(self.problem.Phi) * (1.0 + 1e-9 * self.S[:, :1])

    monkeypatch.setattr(module, "ClosedForm", Early)


def explicit(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Euler's step in place of the implicit one, its residual said honestly."""

    def stepped(theta: Any, psi: Any, guess: Any, tolerance: float) -> Any:
        z = module.CELL.step(theta, psi)(psi)
        residual = np.linalg.norm(module.CELL.step(theta, psi)(z) - z)
        return z, float(residual), float(np.linalg.norm(psi + z)) / 2

    monkeypatch.setattr(module, "stepped", stepped)


def with_argument(name: str, at: int, value: Any) -> Plant:
    """``value`` of the argument number ``at`` in place of the argument."""

    def plant(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        right = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: right(*args[:at], value(args[at]), *args[at + 1 :]))

    return plant


def shorter(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.moved
    monkeypatch.setattr(module, "moved", lambda w, z, v, x, along: right(w, z, v, x, along * len(w["B"]) ** -1.5))


def free(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.spread
    monkeypatch.setattr(module, "spread", lambda seed, sites, disorder, *rest: right(seed, 256, 0.0, *rest))


def frozen(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRIFT", 0.0)
    monkeypatch.setattr(module, "NOISE", 0.0)


def pushed(g: dict[str, Any]) -> dict[str, Any]:
    """Every state of inputs with a positive sum is driven to 0."""
    return {name: (1e3 if name == "U" else 0.0) * np.ones_like(value) for name, value in g.items()}


PLANTED: list[tuple[str, str, Plant, set[int]]] = [
    ("linear-rate", "a rate far too large", scaled("promised", lambda rate: 1e9 * rate), {0, 2, 4}),
    ("linear-rate", "the readout is not trained", without("B"), {1, 3, 5}),
    ("trust-region", "A is not trained", without("A"), {0}),
    ("trust-region", "nothing to tell apart", flat_start, {1}),
    ("implicit-bias", "the readout is not trained", still_readout, {0}),
    ("implicit-bias", "the other teacher", teachers_exchanged, {1, 2, 3}),
    (
        "implicit-bias",
        "a deep linear network from another start",
        scaled("starts", lambda w: w | {"deep linear": [np.eye(len(w["ReLU"][0])), *w["linear"]]}),
        {4},
    ),
    ("ling", "gradients of the wrong sign", shared(scaled("gradients", lambda g: negated(g, 8.0), 0)), {0, 3}),
    ("ling", "targets far away", scaled("start", lambda Y: 1e4 * Y, 4), {0, 2}),
    ("ling", "input weights pushed away", shared(scaled("gradients", pushed, 0)), {1}),
    ("ling", "no narrow start", wider, {4}),
    ("gao", "gradients of the wrong sign", shared(scaled("gradients", lambda g: negated(g, 8.0), 0)), {0, 3}),
    ("gao", "targets far away", scaled("start", lambda Y: 1e4 * Y, 4), {0, 2}),
    ("gao", "input weights pushed away", shared(scaled("gradients", pushed, 0)), {1}),
    ("gao", "no narrow start", wider, {4}),
    ("unhinged", "half the velocity of the features", scaled("velocity", lambda v: 0.5 * v, 1), {0, 1}),
    ("unhinged", "a generator twice as large", scaled("generator", lambda N: 2 * N), {0, 2}),
    ("unhinged", "a generator half as large", scaled("generator", lambda N: N / 2), {0, 3}),
    ("two-layer", "a gradient twice as large", scaled("gradients", lambda g: 2 * g, 0), {0}),
    ("two-layer", "a start whose size is not α", scaled("balanced", lambda w: w / np.linalg.norm(w), 0), {2, 3, 4}),
    (
        "two-layer",
        "targets out of reach",
        scaled("data", lambda of: of._replace(X=np.repeat(of.X[:, :1], of.X.shape[1], 1))),
        {1},
    ),
    ("spheres", "a gradient in A twice as large", in_gradient(lambda g: g | {"A": 2 * g["A"]}), {0, 1, 2, 4}),
    ("spheres", "no wrong adjoint", lambda module, patch: patch.setattr(module, "one_step", module.adjoint), {3}),
    ("spheres", "targets far away", scaled("start", lambda Y: 100 * Y, 2), {5}),
    ("bits", "a softmax along rows", of_rows, {0, 2}),
    ("bits", "equilibria that are off by a billionth", stopped_early, {1, 2}),
    ("bits", "always three bits", with_argument("to_grid", 1, lambda bits: 3), {3, 4}),
    ("bits", "a step fifty times as long", scaled("preconditioned", lambda g: 50 * g), {5}),
    ("consensus", "values that are too small", scaled("values", lambda of: 0.99 * of), {0}),
    ("consensus", "a plain mean", with_argument("consensus", 2, lambda alpha: 0.0), {2}),
    ("consensus", "particles that stay", frozen, {1}),
    ("edge", "short steps", scaled("sharpness", lambda s: 100 * s), {0}),
    ("edge", "long steps", scaled("sharpness", lambda s: s / 100), {4}),
    ("edge", "a loss of unbounded slope", lambda module, patch: patch.setattr(module, "LOSS", Squared()), {1, 2, 3}),
    ("correlations", "one width", with_argument("start", 1, lambda m: 16), {0, 2}),
    ("correlations", "steps that fall with the width", shorter, {1, 3}),
    ("correlations", "training that hardly moves", with_argument("moved", 4, lambda along: 1e-3 * along), {4}),
    ("lattice", "residuals said a hundredth of what they are", scaled("stepped", lambda r: r / 100, 1), {0}),
    ("lattice", "explicit steps", explicit, {1}),
    ("lattice", "no disorder, a wide ring", free, {2}),
    ("lattice", "no disorder", with_argument("spread", 2, lambda disorder: 0.0), {3}),
    ("spheres", "training that hardly moves", in_gradient(lambda g: negated(g, -1e-9)), {6}),
]
"""Scenario, what is planted, how, and the claims that fail at the least."""


@pytest.mark.parametrize(("name", "what", "plant", "least"), PLANTED, ids=[f"{p[0]}: {p[1]}" for p in PLANTED])
def test_a_planted_change_fails(
    name: str, what: str, plant: Plant, least: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert failing(name, plant, monkeypatch) >= least


@pytest.mark.parametrize("name", SMALL)
def test_each_claim_fails_on_some_planted_change(name: str) -> None:
    fails = set().union(*(least for of, _, _, least in PLANTED if of == name))
    assert fails == set(range(len(outcome(name).claims)))


def test_a_number_that_is_none_holds_no_claim() -> None:
    assert not Claim("x", float("nan"), "").holds
    assert Claim("x", 1.0, "", 1.0, 1.0).holds
    assert [Claim("x", 0, "", *ends).bound for ends in ((0.5,), (-np.inf, 2), (1, 2))] == [
        "at least 0.5",
        "at most 2",
        "1 to 2",
    ]
