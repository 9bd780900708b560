"""Training and test loss of the equilibrium model beside those of explicit models of the same size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from deqverify.dtypes import Array
from deqverify.losses import CrossEntropy, Loss, Squared
from deqverify.problem import SoftmaxProblem
from deqverify.scenarios.registry import Claim, Outcome, Work, scenario
from deqverify.scenarios.softmax_descent import backtracked
from deqverify.theory.closed_form import ClosedForm

GAMMA = 0.8

Weights = list[Array]


class Data(NamedTuple):
    """Features (m, n) and targets (p, n) to learn from, others to test on."""

    Phi: Array
    Y: Array
    tested: Array
    truth: Array
    loss: Loss


@dataclass(frozen=True)
class Model:
    """``outputs(weights, Φ)`` and ``gradient(weights, Φ, ∂L/∂F)``, F being what ``outputs`` gave."""

    outputs: Callable[[Weights, Array], Array]
    gradient: Callable[[Weights, Array, Array], Weights]


def _solved(weights: Weights, Phi: Array) -> ClosedForm:
    A, B = weights
    return ClosedForm(SoftmaxProblem(A, B, Phi, np.zeros((len(B), Phi.shape[1])), GAMMA, Squared()))


def equilibrium_gradient(weights: Weights, Phi: Array, dF: Array) -> Weights:
    """In A and B."""
    exact = _solved(weights, Phi)
    moved = ClosedForm(exact.problem, weights[1].T @ dF)
    return [moved.gradient["A"], dF @ exact.Z.T]


def _deep_gradient(weights: Weights, Phi: Array, dF: Array) -> Weights:
    V, W = weights
    return [W.T @ dF @ Phi.T, dF @ (V @ Phi).T]


def _relu_gradient(weights: Weights, Phi: Array, dF: Array) -> Weights:
    V, W = weights
    before = V @ Phi
    return [(W.T @ dF * (before > 0)) @ Phi.T, dF @ np.maximum(before, 0.0).T]


MODELS = {
    "equilibrium": Model(lambda w, Phi: _solved(w, Phi).F, equilibrium_gradient),
    "linear": Model(lambda w, Phi: w[0] @ Phi, lambda w, Phi, dF: [dF @ Phi.T]),
    "deep linear": Model(lambda w, Phi: w[1] @ (w[0] @ Phi), _deep_gradient),
    "ReLU": Model(lambda w, Phi: w[1] @ np.maximum(w[0] @ Phi, 0.0), _relu_gradient),
}


def starts(seed: int, m: int, p: int) -> dict[str, Weights]:
    """The equilibrium model, the shallow linear one and the deep linear one start at one and the same function: what
    they learn differs by how they move alone. All but the shallow one have m² + pm weights."""
    draws = np.random.default_rng([seed, 1])
    A, B = draws.standard_normal((m, m)), draws.standard_normal((p, m)) * (1.0 - GAMMA) / m
    inverse = np.linalg.inv(ClosedForm(SoftmaxProblem(A, B, np.eye(m), np.zeros((p, m)), GAMMA, Squared())).U)
    he = draws.standard_normal((m, m)) * (2.0 / m) ** 0.5
    return {"equilibrium": [A, B], "linear": [B @ inverse], "deep linear": [inverse, B], "ReLU": [he, B]}


def made(seed: int, teacher: str, noise: float, m: int, p: int, n: int) -> Data:
    """Gaussian features; targets of an equilibrium model with other weights, or of a Gaussian linear map, of size one,
    and noise on what is learnt from."""
    draws = np.random.default_rng([seed, 2])
    Phi, tested = draws.standard_normal((m, n)), draws.standard_normal((m, 400))
    A, B = draws.standard_normal((m, m)), draws.standard_normal((p, m))
    model, weights = ("equilibrium", [A, B]) if teacher == "equilibrium" else ("linear", [B])
    Y, truth = (MODELS[model].outputs(weights, features) for features in (Phi, tested))
    size = float(np.sqrt(np.mean(truth**2)))
    return Data(Phi, Y / size + noise * draws.standard_normal((p, n)), tested, truth / size, Squared())


def digits(seed: int, n: int) -> Data:
    """scikit-learn's bundled digits (1797 images of 8 × 8 pixels): n to learn from, all others to test on."""
    images, classes = _bundled()
    order = np.random.default_rng([seed, 3]).permutation(len(classes))
    pixels = np.vstack([images.T / 16.0, np.ones(len(order))])[:, order]
    labels = np.eye(10)[:, classes[order]]
    return Data(pixels[:, :n], labels[:, :n], pixels[:, n:], labels[:, n:], CrossEntropy(ridge=0.0))


