"""PyTorch baselines: what a user would write without a DEQ library, and xitorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from deqverify.benchmarking.contenders import LEARNING_RATE, Contender
from deqverify.benchmarking.timing import wait_for
from deqverify.cells import LinearSoftmaxCell
from deqverify.dtypes import Array
from deqverify.problem import SoftmaxProblem

CELL = LinearSoftmaxCell()
MOST = 5000
Solver = Callable[["TorchRun", torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""``solver(run, A, gamma, x) -> z``, (n, m), differentiable."""


class TorchRun:
    """``solver`` and autograd through the whole objective."""

    def __init__(self, solver: Solver, problem: SoftmaxProblem, dtype: str, device: str, tolerance: float | None):
        def native(values: Any) -> torch.Tensor:
            return torch.tensor(np.asarray(values), dtype=getattr(torch, dtype), device=device)

        self.solver, self.device, self.loss = solver, device, problem.loss
        self.tolerance = 1e-6 if tolerance is None else tolerance
        self.A, self.B, self.x, self.Y = (native(a) for a in (problem.A, problem.B, problem.Phi.T, problem.Y))
        self.gamma = native(problem.gamma)
        self.iterations: int | None = None

    def forward(self) -> torch.Tensor:
        with torch.no_grad():
            return self.solver(self, self.A, self.gamma, self.x)

    def gradient(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        leaves = [t.detach().requires_grad_() for t in (self.A, self.B, self.x, self.gamma)]
        A, B, x, gamma = leaves
        z = self.solver(self, A, gamma, x)
        found = torch.autograd.grad(self.loss.value(B @ z.T, self.Y), leaves)
        return z.detach(), dict(zip(("A", "B", "Phi", "gamma"), found, strict=True))

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        gradient = self.gradient()[1]
        return self.A - LEARNING_RATE * gradient["A"], self.B - LEARNING_RATE * gradient["B"]

    def synchronise(self) -> None:
        wait_for(self.device)

    def answer(self) -> tuple[Array, dict[str, Array]]:
        z, gradient = self.gradient()
        return _numpy(z).T, {"A": _numpy(gradient["A"]), "Phi": _numpy(gradient["Phi"]).T}


def _numpy(tensor: torch.Tensor) -> Array:
    return np.asarray(tensor.detach().to("cpu", torch.float64).numpy())


def _solve(run: TorchRun, A: torch.Tensor, gamma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    U = torch.eye(A.shape[0], dtype=A.dtype, device=A.device) - CELL.matrix({"A": A, "gamma": gamma})
    return torch.linalg.solve(U, x.T).T


def _unrolled(run: TorchRun, A: torch.Tensor, gamma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    step, z = CELL.step({"A": A, "gamma": gamma}, x), x
    run.iterations = 0
    for _ in range(MOST):
        before, z = z, step(z)
        run.iterations += 1
        if bool(torch.linalg.norm(z.detach() - before.detach()) <= run.tolerance * torch.linalg.norm(z.detach())):
            break
    return z


def _xitorch(method: str) -> Solver:
    from xitorch.optimize import equilibrium

    def solve(run: TorchRun, A: torch.Tensor, gamma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        calls = 0

        def f(z: torch.Tensor, A: torch.Tensor, gamma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return CELL.step({"A": A, "gamma": gamma}, x)(z)

        limits = {"f_tol": run.tolerance, "x_tol": run.tolerance, "maxiter": MOST}
        # Its adjoint is solved by gmres or bicgstab with tolerances of its own.
        backward = {"method": "bicgstab", "rtol": run.tolerance, "atol": 0.0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a ConvergenceWarning; what was achieved is measured
            z = equilibrium(f, x.detach(), (A, gamma, x), bck_options=backward, method=method, **limits)
        run.iterations = calls
        return z

    return solve


_XITORCH = {"xitorch[broyden1]": "broyden1", "xitorch[anderson]": "anderson_acc"}


def contender(name: str) -> Contender:
    """The PyTorch baseline ``name``; KeyError for another."""
    devices = ("cpu", "cuda")
    if name in _XITORCH:

        def build(problem: SoftmaxProblem, dtype: str, device: str, tolerance: float | None) -> TorchRun:
            return TorchRun(_xitorch(_XITORCH[name]), problem, dtype, device, tolerance)

        return Contender(name, build, ("torch", "xitorch"), devices=devices)
    solver = {"torch-solve": _solve, "torch-unrolled": _unrolled}[name]
    direct = name == "torch-solve"

    def plain(problem: SoftmaxProblem, dtype: str, device: str, tolerance: float | None) -> TorchRun:
        return TorchRun(solver, problem, dtype, device, tolerance)

    return Contender(name, plain, ("torch",), devices=devices, direct=direct, tunable=not direct, unrolled=not direct)
