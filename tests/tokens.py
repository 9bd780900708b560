"""A cell for tests whose states have two axes and another shape than its inputs: ``f(z) = tanh(MzWᵀ + xUᵀ)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace

from deqverify.cells.base import Contraction, Parts, Shape, Theta
from deqverify.dtypes import Array


@dataclass(frozen=True)
class TokenCell:
    """Tokens mixed by M (k, k), features by W (m, m): states (n, k, m), inputs (n, k, d), U (m, d)."""

    name: ClassVar[str] = "tokens"

    def state(self, theta: Theta, inputs: Shape) -> Shape:
        return (inputs[0], theta["W"].shape[0])

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        xp, offset = array_namespace(x), x @ theta["U"].T
        return lambda z: xp.tanh(theta["M"] @ (z @ theta["W"].T) + offset)

    def certificate(self, theta: Theta) -> Contraction | None:
        rate = float(np.abs(theta["M"]).sum(axis=1).max() * np.abs(theta["W"]).sum(axis=1).max())
        return Contraction(rate, "max") if rate < 1.0 else None

    def pull(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
        xp, f = array_namespace(z), self.step(theta, x)(z)
        v = cotangent * (1 - f * f)
        mixed = theta["M"].T @ v
        flat = {"v": v, "x": x, "mixed": mixed, "z": z}
        flat = {name: a.reshape(-1, a.shape[-1]) for name, a in flat.items()}
        M = xp.sum(v @ xp.matrix_transpose(z @ theta["W"].T), axis=0)
        parts = {"M": M, "W": flat["mixed"].T @ flat["z"], "U": flat["v"].T @ flat["x"]}
        return Parts(parts, v @ theta["U"], mixed @ theta["W"])

    def push(self, theta: Theta, x: Any, z: Any, tangent: Parts) -> Any:
        f, d = self.step(theta, x)(z), tangent.theta
        M, W = theta["M"], theta["W"]
        inner = d["M"] @ (z @ W.T) + M @ (z @ d["W"].T) + M @ (tangent.z @ W.T)
        return (1 - f * f) * (inner + x @ d["U"].T + tangent.x @ theta["U"].T)

    def draw(self, draw: Any, dtype: str, n: int) -> tuple[dict[str, Array], Array]:
        raise NotImplementedError("tests make theirs with instance()")


CELL = TokenCell()


def instance(seed: int = 0, rate: float = 0.8, k: int = 2, m: int = 3, d: int = 4, n: int = 3) -> tuple[Any, Array]:
    """θ, contracting at ``rate`` in the maximum norm, and x."""
    generator = np.random.default_rng(seed)
    M, W, U = (generator.normal(size=shape) for shape in ((k, k), (m, m), (m, d)))
    M, W = (a / np.abs(a).sum(axis=1).max() for a in (M, W))
    return {"M": M, "W": rate * W, "U": U}, generator.normal(size=(n, k, d))
