"""In PyTorch: parameters in modules, a loop to a tolerance, an implicit gradient by a hook. ``broken`` names what is
wrong with a twin; the first of each layer's list is the correct one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deqverify.implementations.wrapped_torch import WrappedTorch, wrap_torch

CAP = 500


class Implicit(nn.Module):
    """``forward(x)`` solves ``z = f(z, x)`` by iteration and differentiates implicitly, by a hook."""

    tolerance = 1e-6
    spent = ""
    """Along which vector the whole tolerance is spent on purpose, "ones" or "alternating"; none for an honest solve."""

    def __init__(self, broken: str = "") -> None:
        super().__init__()
        self.broken = broken

    def f(self, z: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError

    def start(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def iterated(self, step: Any, z: Tensor, cap: int = CAP) -> Tensor:
        """Until ``‖f(z) − z‖ ≤ tolerance ‖f(z)‖`` for every data point."""
        for _ in range(cap):
            image = step(z)
            off, size = (v.flatten(1).norm(dim=1) for v in (image - z, image))
            if bool((off <= 0.5 * self.tolerance * size).all()):
                return image
            z = image
        return z

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            z = self.iterated(lambda z: self.f(z, x), self.start(x), 3 if self.broken == "unconverged" else CAP)
        if self.spent:
            with torch.no_grad():
                z = self.spoiled(lambda z: self.f(z, x), z)
        z = self.last_step(z, x) if not self.spent else self.in_place(z, x)
        if not z.requires_grad or self.broken == "one-step":
            return z
        z0 = z.detach().requires_grad_()
        f0 = self.f(z0, x)

        def backward(g: Tensor) -> Tensor:
            if not bool(g.any()):
                return g
            few = 3 if self.broken == "truncated" else CAP
            y = self.iterated(lambda y: self.transposed(f0, z0, y) + g, g, few)
            return self.spoiled(lambda y: self.transposed(f0, z0, y) + g, y) if self.spent else y

        z.register_hook(backward)
        return z

    def spoiled(self, step: Any, z: Tensor) -> Tensor:
        """z moved until its residual is nearly as large as the tolerance allows, if it isn't already."""
        d = torch.ones_like(z).flatten(1)
        if self.spent == "alternating":
            d[:, 1::2] = -1.0
        d = d.view_as(z)
        per = (slice(None), *[None] * (z.ndim - 1))
        image = step(z)
        size = image.flatten(1).norm(dim=1)
        off = ((step(z + 1e-4 * size[per] * d) - image) / 1e-4 / size.clamp(min=1e-30)[per] - d).flatten(1).norm(dim=1)
        t = 0.9 * self.tolerance * size / off
        for _ in range(30):
            moved = z + t[per] * d
            image = step(moved)
            off, size = (v.flatten(1).norm(dim=1) for v in (image - moved, image))
            good = off <= 0.95 * self.tolerance * size
            if bool((good | ~size.isfinite()).all()):
                return moved
            t = torch.where(good, t, 0.7 * t)
        return z

    def in_place(self, z: Tensor, x: Tensor) -> Tensor:
        """z itself, with the graph of a step."""
        step = self.f(z, x)
        return step + (z - step).detach()

    def last_step(self, z: Tensor, x: Tensor) -> Tensor:
        """The step that autograd records."""
        return self.f(z, x.detach() if self.broken == "detached input" else x)

    def transposed(self, f0: Tensor, z0: Tensor, y: Tensor) -> Tensor:
        if self.broken == "not transposed":
            dual = torch.zeros_like(f0, requires_grad=True)
            (pull,) = torch.autograd.grad(f0, z0, dual, create_graph=True)
            return torch.autograd.grad(pull, dual, y)[0]
        return torch.autograd.grad(f0, z0, y, retain_graph=True)[0]


