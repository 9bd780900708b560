"""Targets of the project and of others as contenders, through the same bridge as the laws use."""

from __future__ import annotations

from typing import Any

from deqverify.benchmarking.contenders import LEARNING_RATE, Contender, Unavailable
from deqverify.benchmarking.timing import wait_for
from deqverify.dtypes import Array
from deqverify.implementations.loading import TargetError, load
from deqverify.implementations.subject import Subject
from deqverify.problem import SoftmaxProblem


def contender(name: str) -> Contender:
    """The target ``name``. An optional method ``at_tolerance(tolerance)`` of a layer makes it tunable."""
    try:
        implementation = load(name)
    except TargetError as error:
        raise Unavailable(str(error)) from error

    def build(problem: SoftmaxProblem, dtype: str, device: str, tolerance: float | None) -> LayerRun | ModelRun:
        chosen = implementation if tolerance is None else implementation.at_tolerance(tolerance)
        subject = Subject(chosen, dtype, device)
        return LayerRun(subject, problem) if subject.is_layer else ModelRun(subject, problem)

    claims = implementation.claims
    return Contender(
        name,
        build,
        dtypes=claims.dtypes,
        devices=claims.devices,
        direct=claims.forward.exact,
        tunable=hasattr(implementation, "at_tolerance"),
    )


class LayerRun:
    """A layer: ``vjp``, then the gradient of the loss in z and B, and the pull."""

    def __init__(self, subject: Subject, problem: SoftmaxProblem):
        self.subject, self.problem, self.device = subject, problem, subject.device
        self.theta = subject.parameters(problem)
        self.x, self.B, self.Y = (subject.native(array) for array in (problem.Phi.T, problem.B, problem.Y))
        self.iterations: int | None = None

    def forward(self) -> Any:
        return self._solve()[0].z

    def gradient(self) -> tuple[Any, dict[str, Any]]:
        solution, pull = self._solve()
        z = solution.z
        # The squared loss of the fixed problems: its gradient is arithmetic, in any framework and without a graph.
        dF = self.problem.loss.gradient(self.B @ z.T, self.Y)
        found = pull(dF.T @ self.B)
        return z, {"A": found.theta["A"], "B": dF @ z, "Phi": found.x, "gamma": found.theta["gamma"]}

    def step(self) -> Any:
        gradient = self.gradient()[1]
        return self.theta["A"] - LEARNING_RATE * gradient["A"], self.B - LEARNING_RATE * gradient["B"]

    def synchronise(self) -> None:
        wait_for(self.device)

    def answer(self) -> tuple[Array, dict[str, Array]]:
        z, gradient = self.gradient()
        numpy = self.subject.framework.to_numpy
        return numpy(z).T, {"A": numpy(gradient["A"]), "Phi": numpy(gradient["Phi"]).T}

    def _solve(self) -> Any:
        solution, pull = self.subject.implementation.vjp(self.problem.cell, self.theta, self.x)
        self.iterations = solution.iterations
        return solution, pull


class ModelRun:
    """A model that is whole: it shows a gradient and no z, so that only the gradient's errors are known."""

    def __init__(self, subject: Subject, problem: SoftmaxProblem):
        self.subject, self.problem, self.device = subject, problem, subject.device
        self.iterations: int | None = None

    def forward(self) -> Any:
        raise Unavailable(f"{self.subject.name} is a whole model and shows no z")

    def gradient(self) -> tuple[Any, dict[str, Any]]:
        return None, self.subject.value_and_grad(self.problem)[1]

    def step(self) -> Any:
        gradient = self.gradient()[1]
        return self.problem.A - LEARNING_RATE * gradient["A"], self.problem.B - LEARNING_RATE * gradient["B"]

    def synchronise(self) -> None: ...

    def answer(self) -> tuple[None, dict[str, Array]]:
        gradient = self.gradient()[1]
        return None, {"A": gradient["A"], "Phi": gradient["Phi"]}