LOOKS = 25
"""So often losses are noted on the way."""


@cache
def _bundled() -> tuple[Array, Array]:
    """Images (1797, 64) with entries up to 16, and their classes."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    return images, classes


def ahead(
    model: Model, weights: Weights, slope: Weights, data: Data, eta: float
) -> tuple[tuple[Weights, Array], float]:
    """Weights and outputs a step η along −``slope`` further, and the loss there."""
    moved = [w - eta * g for w, g in zip(weights, slope, strict=True)]
    F = model.outputs(moved, data.Phi)
    return (moved, F), float(data.loss.value(F, data.Y))


def learn(model: Model, weights: Weights, data: Data, steps: int) -> dict[str, list[float]]:
    """Gradient descent with backtracking; losses are means over the data points."""
    loss, eta = data.loss, 1e-2
    looks = set(np.unique(np.round(np.geomspace(1, steps + 1, LOOKS)).astype(int) - 1).tolist())
    seen: dict[str, list[float]] = {"step": [], "train": [], "test": []}
    F = model.outputs(weights, data.Phi)
    value = float(loss.value(F, data.Y))
    for step in range(steps + 1):
        if step in looks:
            tested = float(loss.value(model.outputs(weights, data.tested), data.truth))
            for name, what in (
                ("step", step),
                ("train", value / data.Y.shape[1]),
                ("test", tested / data.truth.shape[1]),
            ):
                seen[name].append(float(what))
        slope = model.gradient(weights, data.Phi, loss.gradient(F, data.Y))
        squared = sum(float(np.sum(g**2)) for g in slope)
        found = backtracked(partial(ahead, model, weights, slope, data), value, squared, 2.0 * eta)
        if found is not None:
            (weights, F), value, eta = found
    return seen


def at_equal_training(runs: dict[str, Any]) -> dict[str, float]:
    """The test loss of each model where its training loss first was the least that all of them reach."""
    level = max(run["train"][-1] for run in runs.values())
    return {
        name: float(np.exp(np.interp(-np.log(level), -np.log(run["train"]), np.log(run["test"]))))
        for name, run in runs.items()
    }


@scenario(
    name="implicit-bias",
    title="What an equilibrium model learns beside explicit models of the same size",
    source="Kawaguchi 2021, arXiv 2102.07346, its numerical observation",
    quick={"m": 16, "p": 4, "n": 8, "seeds": 4, "steps": 120, "images": 200, "image_steps": 120, "image_seeds": 1},
    full={"m": 24, "p": 4, "n": 12, "seeds": 8, "steps": 400, "images": 400, "image_steps": 300, "image_seeds": 2},
    needs=("sklearn",),
)
def implicit_bias(
    work: Work, m: int, p: int, n: int, seeds: int, steps: int, images: int, image_steps: int, image_seeds: int
) -> Outcome:
    """The equilibrium model, the shallow linear model, a deep linear network and a ReLU network, all but the shallow
    one with m² + pm weights, under gradient descent with the same line search. The first three start at one and the
    same linear function and can represent the same functions: what differs is the implicit bias. Test losses are
    compared where training losses are equal, since the models move at different speeds."""
    kinds = (("equilibrium", 0.0), ("equilibrium", 0.3), ("Gaussian", 0.0))
    items = [(*kind, s) for kind in kinds for s in range(seeds)] + [("digits", 0.0, s) for s in range(image_seeds)]

    def run(item: tuple[str, float, int]) -> dict[str, Any]:
        teacher, noise, start = item
        seed = work.seed + start
        if teacher == "digits":
            data, first, count = digits(seed, images), starts(seed, 65, 10), image_steps
        else:
            data, first, count = made(seed, teacher, noise, m, p, n), starts(seed, m, p), steps
        return {name: learn(model, first[name], data, count) for name, model in MODELS.items()}

    runs = dict(zip(items, work.each(items, run, "data, noise, start"), strict=True))
    equal = {item: at_equal_training(found) for item, found in runs.items()}

    def ratio(teacher: str, noise: float, name: str) -> float:
        """The geometric mean, over the starts, of the test loss over the shallow model's."""
        return float(
            np.exp(np.mean([np.log(e[name] / e["linear"]) for i, e in equal.items() if i[:2] == (teacher, noise)]))
        )

    left = [found["equilibrium"]["train"] for item, found in runs.items() if item[0] != "digits"]
    claims = [
        Claim(
            "the largest share of the training loss that is left to the equilibrium model, on data made here",
            max(train[-1] / train[0] for train in left),
            "fewer points than features, so L* = 0, and no stationary point is worse (Theorem 1); two decades",
            high=0.01,
        ),
        Claim(
            "targets of an equilibrium model: its test loss over the shallow linear model's",
            ratio("equilibrium", 0.0, "equilibrium"),
            "the observation, that the bias helps; below 1",
            high=1.0,
        ),
        Claim("the same with noise", ratio("equilibrium", 0.3, "equilibrium"), "as before", high=1.0),
        Claim(
            "targets of a Gaussian linear map: the same ratio",
            ratio("Gaussian", 0.0, "equilibrium"),
            "a bias is no gift: towards other targets it does not help",
            low=1.0,
        ),
        Claim(
            "targets of an equilibrium model: test loss over that of a deep linear network from the same function",
            ratio("equilibrium", 0.0, "equilibrium") / ratio("equilibrium", 0.0, "deep linear"),
            "found here: the two biases agree within a fifth, as both begin with the metric UᵀU",
            low=0.8,
            high=1.25,
        ),
    ]
    rows = [
        (
            teacher if teacher == "digits" else f"targets: {teacher}",
            noise,
            *(float(np.mean([equal[i][name] for i in equal if i[:2] == (teacher, noise)])) for name in MODELS),
            ratio(teacher, noise, "equilibrium"),
        )
        for teacher, noise in (*kinds, ("digits", 0.0))
    ]
    columns = ("data", "noise", *(f"test, {name}" for name in MODELS), "equilibrium/linear")

    def draw(figure: Any) -> None:
        shown = (("equilibrium", 0.0, 0), ("Gaussian", 0.0, 0), ("digits", 0.0, 0))
        for axes, item in zip(figure.subplots(1, 3), shown, strict=True):
            for k, name in enumerate(MODELS):
                seen = runs[item][name]
                at = np.array(seen["step"]) + 1.0
                axes.loglog(at, np.maximum(seen["train"], 1e-6), "--", color=f"C{k}")
                axes.loglog(at, seen["test"], color=f"C{k}", label=name)
            axes.set_title("digits" if item[0] == "digits" else f"targets: {item[0]}")
            axes.set_xlabel("step; dashed: training loss")
        figure.axes[0].set_ylabel("mean loss")
        figure.axes[0].legend()

    notes = [
        "Where this differs from the paper: of the paper only the abstract could be read here, so the sizes, the line "
        "search in place of a fixed step, the data made here and the digits in place of larger images are ours. The "
        "abstract speaks of a numerical observation and of an open problem, not of which model wins.",
        "Test losses in the table are at equal training loss: the least that all four reach.",
    ]
    return Outcome(claims, columns, rows, draw, notes)