class ReluMLP(Implicit):
    """Shape (n, 5) from (n, 3)."""

    def __init__(self, broken: str = "") -> None:
        super().__init__(broken)
        self.inner, self.outer = nn.Linear(5, 5), nn.Linear(3, 5, bias=False)
        with torch.no_grad():
            self.inner.weight.mul_(0.7 / torch.linalg.matrix_norm(self.inner.weight, 2))

    def start(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), 5)

    def f(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.relu(self.inner(z) + self.outer(x))


class ConvNorm(Implicit):
    """A convolution with group normalisation, images (n, 2, 3, 3)."""

    def __init__(self, broken: str = "") -> None:
        super().__init__(broken)
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.GroupNorm(1, 2)
        with torch.no_grad():
            self.conv.weight.mul_(0.2)
            self.conv.bias.copy_(torch.tensor([0.5, -0.5]))  # else the norm of dark images never settles

    def f(self, z: Tensor, x: Tensor) -> Tensor:
        return self.norm(torch.tanh(self.conv(z)) + x)

    def last_step(self, z: Tensor, x: Tensor) -> Tensor:
        if self.broken == "detached statistics":
            h = torch.tanh(self.conv(z)) + x
            v = h.flatten(1).detach()
            mean, std = v.mean(1)[:, None, None, None], (v.var(1, unbiased=False) + self.norm.eps).sqrt()
            return (h - mean) / std[:, None, None, None] * self.norm.weight[:, None, None] + self.norm.bias[
                :, None, None
            ]
        return super().last_step(z, x)


class Attention(Implicit):
    """One head of attention with layer normalisation, tokens (n, 3, 4)."""

    def __init__(self, broken: str = "") -> None:
        super().__init__(broken)
        self.query, self.key, self.value = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.norm = nn.LayerNorm(4)
        with torch.no_grad():
            self.value.weight.mul_(0.2)

    def f(self, z: Tensor, x: Tensor) -> Tensor:
        weights = torch.softmax(self.query(z) @ self.key(z).transpose(1, 2) / 2.0, dim=-1)
        apart = x.new_tensor(
            [1.0, -1.0, 2.0, -2.0]
        )  # the norm of tokens of like entries is a step without a fixed point
        return self.norm(x + apart + weights @ self.value(z))


class Graph(Implicit):
    """A graph network, nodes (n, 4, 2); the graph is a buffer."""

    adjacency: Tensor

    def __init__(self, broken: str = "") -> None:
        super().__init__(broken)
        self.inner, self.outer = nn.Linear(2, 2), nn.Linear(2, 2)
        graph = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0]], dtype=torch.float32)
        self.register_buffer("adjacency", graph / graph.sum(1, keepdim=True))
        with torch.no_grad():
            self.inner.weight.mul_(0.7 / torch.linalg.matrix_norm(self.inner.weight, 2))

    def f(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.adjacency @ self.inner(z) + self.outer(x))


