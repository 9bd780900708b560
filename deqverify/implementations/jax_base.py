"""JAX: the base that makes a layer of a plain ``solve(cell, theta, x, z0)`` or ``fixed_point(step, z0)``.

What is compiled are functions of this module, with the layer and the cell as static arguments: one compilation serves
every problem of one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp

from deqverify.cells import Cell
from deqverify.cells.base import Theta
from deqverify.claims import Accuracy, Claims
from deqverify.frameworks import framework
from deqverify.frameworks.base import frozen
from deqverify.frameworks.jax_bridge import computing, named_leaves, recording
from deqverify.implementations.protocol import Cotangents, Pull, Solution, Status, worst

_STATUSES = list(Status)
_CONVERGED, _CAPPED, _DIVERGED = (_STATUSES.index(s) for s in (Status.CONVERGED, Status.CAPPED, Status.DIVERGED))

Reports = dict[str, Any]
"""What leaves a compiled function beside z: arrays, statuses as places in ``_STATUSES``."""


class JaxLayer:
    """A layer whose gradient comes from ``jax.vjp``. Subclasses say ``solve`` or ``fixed_point``, and ``claims``.

    Either returns z, ``(z, converged)`` with a boolean for the batch or one for each data point, (n,), or a
    :class:`Solution`, whose ``status`` and ``statuses`` may be such booleans; false is CAPPED, or DIVERGED where z is
    not finite. A report on the backward solve cannot leave it.

    Where ``compiles`` is claimed all is compiled by ``jax.jit``, once for each cell and shape; the attributes of the
    layer are constants then, and those of a type that is not hashable are told apart by identity. Float64 is computed
    in 64-bit mode, whatever the process has set. θ may be any pytree. Without a gradient, by claim or in the mode
    ``no vjp``, no ``jax.vjp`` is around the call.
    """

    framework = "jax"
    name = "jax layer"
    freezes = True
    """``jax.vjp`` differentiates in the blocks that are not frozen."""
    claims = Claims(Accuracy(1e-6), Accuracy(1e-6), compiles=True)

    def fixed_point(self, step: Callable[[Any], Any], z0: Any) -> Any:
        raise NotImplementedError("fixed_point: a JaxLayer says how z = step(z) is solved")

    def solve(self, cell: Cell, theta: Theta, x: Any, z0: Any) -> Any:
        """The equilibrium of ``z = cell.step(theta, x)(z)`` for x (n, *inputs), from z0 (n, *state), which is zero
        where no start is given."""
        return self.fixed_point(cell.step(theta, x), z0)

    def vjp(self, cell: Cell, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        if not recording() or self.claims.backward is None:
            return _reported(*self._run(_plain, cell, theta, x, z0)), _refuse
        held, (z, vjp, reports) = frozen(), self._run(_recorded, cell, theta, x, z0)
        apply = framework("jax").compiled(_pulled) if self.claims.compiles else _pulled

        def pull(cotangent: Any) -> Cotangents:
            with computing(str(x.dtype)):
                found = apply(None, vjp, cotangent)
                found_theta, found_x = _with_zeros(found[0], theta, x) if held else found
            return Cotangents(named_leaves(found_theta), found_x)

        return _reported(z, reports), pull

    def second_order(
        self, cell: Cell, theta: Theta, x: Any, cotangent: Any, direction: tuple[Theta, Any]
    ) -> Cotangents:
        """The gradient of ``⟨pull(cotangent), direction⟩``; JAX's error where the solver cannot be derived twice."""
        found = self._run(_second, cell, theta, x, None, cotangent, direction)
        return Cotangents(named_leaves(found[0]), found[1])

    def start_gradient(self, cell: Cell, theta: Theta, x: Any, z0: Any, cotangent: Any) -> Any:
        """The gradient that reaches the start, shaped like it; zero where none does."""
        return self._run(_start, cell, theta, x, z0, cotangent)

    def forward_mode(self, cell: Cell, theta: Theta, x: Any, tangent: tuple[Theta, Any]) -> tuple[Solution, Any]:
        """By ``jax.jvp``, which not every solver allows: one that does says ``jvp = JaxLayer.forward_mode``."""
        z, dz, reports = self._run(_tangent, cell, theta, x, None, tangent)
        return _reported(z, reports), dz

    def _run(self, function: Callable[..., Any], cell: Cell, theta: Theta, x: Any, *more: Any) -> Any:
        if self.claims.compiles:
            function = framework("jax").compiled(function)
        try:
            with computing(str(x.dtype)):
                return function(_Asked(self, cell), theta, x, *more)
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.TracerArrayConversionError,
            jax.errors.TracerIntegerConversionError,
        ) as error:
            fix = (
                "claim compiles=False (option compiles=no of a function), or use jax.lax.while_loop"
                if self.claims.compiles
                else "inside jax.vjp it can look at jax.lax.stop_gradient(value)"
            )
            raise TypeError(f"{self.name} looks at values in Python: {fix}. JAX says: {error}") from error


class JaxFixedPoint(JaxLayer):
    """A layer around a plain function of JAX, ``solve(step, z0)``, with its claims; returns as in :class:`JaxLayer`."""

    def __init__(self, solve: Callable[..., Any], claims: Claims | None = None, name: str | None = None):
        self.fixed_point = solve  # type: ignore[method-assign]
        self.claims = claims or JaxLayer.claims
        self.name = name or str(getattr(solve, "__name__", type(solve).__name__))


