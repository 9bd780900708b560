"""A convolution on the torus with a smooth normalisation: ``f(z) = tanh(g · N(K ∗ z) + x)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from array_api_compat import device
from hypothesis.strategies import DrawFn

from deqverify.cells.arithmetic import are_balls
from deqverify.cells.base import Contraction, Parts, Shape, Theta
from deqverify.cells.norms import matrix_norms, product, raised
from deqverify.drawing import draw_rate, draw_signal, draw_size, one_of, size_up_to
from deqverify.dtypes import Array
from deqverify.namespaces import array_namespace

KERNELS = ("gaussian", "gaussian", "shift", "one offset")


@dataclass(frozen=True)
class ConvCell:
    """Parameters ``K`` (c, c, k, k) and ``gain`` g (c,); states and inputs (n, c, h, w), the image a torus, which may
    be smaller than the kernel. ``N(v) = v/r`` with ``r² = mean v² + ε`` over the channels and sites of one data point
    (Zhang & Sennrich 2019, arXiv 1910.07467): no mean is subtracted, and no data point sees another.

    N is smooth and ``1/√ε``-Lipschitz in the 2-norm: with M entries its Jacobian ``I/r − vvᵀ/(Mr³)`` is symmetric, with
    eigenvalues 1/r across v and ``1/r − ‖v‖²/(Mr³) = ε/r³`` along it, both positive and at most 1/√ε. A roll preserves
    the 2-norm, so ``‖K ∗‖₂ ≤ Σ_ij ‖K[:, :, i, j]‖₂``, and f contracts at ``max|g| Σ_ij ‖K[:, :, i, j]‖₂/√ε``, where
    that is below 1. Here ε = 1.
    """

    name: ClassVar[str] = "conv"
    additive: ClassVar[bool] = False
    contracts: ClassVar[bool] = True
    code: ClassVar[str] = (
        "k, s = K.shape[2], K.shape[2] // 2\n"
        "places = [(i, j) for i in range(k) for j in range(k)]\n"
        "moved = [xp.roll(z, (s - i, s - j), (2, 3)) for i, j in places]\n"
        'v = sum(xp.einsum("oc,nchw->nohw", K[:, :, i, j], at) for (i, j), at in zip(places, moved))\n'
        "r = xp.sqrt((v * v).mean((1, 2, 3))[:, None, None, None] + 1)\n"
        "return xp.tanh(gain[:, None, None] * (v / r) + x)"
    )

    def state(self, theta: Theta, inputs: Shape) -> Shape:
        return inputs

    def step(self, theta: Theta, x: Any) -> Callable[[Any], Any]:
        return lambda z: array_namespace(z).tanh(_channels(theta["gain"]) * _normalise(convolve(theta["K"], z))[0] + x)

    def certificate(self, theta: Theta) -> Contraction | None:
        rate = _rate(theta["K"], theta["gain"])
        return Contraction(rate, "2") if rate < 1.0 else None

    def pull(self, theta: Theta, x: Any, z: Any, cotangent: Any) -> Parts:
        """With ``e = c∘(1 − f²)``: ``∂x = e``, ``∂g = Σ e∘N``; K ∗ z gets ``a = N′(g∘e)``, N′ symmetric, so that ``∂z``
        is the correlation of a with K and ``∂K[:, :, i, j] = Σ a (z rolled)ᵀ``."""
        xp, K, g = array_namespace(z), theta["K"], _channels(theta["gain"])
        u, r = _normalise(convolve(K, z))
        f = xp.tanh(g * u + x)
        e = cotangent * (1 - f * f)
        a = _normalise_slope(u, r, g * e)
        flat = (z.shape[0], K.shape[0], z.shape[2] * z.shape[3])
        to = xp.sum(xp.reshape(a, flat) @ xp.matrix_transpose(_patches(z, K.shape[2])), axis=0)
        parts = {"K": xp.reshape(to, K.shape), "gain": xp.sum(e * u, axis=(0, 2, 3))}
        turned = xp.flip(xp.permute_dims(K, (1, 0, 2, 3)), axis=(2, 3))
        return Parts(parts, e, convolve(turned, a, centre=(K.shape[2] - 1) // 2))

    def push(self, theta: Theta, x: Any, z: Any, tangent: Parts) -> Any:
        """``(1 − f²)∘(g∘N′(K ∗ dz + dK ∗ z) + dg∘N + dx)``."""
        xp, K, g = array_namespace(z), theta["K"], _channels(theta["gain"])
        u, r = _normalise(convolve(K, z))
        du = _normalise_slope(u, r, convolve(K, tangent.z) + convolve(tangent.theta["K"], z))
        f = xp.tanh(g * u + x)
        return (1 - f * f) * (g * du + _channels(tangent.theta["gain"]) * u + tangent.x)

    def draw(self, draw: DrawFn, dtype: str, n: int, large: bool = False) -> tuple[dict[str, Array], Array]:
        """The rate is a drawn contraction factor; K Gaussian, the same at its first offset only, or the identity there
        (a shift). Images from one pixel on, kernels of one to three; if ``large`` of sides up to 32, mostly more than
        16, and one channel. Shrinks to c = h = w = k = 1, K = ½, g = 1, x = 1."""
        c = 1 if large else draw(size_up_to(1, 2))
        h, width = (draw_size(draw, 1, 4, large, threshold=16, most=32) for _ in range(2))
        w, k, kernel = min(width, (512 if large else 16) // (c * h)), draw(size_up_to(1, 3)), draw(one_of(KERNELS))
        K, gain = draw_signal(draw, (c, c, k, k), 1.0), draw_signal(draw, (c,), 1.0)
        if kernel != "gaussian":
            first = K[:, :, 0, 0] if kernel == "one offset" else np.eye(c)
            K = first[:, :, None, None] * (np.arange(k * k) == 0).reshape(k, k)
        K = K * (draw_rate(draw, dtype, large) / (_rate(K, gain) or 1.0))
        return {"K": K, "gain": gain}, draw_signal(draw, (n, c, h, w), 1.0)


def _rate(K: Array, gain: Array) -> float:
    size = sum(matrix_norms(K[:, :, i, j])["2"] for i, j in np.ndindex(K.shape[2:]))
    return raised(product(float(np.abs(gain).max()), size), K.shape[2] * K.shape[3] - 1)


def _channels(gain: Any) -> Any:
    return gain[:, None, None]


@lru_cache(maxsize=256)
def _places(h: int, w: int, k: int, shift: int) -> Any:
    """For each offset of the kernel, rows first, where in the flattened image each site's neighbour is, (k·k·h·w,)."""
    rows = (np.arange(h)[None, :] + np.arange(k)[:, None] - shift) % h
    columns = (np.arange(w)[None, :] + np.arange(k)[:, None] - shift) % w
    places = (rows[:, None, :, None] * w + columns[None, :, None, :]).ravel()
    return places.astype(np.int32)  # of which JAX makes the same in 64-bit mode as outside of it