class TwoStates(nn.Module):
    """A fine state (n, 4) and a coarse one (n, 2), solved together; two inputs."""

    def __init__(self, broken: str = "") -> None:
        super().__init__()
        self.broken = broken
        self.fine, self.coarse = nn.Linear(4, 4), nn.Linear(2, 2)
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)
        with torch.no_grad():
            for each in (self.fine, self.coarse, self.down, self.up):
                each.weight.mul_(0.4 / torch.linalg.matrix_norm(each.weight, 2))

    def f(self, z: tuple[Tensor, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        a, b = z
        return torch.tanh(self.fine(a) + self.up(b) + x), torch.tanh(self.coarse(b) + self.down(a) + y)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.zeros_like(x), torch.zeros_like(y)
        with torch.no_grad():
            for _ in range(2 if self.broken == "unconverged" else 60):
                z = self.f(z, x, y)
        # The last steps are unrolled: 60 of them leave 0.8⁶⁰, a gradient to within 1e-6.
        for _ in range(60):
            z = self.f((z[0], z[1].detach()) if self.broken == "coarse detached" else z, x, y)
            if self.broken == "unconverged":
                break
        return z


class Node(torch.autograd.Function):
    """``argmin_y ½‖y − x‖² + Σ log cosh(Wy)`` by gradient descent, which always converges, and a few steps of
    Newton's method, which alone would not; arXiv 1909.04866."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, broken: str) -> Tensor:
        y = x.clone()
        eye = torch.eye(x.shape[1], dtype=x.dtype)
        step = 2.0 / (2.0 + torch.linalg.matrix_norm(W, 2) ** 2)
        for _ in range(200):
            y = y - step * (y - x + torch.tanh(y @ W.T) @ W)
        for _ in range(3):
            t = torch.tanh(y @ W.T)
            H = eye + torch.einsum("ki,nk,kj->nij", W, 1 - t * t, W)
            y = y - torch.linalg.solve(H, (y - x + t @ W)[..., None])[..., 0]
        ctx.save_for_backward(y, W)
        ctx.broken = broken
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        y, W = ctx.saved_tensors
        t = torch.tanh(y @ W.T)
        s = 1 - t * t
        H = torch.eye(y.shape[1], dtype=y.dtype) + torch.einsum("ki,nk,kj->nij", W, s, W)
        v = g if ctx.broken == "no Hessian" else torch.linalg.solve(H, g[..., None])[..., 0]
        dW = -(t.T @ v)
        if ctx.broken != "half the mixed derivative":
            dW = dW - (s * (v @ W.T)).T @ y
        return v, dW, None


class Declarative(nn.Module):
    """A deep declarative node, (n, 3): its cell is one step of gradient descent on the objective."""

    def __init__(self, broken: str = "") -> None:
        super().__init__()
        self.broken = broken
        self.W = nn.Parameter(torch.randn(3, 3) * 0.5)

    def f(self, y: Tensor, x: Tensor) -> Tensor:
        return y - 0.3 * (y - x + torch.tanh(y @ self.W.T) @ self.W)

    def forward(self, x: Tensor) -> Tensor:
        return Node.apply(x, self.W, self.broken)


class Regularised(Implicit):
    """A DEQ that returns its equilibrium (n, 3) and ``vᵀ(∂f/∂z)(∂f/∂z)ᵀv`` there, (n, 1), as a regulariser; Bai, Koltun
    and Kolter 2021, arXiv 2106.14342. Both are its state: the second of the first alone."""

    probe: Tensor

    def __init__(self, broken: str = "") -> None:
        super().__init__(broken)
        self.inner = nn.Linear(3, 3)
        self.register_buffer("probe", torch.tensor([1.0, -1.0, 1.0]))
        with torch.no_grad():
            self.inner.weight.mul_(0.6 / torch.linalg.matrix_norm(self.inner.weight, 2))

    def f(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(z) + x)

    def size(self, z: Tensor, x: Tensor) -> Tensor:
        v = torch.randn_like(self.probe) if self.broken == "another probe each time" else self.probe
        slope = 1 - self.f(z, x) ** 2
        return ((slope * v) @ self.inner.weight).square().sum(1, keepdim=True)

    def both(self, state: tuple[Tensor, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        z, _ = state
        return self.f(z, x), ((1 - self.f(z, x) ** 2) * self.probe @ self.inner.weight).square().sum(1, keepdim=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        z = super().forward(x)
        return z, self.size(z.detach() if self.broken == "regulariser detached" else z, x)


EXAMPLES: dict[str, tuple[type[nn.Module], tuple[tuple[int, ...], ...], tuple[str, ...]]] = {
    "relu": (ReluMLP, ((4, 3),), ("one-step", "truncated")),
    "conv": (ConvNorm, ((3, 2, 3, 3),), ("unconverged", "detached statistics")),
    "attention": (Attention, ((4, 3, 4),), ("not transposed", "one-step")),
    "graph": (Graph, ((3, 4, 2),), ("detached input", "not transposed")),
    "two-states": (TwoStates, ((3, 4), (3, 2)), ("unconverged", "coarse detached")),
    "declarative": (Declarative, ((4, 3),), ("no Hessian", "half the mixed derivative")),
    "regularised": (Regularised, ((4, 3),), ("regulariser detached", "another probe each time")),
}
"""By name: the layer, the shapes of its inputs, and its broken twins."""


def cause_of(name: str, twin: str) -> str:
    """The law that a report should name as the cause of what is wrong with a twin."""
    if twin == "unconverged":
        return "existence"
    if twin == "another probe each time":
        return "deterministic"
    return "gradient-x" if twin == "detached input" else "gradient-theta"


def wrapped(
    name: str,
    broken: str = "",
    seed: int = 0,
    tolerance: float = 1e-6,
    spent: str = "",
    closed: bool = False,
    **options: Any,
) -> WrappedTorch:
    """The example called ``name``, its weights and its inputs from ``seed``; ``tolerance`` is what it solves to, where
    it iterates; ``closed``: without its cell."""
    layer, shapes, _ = EXAMPLES[name]
    torch.manual_seed(seed)
    module = layer(broken)
    if isinstance(module, Implicit):
        module.tolerance, module.spent = tolerance, spent
    inputs = tuple(torch.randn(shape) for shape in shapes)
    cell = module.both if isinstance(module, Regularised) else module.f
    return wrap_torch(module, None if closed else cell, example=inputs, name=name, **options)


def make(name: str, broken: str = "") -> WrappedTorch:
    """The same as a target, ``tests.wrapped.torch_layers:make[relu,one-step]``."""
    return wrapped(name, broken)
