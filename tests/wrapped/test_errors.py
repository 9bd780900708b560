"""What a new user gets wrong: each error says what was seen, what was expected and the line to change."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deqverify import Accuracy, Claims, check_deq
from deqverify.implementations.wrapped_torch import wrap_torch

X = torch.randn(4, 3)


class Layer(nn.Module):
    """A DEQ with a hole for what may be wrong with it."""

    def __init__(self, change: Callable[[Any, Any], Any] = lambda z, x: z) -> None:
        super().__init__()
        self.W, self.change = nn.Linear(3, 3), change
        with torch.no_grad():
            self.W.weight.mul_(0.5 / torch.linalg.matrix_norm(self.W.weight, 2))

    def f(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.W(z) + x)

    def forward(self, x: torch.Tensor) -> Any:
        z = torch.zeros_like(x)
        for _ in range(50):
            z = self.f(z, x)
        return self.change(z, x)


def refused(message: str, *args: Any, kind: type[Exception] = ValueError, **kwargs: Any) -> None:
    with pytest.raises(kind, match=re.escape(message)) as caught:
        wrap_torch(*args, **kwargs)
    assert "expected" in str(caught.value)


def test_a_function_that_returns_a_tuple() -> None:
    layer = Layer(lambda z, x: (z, 50))
    refused("module(x) returned a tuple of a torch.float32 tensor of shape (4, 3) and a int", layer, layer.f,
            example=X, kind=TypeError, claims=Claims(dtypes=("float32",)))  # fmt: skip
    deq = wrap_torch(layer, layer.f, example=X, state=lambda out: out[0])  # the line that the message says
    assert deq.cell


def test_a_layer_that_returns_a_loss_beside_its_state() -> None:
    layer = Layer(lambda z, x: (z, z.sum(1, keepdim=True)))

    def cell(z: Any, x: torch.Tensor) -> torch.Tensor:
        return layer.f(z[0], x)

    refused("cell(z, x) returned 1 array of shape (4, 3), and the layer a state of 2 arrays", layer, cell, example=X)
    refused("state=lambda out: out[0]", layer, cell, example=X)


def test_a_module_in_evaluation_mode() -> None:
    layer = Layer()
    layer.change = lambda z, x: z if layer.training else z.detach()
    layer.eval()
    refused("the module is in evaluation mode; expected", layer, layer.f, example=X)
    refused("module.train()", layer, layer.f, example=X)
    assert wrap_torch(layer, layer.f, example=X, claims=Claims(backward=None)).cell
    layer.train()
    assert wrap_torch(layer, layer.f, example=X).cell


def test_a_cell_that_returns_its_residual() -> None:
    layer = Layer()
    refused("and not its residual", layer, lambda z, x: layer.f(z, x) - z, example=X)
    refused("add z to what it returns", layer, lambda z, x: z - layer.f(z, x), example=X)
    dead = Layer(lambda z, x: 1 + 0 * z)  # wrong, and no residual: laws say so
    assert wrap_torch(dead, lambda z, x: torch.relu(dead.W(z) - 9), example=X).cell


def test_arguments_the_other_way_round() -> None:
    layer = Layer()
    refused("expected the state before the inputs", layer, lambda x, z: layer.f(z, x), example=X)
    broken = Layer(lambda z, x: 2 * z)
    assert wrap_torch(broken, broken.f, example=X).cell


def test_an_equilibrium_without_a_graph() -> None:
    layer = Layer(lambda z, x: z.detach())
    refused("z = self.f(z.detach(), x)", layer, layer.f, example=X)


def test_the_batch_axis_elsewhere() -> None:
    layer = Layer(lambda z, x: z.T)
    refused("for 4 data points the layer returned a state of shape (3, 4); expected (4, …)", layer, layer.f, example=X)
    refused("return z.movedim(1, 0)", layer, layer.f, example=X)
    refused("inputs of shapes (4, 3) and (3, 4) have 3 and 4 data points", layer, layer.f, example=(X, X.T))


def test_a_cell_that_mixes_data_points() -> None:
    layer = Layer()
    refused("f(z, x) of the first data point beside itself is another than among 4", layer,
            lambda z, x: layer.f(z, x - x.mean(0)), example=X)  # fmt: skip
    refused("Claims(separable=False)", layer, lambda z, x: layer.f(z, x - x.mean(0)), example=X)


def test_batch_statistics_in_training_mode() -> None:
    layer = Layer()
    layer.norm = nn.BatchNorm1d(3)
    refused("norm takes statistics of the batch: call module.eval() first", layer,
            lambda z, x: layer.f(z, layer.norm(x)), example=X)  # fmt: skip


def test_dropout() -> None:
    layer = Layer()
    layer.drop = nn.Dropout(0.5)
    refused("drop is on: call module.eval() first", layer, lambda z, x: layer.drop(layer.f(z, x)), example=X)


class Loose(Layer):
    """Holds a float32 tensor that no cast reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.A = torch.eye(3)

    def f(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.W(z @ self.A) + x)


def test_float32_weights_under_float64() -> None:
    layer = Loose()
    refused("A is a plain attribute, which no cast reaches: self.register_buffer('A', …)", layer, layer.f, example=X,
            kind=TypeError)  # fmt: skip
    refused("cell(z, x) raised", layer, layer.f, example=X, kind=TypeError, claims=Claims(dtypes=("float32",)))
    a = layer.A
    del layer.A
    layer.register_buffer("A", a)
    assert wrap_torch(layer, layer.f, example=X).cell


def test_a_start_in_float32() -> None:
    layer = Layer(lambda z, x: z.float())
    refused("write x.new_zeros(…)", layer, layer.f, example=X, kind=TypeError)


