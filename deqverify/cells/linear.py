"""The linear cell: ``f(z) = Az + Ux``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from hypothesis.strategies import DrawFn

from deqverify.cells.base import Contraction, Parts, Shape, Theta
from deqverify.cells.dense import draw_weight, scaled_to
from deqverify.cells.norms import contraction
from deqverify.drawing import draw_rate, draw_signal, draw_size, scales, size_up_to
from deqverify.dtypes import Array


@dataclass(frozen=True)
class PlainLinearCell:
    """Dandapanthula & Ramdas 2025, arXiv 2511.16976. Parameters ``A`` (m, m) and ``U`` (m, d); states (n, m), inputs
    (n, d). Contracts at ‖A‖ in the maximum, the 1- and the 2-norm, where that is below 1."""

    name: ClassVar[str] = "linear"
    additive: ClassVar[bool] = False
    contracts: ClassVar[bool] = True
    code: ClassVar[str] = "return z @ A.T + x @ U.T"

    def state(self, theta: Theta, inputs: Shape) -> Shape:
        return (theta["A"].shape[0],)

    def matrix(self, theta: Theta) -> Any:
        return theta["A"]

    def offset(self, theta: Theta, x: Any) -> Any:
        """Ux."""
        return x @ theta["U"].T

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        A, offset = theta["A"], self.offset(theta, x)
        return lambda z: z @ A.T + offset

    def certificate(self, theta: Theta) -> Contraction | None:
        return contraction(theta["A"])

    def pull(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
        """``∂A = cᵀz``, ``∂U = cᵀx``, ``∂x = cU``, ``∂z = cA``."""
        parts = {"A": cotangent.T @ z, "U": cotangent.T @ x}
        return Parts(parts, cotangent @ theta["U"], cotangent @ theta["A"])

    def push(self, theta: Theta, x: Any, z: Any, tangent: Parts) -> Any:
        """``dA z + A dz + dU x + U dx``."""
        d = tangent.theta
        return z @ d["A"].T + tangent.z @ theta["A"].T + x @ d["U"].T + tangent.x @ theta["U"].T

    def draw(self, draw: DrawFn, dtype: str, n: int, large: bool = False) -> tuple[dict[str, Array], Array]:
        """The smallest norm of A is a drawn contraction factor; x at a scale of any power of two. Shrinks to m = d =
        1, A = ½, U = 1, x = 1."""
        m, d = draw_size(draw, 1, 8, large), draw(size_up_to(1, 4))
        A = scaled_to(draw_rate(draw, dtype, large), draw_weight(draw, m))
        return {"A": A, "U": draw_signal(draw, (m, d), 1.0)}, draw_signal(draw, (n, d), 1.0) * 2.0 ** draw(
            scales(dtype)
        )


CELL = PlainLinearCell()