class _Asked:
    """A layer and a cell as one static argument: equal where the same is computed, so that copies are compiled once."""

    def __init__(self, layer: JaxLayer, cell: Cell):
        self.layer, self.cell, self.frozen = layer, cell, frozen()
        attributes = sorted((name, _hashable(value)) for name, value in vars(layer).items() if name != "name")
        self._key = (type(layer), cell, tuple(attributes), self.frozen)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and self._key == other._key

    def __call__(self, theta: Theta, x: Any, z0: Any) -> tuple[Any, Reports]:
        if z0 is None:
            z0 = jnp.zeros((x.shape[0], *self.cell.state(theta, tuple(x.shape[1:]))), x.dtype)
        answer = self.layer.solve(self.cell, theta, x, z0)
        if isinstance(answer, tuple):
            z, converged = answer
            several = getattr(converged, "ndim", 0) == 1
            answer = Solution(z, statuses=converged) if several else Solution(z, converged)
        if not isinstance(answer, Solution):
            answer = Solution(answer)
        return answer.z, _reports(answer)


def _hashable(value: Any) -> Hashable:
    if isinstance(value, Claims):
        return repr(value)
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return value


class _Same:
    """Keeps a value that is not hashable, and is equal to what keeps the same one."""

    def __init__(self, value: Any):
        self._value = value

    def __hash__(self) -> int:
        return id(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._value is self._value


# Module-level, so that jax.jit knows them again.


def _plain(asked: _Asked, theta: Theta, x: Any, z0: Any) -> Any:
    return asked(theta, x, z0)


def _recorded(asked: _Asked, theta: Theta, x: Any, z0: Any) -> Any:
    if not asked.frozen:
        return jax.vjp(lambda theta, x: asked(theta, x, z0), theta, x, has_aux=True)
    blocks = {**theta, "x": x}
    wanted = {name: value for name, value in blocks.items() if name not in asked.frozen}

    def answer(wanted: dict[str, Any]) -> Any:
        given = blocks | wanted
        return asked({name: given[name] for name in theta}, given["x"], z0)

    return jax.vjp(answer, wanted, has_aux=True)


def _pulled(_: None, vjp: Any, cotangent: Any) -> Any:
    return vjp(cotangent)


def _with_zeros(found: dict[str, Any], theta: Theta, x: Any) -> tuple[dict[str, Any], Any]:
    """The gradients ``found`` in some blocks, and zeros in the others."""
    every = {name: found.get(name, jnp.zeros_like(value)) for name, value in {**theta, "x": x}.items()}
    return {name: every[name] for name in theta}, every["x"]


def _second(asked: _Asked, theta: Theta, x: Any, z0: Any, cotangent: Any, direction: tuple[Theta, Any]) -> Any:
    def slope(theta: Theta, x: Any) -> Any:
        _, vjp, _ = _recorded(asked, theta, x, z0)
        pairs = zip(jax.tree.leaves(vjp(cotangent)), jax.tree.leaves(tuple(direction)), strict=True)
        return sum(jnp.vdot(g, d) for g, d in pairs)

    return jax.grad(slope, argnums=(0, 1))(theta, x)


def _start(asked: _Asked, theta: Theta, x: Any, z0: Any, cotangent: Any) -> Any:
    _, vjp, _ = jax.vjp(lambda z0: asked(theta, x, z0), z0, has_aux=True)
    return vjp(cotangent)[0]


def _tangent(asked: _Asked, theta: Theta, x: Any, z0: Any, tangent: tuple[Theta, Any]) -> Any:
    return jax.jvp(lambda theta, x: asked(theta, x, z0), (theta, x), tuple(tangent), has_aux=True)


def _refuse(cotangent: Any) -> Cotangents:
    raise RuntimeError("no pull: the equilibrium was asked for without jax.vjp around it")


def _reports(solution: Solution) -> Reports:
    """The reports of a solution as arrays."""
    z = jax.lax.stop_gradient(solution.z)
    numbers = {"iterations": solution.iterations, "residual": solution.residual, "trace": solution.trace}
    found = {name: jnp.asarray(value) for name, value in numbers.items() if value is not None}
    if solution.status is not Status.NOT_REPORTED:
        found["status"] = _codes(solution.status, jnp.isfinite(z).all())
    if solution.statuses is not None:
        finite = jnp.isfinite(z).all(axis=tuple(range(1, z.ndim)))
        found["statuses"] = _codes(solution.statuses, finite)
    return {name: jax.lax.stop_gradient(value) for name, value in found.items()}


def _codes(said: Any, finite: Any) -> Any:
    """The place of what was said, statuses or booleans, in ``_STATUSES``."""
    if isinstance(said, Status):
        return jnp.asarray(_STATUSES.index(said))
    if isinstance(said, list | tuple) and any(isinstance(each, Status) for each in said):
        return jnp.asarray([_STATUSES.index(each) for each in said])
    return jnp.where(jnp.asarray(said), _CONVERGED, jnp.where(finite, _CAPPED, _DIVERGED))


def _reported(z: Any, reports: Reports) -> Solution:
    """z with its reports as the protocol has them; where only data points were spoken of, the worst speaks for all."""
    solution = Solution(z)
    if "statuses" in reports:
        solution.statuses = [_STATUSES[code] for code in reports["statuses"].tolist()]
        solution.status = worst(solution.statuses)
    if "status" in reports:
        solution.status = _STATUSES[int(reports["status"])]
    if "iterations" in reports:
        solution.iterations = int(reports["iterations"])
    if "residual" in reports:
        solution.residual = float(reports["residual"])
    if "trace" in reports:
        solution.trace = reports["trace"].tolist()
    return solution