def test_an_example_of_another_size() -> None:
    layer = Layer()
    refused("for inputs of shape (4, 5); expected an input that the layer takes", layer, layer.f,
            example=torch.randn(4, 5))  # fmt: skip
    wide = Layer(lambda z, x: torch.cat([z, z], dim=1))
    refused("maps a state of shape (4, 6)", wide, lambda z, x: wide.f(z[:, :3], x), example=X)


def test_one_data_point_without_its_axis() -> None:
    layer = Layer()

    def alone(z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(layer.W.weight @ z + x)

    layer.f = alone  # type: ignore[method-assign]
    refused("example=x[None]", layer, alone, example=X[0])


def test_a_module_that_was_never_called() -> None:
    layer = Layer()
    layer.W = nn.LazyLinear(3)
    refused("W.weight has no shape yet", layer, layer.f, example=X)


def test_parameters_in_a_plain_list() -> None:
    layer = Layer(lambda z, x: z @ layer.weights[0])
    layer.weights = [nn.Parameter(torch.eye(3))]  # type: ignore[assignment]
    refused("weights is a plain list, in which PyTorch finds no parameter", layer, layer.f, example=X, kind=TypeError)


def test_complex_states_and_states_in_a_record() -> None:
    refused("expected real numbers", Layer(), Layer().f, example=torch.complex(X, X), kind=TypeError)
    turned = Layer(lambda z, x: torch.complex(z, z))
    refused("expected real numbers", turned, turned.f, example=X, kind=TypeError)
    recorded = Layer(lambda z, x: SimpleNamespace(steps=50, state=z))
    refused("state=lambda out: out.state", recorded, recorded.f, example=X, kind=TypeError)


def test_an_example_too_large_for_a_dense_inverse() -> None:
    layer = Layer()
    refused("a state has 1200 entries", layer, layer.f, example=torch.randn(2, 400, 3))


def test_what_is_no_example_no_module_and_no_cell() -> None:
    layer = Layer()
    refused(
        "example: is a dict; expected an array, or several inputs in a tuple",
        layer,
        layer.f,
        example={"x": torch.zeros(4, 3)},
        kind=TypeError,
    )
    refused("example=torch.from_numpy(x)", layer, layer.f, example=torch.zeros(4, 3).numpy(), kind=TypeError)
    refused("example: holds torch.int64", layer, layer.f, example=torch.zeros(4, 3, dtype=torch.int64), kind=TypeError)
    refused("example=x[None]", layer, layer.f, example=torch.tensor(1.0))
    refused("wrap_torch(MyLayer(…), …)", Layer, layer.f, example=X, kind=TypeError)
    refused("as in cell=module.f", layer, 3, example=X, kind=TypeError)


def test_a_module_that_was_not_wrapped_is_told_how() -> None:
    with pytest.raises(TypeError, match=re.escape("wrap_torch(module, cell=module.f, example=x)")):
        check_deq(Layer())


def test_in_jax() -> None:
    jax = pytest.importorskip("jax")
    from deqverify.implementations.wrapped_jax import wrap_jax

    params, x = {"W": jax.numpy.asarray(0.3 * np.eye(3), "float32")}, jax.numpy.asarray(np.asarray(X))

    def f(params: Any, z: Any, x: Any) -> Any:
        return jax.numpy.tanh(z @ params["W"] + x)

    def layer(params: Any, x: Any) -> Any:
        return jax.lax.fori_loop(0, 50, lambda _, z: f(params, z, x), jax.numpy.zeros_like(x))

    def looking(params: Any, x: Any) -> Any:
        z = layer(params, x)
        return f(params, z, x) if abs(z).max() > 0 else z

    wrong: list[tuple[str, Any, Any, Any]] = [
        ("returned (", lambda p, x: (layer(p, x), 50), f, x),
        ("looks at values in Python", looking, f, x),
        ("jnp.moveaxis(z, 1, 0)", lambda p, x: layer(p, x).T, f, x),
        ("is float16 for parameters and inputs in float64", lambda p, x: layer(p, x).astype("float16"), f, x),
        ("maps a state of shape (4, 3) to one of shape (3, 4)", layer, lambda p, z, x: f(p, z, x).T, x),
        ("jax.vmap(f, (None, 0, 0))", layer, lambda p, z, x: f(p, z, x - x.mean(0)), x),
        ("for inputs of shape (4, 4)", layer, f, jax.numpy.ones((4, 4))),
        ("cell: got 3", layer, 3, x),
        ("and not its residual", layer, lambda p, z, x: f(p, z, x) - z, x),
        ("expected the state before the inputs", layer, lambda p, x, z: f(p, z, x), x),
    ]
    for message, function, cell, example in wrong:
        with pytest.raises((TypeError, ValueError), match=re.escape(message)) as caught:
            wrap_jax(function, params, cell, example=example)
        assert "expected" in str(caught.value)
    assert wrap_jax(layer, params, f, example=x).cell


def test_what_claims_do_not_say_is_as_without_them() -> None:
    """Who claims modes does not claim rounding alone, a start and a status beside them."""
    layer = Layer()
    plain, said = (wrap_torch(layer, layer.f, example=X, claims=c).claims for c in (None, Claims(modes=True)))
    assert said == replace(plain, modes=True)
    kept = wrap_torch(layer, layer.f, example=X, claims=Claims(Accuracy(), starts=True)).claims
    assert (kept.forward, kept.backward, kept.starts, kept.status) == (Accuracy(), plain.backward, True, False)
    for copied in (copy.deepcopy(Claims(modes=True)), pickle.loads(pickle.dumps(Claims(modes=True)))):
        assert copied.over(plain) == said