def _patches(z: Any, k: int, centre: int | None = None) -> Any:
    """z at every offset of the kernel from every site, (n, c·k·k, h·w): the channels' offsets one after another."""
    xp, (n, c, h, w) = array_namespace(z), z.shape
    places = _places(h, w, k, k // 2 if centre is None else centre)
    if not are_balls(z):
        places = xp.asarray(places, device=device(z))
    return xp.reshape(xp.take(xp.reshape(z, (n, c, h * w)), places, axis=2), (n, c * k * k, h * w))


def convolve(K: Any, z: Any, centre: int | None = None) -> Any:
    """``(K ∗ z)[n, o, y, x] = Σ K[o, c, i, j] z[n, c, y + i − s, x + j − s]`` on the torus, s = ⌊k/2⌋ or ``centre``."""
    xp, o = array_namespace(z), K.shape[0]
    weights = xp.reshape(K, (o, K.shape[1] * K.shape[2] * K.shape[3]))
    return xp.reshape(weights @ _patches(z, K.shape[2], centre), (z.shape[0], o, *z.shape[2:]))


def _normalise(v: Any) -> tuple[Any, Any]:
    """``N(v) = v/r`` and r, (n, 1, 1, 1), with ε = 1."""
    xp = array_namespace(v)
    r = xp.sqrt(xp.sum(v * v, axis=(1, 2, 3), keepdims=True) / (v.shape[1] * v.shape[2] * v.shape[3]) + 1)
    return v / r, r


def _normalise_slope(u: Any, r: Any, along: Any) -> Any:
    """``(along − u mean(u∘along))/r`` with u = N(v): the Jacobian, symmetric."""
    count = u.shape[1] * u.shape[2] * u.shape[3]
    mean = array_namespace(u).sum(u * along, axis=(1, 2, 3), keepdims=True) / count
    return (along - u * mean) / r


CELL = ConvCell()
