"""Weights of a few bits: the grid, the reference on it, and what the laws make of claimed bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from deqverify.bounds import FLOAT64
from deqverify.cells import LinearSoftmaxCell
from deqverify.claims import Claims
from deqverify.dtypes import DTYPES, round_to, to_grid
from deqverify.implementations.subject import Question, Subject
from deqverify.losses import Squared
from deqverify.problem import CellProblem, SoftmaxProblem
from deqverify.reference import reference
from deqverify.reference.quantised import on_grid
from deqverify.registry import laws
from deqverify.running.weighing import weigh
from deqverify.theory.closed_form import ClosedForm
from deqverify.trial import Effort, look_at, replay

CELL = LinearSoftmaxCell()
WAYS = (("bits=8",), ("bits=8", "numpy"), ("straight-through", "bits=8"))


def matrices() -> list[Any]:
    """Ordinary ones, ties, one entry far above the rest, the ends of grids and a hair beyond them, and zero."""
    draws = np.random.default_rng(0)
    ends = [np.array([[most, most * (1 + 2.0**-20)], [1.0, 0.5]]) for most in (1.0, 3.0, 7.0, 127.0)]
    return [
        *(draws.standard_normal((4, 4)) * scale for scale in (1.0, 3.0, 2.0**-20, 2.0**20)),
        np.array([[2.0, 0.5], [1.5, -0.5]]),
        np.array([[30.0, 0.1], [-0.2, 14.9]]),
        *ends,
        np.zeros((2, 2)),
    ]


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_the_grid_is_symmetric_nearest_and_its_own_and_finer_ones_hold_it(bits: int) -> None:
    most = 2 ** (bits - 1) - 1
    for A in matrices():
        found = to_grid(A, bits)
        step = 2.0 ** np.ceil(np.log2(np.abs(A).max() / most)) if A.any() else 1.0  # no entry is so near a power of two
        assert np.abs(found / step).max() <= most
        assert np.array_equal(found / step, np.rint(found / step))
        assert np.abs(found - A).max() <= step / 2, "the nearest"
        assert np.array_equal(to_grid(-A, bits), -found)
        assert all(np.array_equal(to_grid(found, more), found) for more in (bits, bits + 1, 20))


def test_known_numbers_and_their_ties() -> None:
    A = np.array([[2.0, 0.5, 1.5, -0.5, 0.25, -1.75]])
    assert to_grid(A, 2).tolist() == [[2.0, 0.0, 2.0, 0.0, 0.0, -2.0]]
    assert to_grid(A, 3).tolist() == [[2.0, 0.0, 2.0, 0.0, 0.0, -2.0]], (
        "3 steps of 1 reach 2; ½ and 1½ are ties, to even"
    )
    assert to_grid(A, 4).tolist() == [[2.0, 0.5, 1.5, -0.5, 0.0, -2.0]], "7 steps of ½; ¼ and 1¾ are ties"


@pytest.mark.parametrize("bits", [2, 5, 8, 12, 32])
def test_the_reference_and_the_laws_agree_on_the_grid_in_every_dtype_to_the_last_bit(bits: int) -> None:
    for A in matrices():
        for name in DTYPES:
            if not np.isfinite(rounded := round_to(A, name)).all():
                continue
            expected = to_grid(rounded, bits)
            assert np.array_equal(round_to(expected, name), expected)
            native = torch.tensor(rounded, dtype=getattr(torch, name))
            assert np.array_equal(on_grid(native, bits).double().numpy(), expected)
            if name in ("float64", "float32"):
                assert np.array_equal(on_grid(rounded.astype(name), bits), expected)


@pytest.mark.parametrize("bits", [1, 0, -8, 33, 8.0, True])
def test_bits_that_no_grid_has_are_refused(bits: Any) -> None:
    for make in (lambda: to_grid(np.eye(2), bits), lambda: Claims(bits=bits)):
        with pytest.raises(
            ValueError, match=rf"^bits: a symmetric grid has a whole number of them, 2 to 32, got {bits}$"
        ):
            make()


def test_options_say_the_bits_or_what_is_wrong_with_them() -> None:
    for options in WAYS:
        layer = reference(*options)
        assert (layer.claims.bits, layer.claims.cells) == (8, ("linear-softmax",))
    assert reference("bits=3").name == "reference[bits=3]"
    for options, said in {
        ("bits=1",): "^bits: a symmetric grid has a whole number of them, 2 to 32, got 1$",
        ("bits=some",): "^bits: takes a whole number .* as in reference.bits=8., got 'bits=some'$",
        ("bits",): "^bits: takes a whole number .* got 'bits'$",
        ("bits=8", "bits=4"): "takes one number of bits; give bits once$",
        ("straight-through",): r"write reference\[straight-through,bits=8\]$",
        ("picard", "bits=8"): "solves directly: leave 'picard' out$",
        ("worst", "bits=8"): "solves directly: leave 'worst' out$",
        ("jax", "bits=8"): "is not written for jax; use torch or numpy$",
        ("numpy", "straight-through", "bits=8"): r"autograd's, in torch; reference\[bits=8,numpy\] tells A the same$",
    }.items():
        with pytest.raises(ValueError, match=said):
            reference(*options)


def drawn(m: int = 3) -> SoftmaxProblem:
    draws = np.random.default_rng(m)
    A, B, Phi = (draws.standard_normal(shape) for shape in ((m, m), (1, m), (m, 2)))
    return SoftmaxProblem(2.0 * A, B, Phi, np.zeros((1, 2)), 0.5, Squared())


@pytest.mark.parametrize("options", WAYS)
def test_values_and_gradients_are_those_at_the_quantised_weights_and_no_differences(options: tuple[str, ...]) -> None:
    subject, problem = Subject(reference(*options)), drawn()
    asked = subject.rounded(problem)
    assert not np.array_equal(asked.A, problem.A)
    value, gradient = subject.value_and_grad(problem)
    exact = ClosedForm(asked)
    size = 100 * FLOAT64.unit  # rounding of well-conditioned numbers of size one, where quantising moves them by 1e-3
    assert abs(value - exact.loss) <= size * max(1.0, exact.loss)
    for block, true in exact.block_gradient.items():
        assert np.abs(gradient[block] - true).max() <= size * max(1.0, np.abs(true).max()), block
    assert np.abs(gradient["A"]).max() > 1e-3
    nearby = replace(problem, A=problem.A * (1 - 2.0**-40))  # half a step is 2⁻⁷
    assert subject.value_and_grad(nearby)[0] == value, "constant between jumps, whatever the gradient is"


def test_only_the_weights_of_the_linear_softmax_cell_are_put_on_the_grid() -> None:
    problem = drawn()
    plain, narrow = Subject(reference("numpy")), Subject(reference("bits=4", "numpy"), "float32")
    assert np.array_equal(plain.rounded(problem).A, problem.A)
    assert np.array_equal(narrow.rounded(problem).A, to_grid(round_to(problem.A, "float32"), 4))
    assert np.array_equal(narrow.rounded(problem).Phi, round_to(problem.Phi, "float32"))
    theta = {"A": np.array([[0.3, 0.1], [0.0, 0.2]]), "U": np.eye(2)}
    other = CellProblem("linear", theta, np.ones((1, 2)), np.ones((1, 2)), np.zeros((1, 1)), Squared())
    assert np.array_equal(narrow.rounded(other).theta["A"], round_to(theta["A"], "float32"))


def test_laws_draw_problems_on_the_grid_where_bits_are_claimed() -> None:
    law = laws()["mass"]
    for options, on in ((("numpy",), False), (("bits=4", "numpy"), True)):
        found: list[Any] = []
        look_at(law.drawn(Subject(reference(*options))), found.append, 30, 0)
        assert len(found) == 30
        assert all(np.array_equal(to_grid(A := each["problem"].A, 4), A) for each in found) is on


SAMPLE = (
    "existence",
    "taylor",
    "gradient-theta",
    "second-order",
    "adjoint-identity",
    "perturbation",
    "straight-through",
)
"""Laws of values, of each kind of derivative, and those about quantised weights; ``deqverify run`` asks all of them."""


@pytest.mark.parametrize("options", [("bits=8", "numpy"), ("bits=4",), ("straight-through", "bits=2")])
def test_ordinary_laws_hold_of_quantised_layers_and_those_about_them(options: tuple[str, ...]) -> None:
    subject = Subject(reference(*options))
    for id in SAMPLE:
        law = laws()[id]
        if law.missing(subject) is None:
            trial = law.trial(subject, Effort(3, seconds=60, seed=2, brief="main"))
            assert (trial.error, trial.failure, trial.crashed) == (None, None, 0), id


def test_laws_that_move_weights_off_the_grid_are_not_asked_or_allow_for_it() -> None:
    subject = Subject(reference("bits=8", "numpy"))
    assert laws()["column-shift"].missing(subject) == "its weights are quantised, which what this law does to A changes"
    trial = laws()["column-sums"].trial(subject, Effort(8, seconds=60, seed=2))
    assert (trial.error, trial.failure, trial.informative) == (None, None, 1), (
        "a step of training is no number of the grid"
    )
    assert (
        laws()["straight-through"].missing(Subject(reference("numpy")))
        == "it is not claimed that its weights are quantised"
    )


def test_bits_that_are_not_claimed_are_a_wrong_equilibrium() -> None:
    layer: Any = reference("bits=8", "numpy")
    layer.claims = replace(layer.claims, bits=None)
    seen = replay(laws()["existence"].body, Subject(layer), {"problem": drawn()}).failure
    assert seen


def test_the_bound_on_the_movement_is_reached_and_is_not_passed_over() -> None:
    # At m = 2 what is pushed is a multiple of (1, −1), an eigenvector of S for ±τ, + where the diagonal is the larger.
    problem = replace(drawn(2), A=np.array([[2.2, 0.1], [0.3, 1.7]]), gamma=0.9)
    seen = list(laws()["perturbation"].body(Subject(reference("numpy")), problem=problem, bits=4))[-1]
    assert seen.holds
    assert seen.ratio > 0.999


def test_a_premise_is_asked_on_the_grid_of_what_a_law_asked_off_it() -> None:
    subject = Subject(reference("bits=8", "numpy"))
    weight = weigh(laws()["existence"], lambda: subject, Question(drawn()))
    assert weight
    assert weight.ratio <= 1.0
    assert weight.informative
