"""A graph network: ``f(z) = tanh(Â z Wᵀ + x Uᵀ + b)``, Â the normalised adjacency matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from hypothesis.strategies import DrawFn

from deqverify.cells.base import Contraction, Parts, Shape, Theta
from deqverify.cells.dense import draw_weight, scaled_to
from deqverify.cells.norms import contraction
from deqverify.drawing import draw_rate, draw_signal, draw_size, one_of, size_up_to
from deqverify.dtypes import Array
from deqverify.namespaces import array_namespace

NORMALISATIONS = ("loops", "loops", "no loops", "random walk")
GRAPHS = ("ring", "path", "star", "complete", "no edges", "isolated node", "two components", "random")


@dataclass(frozen=True)
class GraphCell:
    """An implicit graph network (Gu et al., NeurIPS 2020, arXiv 2009.06211). Parameters ``adjacency`` Â (nodes,
    nodes), ``W`` (f, f), ``U`` (f, d) and ``b`` (f,); states (n, nodes, f), inputs (n, nodes, d).

    The linear part is the Kronecker product of Â and W, whose norm is ‖Â‖ ‖W‖ in the maximum, the 1- and the 2-norm:
    the rate, where that is below 1.
    """

    name: ClassVar[str] = "graph"
    additive: ClassVar[bool] = False
    contracts: ClassVar[bool] = True
    code: ClassVar[str] = "return xp.tanh(adjacency @ z @ W.T + x @ U.T + b)"

    def state(self, theta: Theta, inputs: Shape) -> Shape:
        return (inputs[0], theta["W"].shape[0])

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        xp, offset = array_namespace(x), x @ theta["U"].T + theta["b"]
        return lambda z: xp.tanh(theta["adjacency"] @ z @ theta["W"].T + offset)

    def certificate(self, theta: Theta) -> Contraction | None:
        return contraction(theta["adjacency"], theta["W"])

    def _slope(self, theta: Theta, x: Any, z: Any) -> Any:
        f = self.step(theta, x)(z)
        return 1 - f * f

    def pull(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
        """With ``v = c∘(1 − f²)``, sums over data points: ``∂Â = Σ v W zᵀ``, ``∂W = Σ vᵀÂz``, ``∂U = Σ vᵀx``, ``∂b =
        Σ v`` over nodes too, ``∂x = vU``, ``∂z = ÂᵀvW``."""
        xp = array_namespace(z)
        v, adjacency = cotangent * self._slope(theta, x, z), theta["adjacency"]
        vT, vW = xp.matrix_transpose(v), v @ theta["W"]

        def by_node(states: Any) -> Any:
            """(nodes, n f): one product in place of n, each of which would be as large as Â."""
            shape = (states.shape[1], states.shape[0] * states.shape[2])
            return xp.reshape(xp.permute_dims(states, (1, 0, 2)), shape)

        parts = {
            "adjacency": by_node(vW) @ by_node(z).T,
            "W": xp.sum(vT @ (adjacency @ z), axis=0),
            "U": xp.sum(vT @ x, axis=0),
            "b": xp.sum(v, axis=(0, 1)),
        }
        return Parts(parts, v @ theta["U"], adjacency.T @ vW)

    def jacobian(self, theta: Theta, x: Any, z: Any) -> Any:
        """``diag(1 − f²) (Â ⊗ W)``, the entries of a state node by node."""
        xp, n, s = array_namespace(z), z.shape[0], z.shape[1] * z.shape[2]
        product = theta["adjacency"][:, None, :, None] * theta["W"][None, :, None, :]
        return xp.reshape(self._slope(theta, x, z), (n, s, 1)) * xp.reshape(product, (s, s))

    def push(self, theta: Theta, x: Any, z: Any, tangent: Parts) -> Any:
        """``(1 − f²)∘(dÂ z Wᵀ + Â dz Wᵀ + Â z dWᵀ + dx Uᵀ + x dUᵀ + db)``."""
        d, adjacency = tangent.theta, theta["adjacency"]
        linear = (d["adjacency"] @ z + adjacency @ tangent.z) @ theta["W"].T + adjacency @ z @ d["W"].T
        return self._slope(theta, x, z) * (linear + tangent.x @ theta["U"].T + x @ d["U"].T + d["b"])

    def draw(self, draw: DrawFn, dtype: str, n: int, large: bool = False) -> tuple[dict[str, Array], Array]:
        """A graph of :data:`GRAPHS`, some disconnected or without edges, Â as :func:`normalised` makes it; ‖Â‖ ‖W‖ is a
        drawn contraction factor. Shrinks to one node, f = d = 1, Â = 1, W = ½, U = 1, b = 0, x = 1."""
        nodes, d = draw_size(draw, 1, 6, large), draw(size_up_to(1, 2))
        f = 1 if large else draw(size_up_to(1, 2))
        adjacency = normalised(draw_graph(draw, nodes), draw(one_of(NORMALISATIONS)))
        W = scaled_to(draw_rate(draw, dtype, large), draw_weight(draw, f), adjacency)
        theta = {"adjacency": adjacency, "W": W, "U": draw_signal(draw, (f, d), 1.0), "b": draw_signal(draw, (f,))}
        return theta, draw_signal(draw, (n, nodes, d), 1.0)


def draw_graph(draw: DrawFn, nodes: int) -> Array:
    """A symmetric matrix of zeros and ones, its diagonal zero: which nodes are neighbours. Shrinks to a ring."""
    kind, noise = draw(one_of(GRAPHS)), draw_signal(draw, (nodes, nodes))
    i, j = np.indices((nodes, nodes))
    near = np.abs(i - j) == 1
    edges = {
        "ring": near | (np.abs(i - j) == nodes - 1),
        "path": near,
        "star": (i == 0) | (j == 0),
        "complete": i != j,
        "no edges": np.zeros_like(near),
        "isolated node": near & (np.maximum(i, j) < nodes - 1),
        "two components": (i != j) & ((i < nodes // 2) == (j < nodes // 2)),
        "random": noise + noise.T > 0.5,
    }[kind]
    return np.where(i == j, 0.0, edges)


def normalised(edges: Array, how: str) -> Array:
    """With "loops" ``D^(−1/2) (E + I) D^(−1/2)`` (Kipf & Welling, arXiv 1609.02907), with "no loops" E in place of E +
    I, as "random walk" ``D⁻¹E``, which is not symmetric. Without loops a node without neighbours has a row of zeros."""
    edges = edges + np.eye(len(edges)) if how == "loops" else edges
    degree = np.maximum(edges.sum(axis=1), 1.0)
    return edges / degree[:, None] if how == "random walk" else degree[:, None] ** -0.5 * edges * degree**-0.5


CELL = GraphCell()
