"""Functions of JAX and an Equinox module, wrapped: correct ones are spared, both broken twins of each are caught."""

from __future__ import annotations

import pytest

pytest.importorskip("equinox")

from deqverify import check_deq
from deqverify.running.results import Verdict
from tests.wrapped import jax_layers
from tests.wrapped.test_layers import caught, tried

TWINS = [(name, twin) for name, twins in jax_layers.TWINS.items() for twin in twins]
SPARING = ("existence", "energy", "gradient-theta", "history")


@pytest.mark.parametrize("name", jax_layers.TWINS)
def test_a_correct_layer_in_jax_is_spared(name: str) -> None:
    deq = jax_layers.wrapped(name)
    informative = examples = 0
    for law, dtype in zip(SPARING, ("float64", "float64", "float32", "float32"), strict=True):
        trial = tried(deq, law, dtype, 6, 0)
        assert trial.failure is None, (law, trial.failure)
        informative, examples = informative + trial.informative, examples + trial.examples
    assert informative > examples / 2


@pytest.mark.parametrize(("name", "twin"), TWINS)
def test_a_broken_twin_in_jax_is_caught(name: str, twin: str) -> None:
    assert caught(jax_layers.wrapped(name, twin), twin, seed=0)


def test_a_pytree_of_parameters_has_names() -> None:
    cell = jax_layers.wrapped("relu").cell
    assert cell
    assert set(cell.own) == {"U", "inner.W", "inner.b"}
    module = jax_layers.wrapped("attention").cell
    assert module
    assert {"query", "key", "value"} <= set(module.own)


def test_what_no_oracle_knows_of_a_whole_layer_is_not_asked() -> None:
    """A gradient of one step can be derived again, where one that is implicit refuses."""
    deq = jax_layers.wrapped("relu", "one-step")
    report = check_deq(deq, laws=["second-order", "start-gradient"], dtype="float64", progress=False)
    assert [result.verdict for result in report.results] == [Verdict.NOT_CLAIMED] * 2
    assert "whole layer" in report.results[0].reason


def test_a_gradient_that_arrives_wrong_is_not_called_none() -> None:
    """A whole layer shows no adjoint, and so none that is zero."""
    deq = jax_layers.wrapped("attention", "not transposed")
    (result,) = check_deq(deq, laws=["gradient-theta"], dtype="float64", seed=0, progress=False).results
    assert result.violation
    assert "no gradient" not in result.violation.diagnosis
