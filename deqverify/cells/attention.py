"""Self-attention of one head: ``f(z) = tanh(softmax(z Qᵀ (z Kᵀ)ᵀ/√d) z Vᵀ + x)``, without a certificate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from array_api_compat import device
from hypothesis.strategies import DrawFn

from deqverify.cells.arithmetic import root, softmax, softmax_slope
from deqverify.cells.base import Contraction, Parts, Shape, Theta
from deqverify.cells.dense import draw_weight, scaled_to
from deqverify.cells.norms import matrix_norms, raised
from deqverify.drawing import draw_rate, draw_signal, draw_size, one_of, size_up_to
from deqverify.dtypes import Array
from deqverify.namespaces import array_namespace

REGIMES = ("gaussian", "gaussian", "uniform", "sharp", "equal tokens")


@dataclass(frozen=True)
class AttentionCell:
    """Vaswani et al. 2017, arXiv 1706.03762, equation 1, one head and tanh around it. Parameters ``Q``, ``K`` and ``V``
    (d, d); states and inputs (n, tokens, d).

    f maps the cube [−1, 1]^(tokens × d) into itself, so that there always is an equilibrium (Brouwer). There may be
    several, and f is Lipschitz on bounded sets only (Kim et al. 2021, arXiv 2006.04710): no certificate.
    """

    name: ClassVar[str] = "attention"
    additive: ClassVar[bool] = False
    contracts: ClassVar[bool] = False
    code: ClassVar[str] = (
        "logits = (z @ Q.T / len(Q) ** 0.5) @ (z @ K.T).swapaxes(1, 2)\n"
        "E = xp.exp(logits - xp.amax(logits, -1)[..., None])\n"
        "return xp.tanh(E / E.sum(-1)[..., None] @ (z @ V.T) + x)"
    )

    def state(self, theta: Theta, inputs: Shape) -> Shape:
        return inputs

    def _attend(self, theta: Theta, z: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Queries divided by √d, keys, values, weights (n, tokens, tokens), whose rows sum to 1, and their product."""
        xp = array_namespace(z)
        Q, K, V = theta["Q"], theta["K"], theta["V"]
        q, k, v = z @ Q.T / root(Q.shape[0], Q), z @ K.T, z @ V.T
        S = softmax(q @ xp.matrix_transpose(k), axis=-1)
        return q, k, v, S, S @ v

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        return lambda z: array_namespace(z).tanh(self._attend(theta, z)[-1] + x)

    def certificate(self, theta: Theta) -> None:
        return None

    def nearby(self, theta: Theta, x: Array, z: Array, reach: float) -> Contraction | None:
        """In the maximum norm, ``‖V‖ + ¼ max_c osc v_c · (Σ_c osc (QᵀKz)_c + 2 max_i ‖KᵀQz_i‖₁)/√d``, osc over tokens,
        for all z in the box ``z ± reach`` (theory: nearby)."""
        Q, K, V = (np.asarray(theta[name], dtype=np.float64) for name in ("Q", "K", "V"))
        logits = Q.T @ K / len(Q) ** 0.5

        def swing(weights: Array) -> Array:
            return np.asarray(np.ptp(z @ weights.T, axis=1) + 2.0 * reach * np.abs(weights).sum(axis=1))  # (n, d)

        longest = (np.abs(z @ logits).sum(axis=2) + reach * np.abs(logits).sum()).max(axis=1)
        turn = swing(V).max(axis=1) / 4.0 * (swing(logits).sum(axis=1) + 2.0 * longest)
        rate = raised(float(matrix_norms(V)["max"] + turn.max(initial=0.0)), 8 * len(Q) + 8)
        return Contraction(rate, "max") if rate < 1.0 else None

    def pull(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
        """With ``e = c∘(1 − f²)``: ``∂x = e``; values get ``Sᵀe``, logits ``T = S∘(evᵀ − rowsums)``, queries ``Tk/√d``,
        keys ``Tᵀq``; Q gets Σ over data points of its cotangent transposed times z, and so on."""
        xp = array_namespace(z)
        q, k, v, S, attended = self._attend(theta, z)
        f = xp.tanh(attended + x)
        e = cotangent * (1 - f * f)
        T = softmax_slope(S, e @ xp.matrix_transpose(v), axis=-1)
        to = {
            "Q": T @ k / root(z.shape[-1], theta["Q"]),
            "K": xp.matrix_transpose(T) @ q,
            "V": xp.matrix_transpose(S) @ e,
        }
        parts = {name: xp.sum(xp.matrix_transpose(given) @ z, axis=0) for name, given in to.items()}
        return Parts(parts, e, to["Q"] @ theta["Q"] + to["K"] @ theta["K"] + to["V"] @ theta["V"])

    def push(self, theta: Theta, x: Any, z: Any, tangent: Parts) -> Any:
        """``(1 − f²)∘(dS v + S dv + dx)``."""
        xp, d = array_namespace(z), tangent.theta
        q, k, v, S, attended = self._attend(theta, z)
        dq, dk, dv = (tangent.z @ theta[name].T + z @ d[name].T for name in ("Q", "K", "V"))
        dq = dq / root(z.shape[-1], theta["Q"])
        dS = softmax_slope(S, dq @ xp.matrix_transpose(k) + q @ xp.matrix_transpose(dk), axis=-1)
        f = xp.tanh(attended + x)
        return (1 - f * f) * (dS @ v + S @ dv + tangent.x)

    def jacobian(self, theta: Theta, x: Any, z: Any) -> Any:
        """With ``t_i = Kᵀq_i`` and ``r_j = Qᵀk_j/√d``, token i's value a by token k's entry b: ``1 − f²`` times
        ``S_ik (V_ab + (v_ka − (Sv)_ia) t_ib)``, and where k = i ``Σ_j S_ij (v_ja − (Sv)_ia) r_jb`` besides."""
        xp = array_namespace(z)
        n, tokens, d = z.shape
        q, k, v, S, attended = self._attend(theta, z)
        t, r = q @ theta["K"], k @ theta["Q"] / root(d, theta["Q"])
        outer = xp.reshape(v[..., None] * r[..., None, :], (n, tokens, d * d))
        own = xp.reshape(S @ outer, (n, tokens, d, d)) - attended[..., None] * (S @ r)[..., None, :]
        apart = v[:, None, :, :] - attended[:, :, None, :]  # (n, i, k, a)
        across = S[..., None, None] * (theta["V"] + apart[..., None] * t[:, :, None, None, :])  # (n, i, k, a, b)
        same = xp.eye(tokens, dtype=z.dtype, device=device(z))[:, :, None, None]
        f = xp.tanh(attended + x)
        J = (1 - f * f)[:, :, None, :, None] * (across + same * own[:, :, None, :, :])
        return xp.reshape(xp.permute_dims(J, (0, 1, 3, 2, 4)), (n, tokens * d, tokens * d))

    def draw(self, draw: DrawFn, dtype: str, n: int, large: bool = False) -> tuple[dict[str, Array], Array]:
        """‖V‖ is a drawn contraction factor and so are ‖Q‖ and ‖K‖, so that most maps contract where the equilibria
        are; Q = 0 (uniform weights), Q sixteen times as large (nearly one-hot weights, perhaps several equilibria), or
        all tokens equal. If ``large`` up to 128 tokens, mostly more than 64. Shrinks to one token, d = 1, Q = K = V =
        ½, x = 1."""
        tokens = draw_size(draw, 1, 4, large, threshold=64, most=128)
        d = 1 if large else draw(size_up_to(1, 4))
        rate, regime = draw_rate(draw, dtype, large), draw(one_of(REGIMES))
        theta = {name: scaled_to(rate, draw_weight(draw, d)) for name in ("Q", "K", "V")}
        theta["Q"] = {"uniform": 0.0, "sharp": 16.0}.get(regime, 1.0) * theta["Q"]
        x = draw_signal(draw, (n, tokens, d), 1.0)
        return theta, x if regime != "equal tokens" else x[:, :1] + 0.0 * x


CELL = AttentionCell()
