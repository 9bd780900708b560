"""An implementation bound to a dtype and a device, as the laws see it: NumPy, data points first, and no library's name.

Whatever the implementation does comes out as one of three things: an answer, :class:`Reported` (it says itself that
the answer is not converged) or :class:`TargetFailure` (it raised, exited, skipped or returned the wrong shape).
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from deqverify.cells import LinearSoftmaxCell, cells
from deqverify.cells.wrapped import WrappedCell
from deqverify.claims import Claims
from deqverify.dtypes import Array, to_grid
from deqverify.dtypes import dtype as known_dtype
from deqverify.frameworks import Framework, framework
from deqverify.implementations.candidates import as_implementation
from deqverify.implementations.devices import check_device
from deqverify.implementations.failures import Reported, TargetFailure, calling
from deqverify.implementations.probing import adjoint_by_probe
from deqverify.implementations.protocol import Cotangents, Layer, Pull, Solution, Status
from deqverify.problem import Problem

Asked = TypeVar("Asked", bound=Problem)
"""A kind of problem."""


def claimed_cells(claims: Claims) -> tuple[str, ...]:
    """The names of the cells that ``claims`` speak of: without any, those that contract."""
    return claims.cells or tuple(name for name, cell in cells().items() if cell.contracts)


@dataclass
class Answer:
    """One solve of ``problem``: z (n, *state) in float64, the status, native arrays for those who look, the pull."""

    problem: Problem
    z: Array
    solution: Solution
    native_pull: Pull

    @property
    def status(self) -> Status:
        return self.solution.status

    def heed(self) -> None:
        """Raises :class:`Reported` where the status tells the caller not to trust the answer."""
        heed(self.status, not_finite=not np.isfinite(self.z).all())


@dataclass(frozen=True)
class Question:
    """What was asked of an implementation: a problem, the cotangent (n, *state) where one was pulled back, the layer,
    where it was not the implementation itself, and the native start, where one was given."""

    problem: Problem
    cotangent: Array | None = None
    layer: Any = None
    start: Any = None


class Started:
    """``layer``, started at ``start`` where it is given none."""

    def __init__(self, layer: Any, start: Any):
        self._layer, self._start = layer, start
        self.name, self.framework, self.claims = layer.name, layer.framework, layer.claims

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        found: tuple[Solution, Pull] = self._layer.vjp(cell, theta, x, self._start if z0 is None else z0)
        return found


class Subject:
    """``implementation`` in ``dtype`` on ``device``. Accepts a layer, a model, or a function ``solve(step, z0) -> z``.

    Raises TypeError for anything else and ValueError for a dtype or device that it does not claim.
    """

    def __init__(
        self,
        implementation: Any,
        dtype: str | None = None,
        device: str = "cpu",
        name: str | None = None,
        only: Sequence[str] = (),
    ):
        own = isinstance(implementation, Subject)
        self.implementation = implementation.implementation if own else as_implementation(implementation)
        self.claims: Claims = self.implementation.claims
        self.name = name or self.implementation.name
        self.dtype = known_dtype(dtype or self.claims.dtypes[0]).name
        if self.is_layer:  # a whole model says itself what its functions are off by
            needed = self.framework.function_error(self.claims.computes_in.get(self.dtype, self.dtype), device)
            self.claims = replace(self.claims, function_error=max(self.claims.function_error, needed))
        self.device = device
        self.notes: list[str] = []
        """What was noticed on the way in one example, said beside a violation."""
        self.takes_apart: set[str] = set()
        """The names of cells whose data points it is seen to take apart: a parameter of each of them says nothing."""
        self.questions: list[Question] | None = None
        """What was asked, where that is recorded."""
        if self.dtype not in self.claims.dtypes:
            raise ValueError(f"dtype: {self.name} claims {', '.join(self.claims.dtypes)}, not {self.dtype}")
        if device.split(":")[0] not in self.claims.devices:
            raise ValueError(f"device: {self.name} claims {', '.join(self.claims.devices)}, not {device}")
        check_device(device)
        self.cells = tuple(only or claimed_cells(self.claims))
        """The cells on which it is judged, by name."""
        if unclaimed := [cell for cell in self.cells if cell not in claimed_cells(self.claims)]:
            raise ValueError(f"cell: {self.name} claims {', '.join(claimed_cells(self.claims))}, not {unclaimed[0]}")

    @property
    def own_cell(self) -> WrappedCell | None:
        """The cell that the implementation brings, if it solves no other."""
        return getattr(self.implementation, "cell", None)

    @property
    def is_layer(self) -> bool:
        return isinstance(self.implementation, Layer)

    @cached_property
    def framework(self) -> Framework:
        """The bridge of the layer's framework, imported when first needed."""
        return framework(self.implementation.framework)

    @contextmanager
    def _calling(self, what: str) -> Iterator[None]:
        """As the module's own, in the framework's context for this dtype."""
        with calling(what), self.framework.computing(self.dtype):
            yield

    def native(self, values: Any) -> Any:
        return self.framework.native(values, self.dtype, self.device)

    def rounded(self, problem: Asked) -> Asked:
        """``problem`` as it is computed with: its values numbers of the dtype, and A on the grid where one is
        claimed."""
        rounded = problem.rounded_to(self.dtype)
        if self.claims.bits is None or rounded.cell.name != LinearSoftmaxCell.name:
            return rounded
        return rounded.with_blocks(A=to_grid(rounded.theta["A"], self.claims.bits))

    def parameters(self, problem: Problem) -> dict[str, Any]:
        """θ, native."""
        return {name: self.native(value) for name, value in problem.theta.items()}

    def solve(self, problem: Problem, z0: Array | None = None, layer: Any = None, x: Array | None = None) -> Answer:
        """Solves ``problem`` (from z0, (n, *state)); ``x`` replaces the inputs, NaN allowed. Status not looked at."""
        given = self.native(problem.x if x is None else x)
        start = None if z0 is None else self.native(z0)
        asked = self if x is None else self._unrecorded()  # with other inputs it is another problem, or none
        return asked.solve_native(problem, self.parameters(problem), given, start, layer)

    def solve_native(
        self, problem: Problem, theta: dict[str, Any], x: Any, z0: Any = None, layer: Any = None, cell: Any = None
    ) -> Answer:
        """Solves ``problem`` with native parameters and inputs; ``cell`` stands in for its cell."""
        self._record(Question(problem, layer=layer, start=z0))
        with self._calling("vjp"):
            solution, pull = (layer or self.implementation).vjp(cell or problem.cell, theta, x, z0)
            z = self.given(solution.z, (int(x.shape[0]), *problem.state), "z")
        return Answer(problem, z, solution, pull)

    def equilibrium(self, problem: Problem, z0: Array | None = None) -> Array:
        """z, (n, *state). Raises :class:`Reported` where the layer says that it is not converged."""
        answer = self.solve(problem, z0)
        answer.heed()
        return answer.z

    def pull(self, answer: Answer, cotangent: Array, again: bool = False) -> dict[str, Array]:
        """Gradients in every parameter and in "x" for a cotangent (n, *state); heeds both statuses. ``again``: another
        pull of the same answer follows, for which the framework has to keep what it would free."""
        answer.heed()
        found, status = self.pull_status(answer, cotangent, again)
        heed(status)
        return found

    def pull_native(self, answer: Answer, cotangent: Any, again: bool = False) -> Cotangents:
        with self._calling("pull"), self.framework.keeping_graph() if again else nullcontext():
            found = answer.native_pull(cotangent)
        for name in found.unreached:
            said = f"no gradient reached {name}: zeros stand in its place"
            if said not in self.notes:
                self.notes.append(said)
        return found

    def pull_status(self, answer: Answer, cotangent: Array, again: bool = False) -> tuple[dict[str, Array], Status]:
        self._record(Question(answer.problem, cotangent))
        return self.unpack(answer.problem, self.pull_native(answer, self.native(cotangent), again), len(cotangent))

    def unpack(self, problem: Problem, found: Cotangents, n: int) -> tuple[dict[str, Array], Status]:
        """Native gradients for ``n`` data points as NumPy, and the backward solve's status."""
        with calling("pull"):
            gradients = {
                name: self.given(value, np.shape(problem.theta[name]), f"the gradient in {name}")
                for name, value in found.theta.items()
                if name in problem.theta
            }
            x = self.given(found.x, (n, *problem.x.shape[1:]), "the gradient in x")
            return gradients | {"x": x}, found.status

    def adjoint(self, problem: Problem, cotangent: Array) -> tuple[Array, Status]:
        """Λ (n, *state) for a cotangent of that shape, and the status of its solve; heeds the forward pass.

        Seen as the gradient in a probe that is added to f (:mod:`deqverify.implementations.probing`). Where x is such a
        probe already, it serves.
        """
        if problem.cell.additive:
            answer = self.solve(problem)
            found, status = self.pull_status(answer, cotangent)
            return found["x"], answer.status if answer.status.admits_failure else status
        self._record(Question(problem, cotangent))
        seen = adjoint_by_probe(self._unrecorded(), problem, cotangent)
        return seen.adjoint, seen.status

    def pull_probe(
        self, problem: Problem, theta: dict[str, Any], x: Array, cell: Any, cotangent: Array
    ) -> tuple[Array, Cotangents, Status]:
        """z, native gradients and the status of ``problem`` with native ``theta`` and inputs x, its cell being
        ``cell``."""
        answer = self.solve_native(problem, theta, self.native(x), cell=cell)
        pulled = self.pull_native(answer, self.native(cotangent))
        return answer.z, pulled, answer.status if answer.status.admits_failure else pulled.status

    def value_and_grad(self, problem: Problem) -> tuple[float, dict[str, Array]]:
        """L and the gradient in every block, through the layer's own framework; heeds both statuses."""
        if not self.is_layer:
            self._record(Question(problem))
            with calling("value_and_grad"):
                value, found = self.implementation.value_and_grad(problem)
                return float(value), {name: np.asarray(g, dtype=np.float64) for name, g in found.items()}
        answer = self.solve(problem)
        answer.heed()
        with calling("readout"):
            B, Y = self.native(problem.B), self.native(problem.Y)
            value, dz, dB = self.framework.readout(problem.loss, answer.solution.z, B, Y)
            cotangent = self.framework.to_numpy(dz)
        gradient = self.pull(answer, cotangent)
        return value, gradient | {"B": self.framework.to_numpy(dB)}

    def jvp(self, problem: Problem, tangent: dict[str, Array]) -> Array:
        """The equilibrium's derivative (n, *state) along a tangent in every parameter and "x"; heeds the status."""
        theta, x = self.parameters(problem), self.native(problem.x)
        with self._calling("jvp"):
            solution, dz = self.implementation.jvp(problem.cell, theta, x, self._directed(problem, tangent))
            found = self.given(dz, problem.states, "the derivative along a tangent")
        heed(solution.status)
        return found

    def second_order(self, problem: Problem, cotangent: Array, direction: dict[str, Array]) -> dict[str, Array]:
        """The derivative along a direction in every parameter and "x" of the gradient that a pull gives, in the same
        blocks. :class:`TargetFailure` where it is refused.
        """
        theta, x = self.parameters(problem), self.native(problem.x)
        given = self.native(cotangent), self._directed(problem, direction)
        with self._calling("second_order"):
            found = self.implementation.second_order(problem.cell, theta, x, *given)
        return self.unpack(problem, found, problem.n)[0]

    def start_gradient(self, problem: Problem, z0: Array, cotangent: Array) -> Array:
        """What a pull says of the start, (n, *state)."""
        theta, x = self.parameters(problem), self.native(problem.x)
        with self._calling("start_gradient"):
            given = self.native(z0), self.native(cotangent)
            found = self.implementation.start_gradient(problem.cell, theta, x, *given)
            return self.given(found, problem.states, "the gradient in the start")

    def _directed(self, problem: Problem, tangent: dict[str, Array]) -> tuple[dict[str, Any], Any]:
        return {name: self.native(tangent[name]) for name in problem.theta}, self.native(tangent["x"])

    def traced(self, layer: Any = None) -> Any:
        """The implementation, or ``layer``, keeping a trace."""
        with calling("traced"):
            return (self.implementation if layer is None else layer).traced()

    def copied(self) -> Subject:
        """A subject around a deep copy of the implementation."""
        with calling("copy.deepcopy"):
            return self._around(copy.deepcopy(self.implementation))

    def pickled(self) -> Subject:
        """A subject around the implementation after a round trip through pickle."""
        with calling("pickle"):
            return self._around(pickle.loads(pickle.dumps(self.implementation)))

    def fresh(self) -> Subject:
        """A subject that nobody has used yet, if this one was not used: a deep copy where copies are claimed, else
        itself."""
        return self.copied() if self.claims.copies else self

    @contextmanager
    def evaluating(self) -> Iterator[Subject]:
        """This subject in evaluation mode; back in training mode at the end."""
        with calling("mode(False)"):
            layer = self.implementation.mode(False)
        try:
            yield self._around(layer)
        finally:
            with calling("mode(True)"):
                self.implementation = layer.mode(True)

    def _around(self, implementation: Any) -> Subject:
        twin = copy.copy(self)
        twin.implementation = implementation
        return twin

    def _record(self, question: Question) -> None:
        if self.questions is not None:
            self.questions.append(question)

    def recording(self) -> Subject:
        """The same subject, which writes down what it and its copies are asked."""
        twin = self._around(self.implementation)
        twin.questions = []
        return twin

    def _unrecorded(self) -> Subject:
        twin = self._around(self.implementation)
        twin.questions = None
        return twin

    def posed(self, question: Question) -> Subject:
        """The subject that was asked: with the layer and the start of ``question``, where it had some."""
        layer = self.implementation if question.layer is None else question.layer
        return self._around(layer if question.start is None else Started(layer, question.start))

    def on(self, names: Sequence[str]) -> Subject:
        """The same subject, judged on some of its cells only."""
        twin = self._around(self.implementation)
        twin.cells = tuple(names)
        return twin

    def limited(self, max_iterations: int) -> Any:
        with calling("limited"):
            return self.implementation.limited(max_iterations)

    def given(self, array: Any, shape: tuple[int, ...], what: str) -> Array:
        if tuple(array.shape) != shape:
            raise TargetFailure(f"{what} has shape {tuple(array.shape)}, expected {shape} (data points first)")
        return self.framework.to_numpy(array)


def heed(status: Status, not_finite: bool = False) -> None:
    """Raises :class:`Reported` where ``status`` tells the caller not to trust the answer."""
    if status.admits_failure:
        raise Reported(status.value, not_finite)
