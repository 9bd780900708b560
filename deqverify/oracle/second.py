"""Second derivatives of what an equilibrium decides, by central differences of polished gradients at two steps (theory:
difference-quotients)."""

from __future__ import annotations

import numpy as np
from flint import arb, ctx

from deqverify.dtypes import Array
from deqverify.oracle.balls import Balls, balls, magnitude, middle, radius
from deqverify.oracle.closed import OracleError
from deqverify.oracle.differences import Direction, Line, proved
from deqverify.oracle.krawczyk import apply, transposed
from deqverify.oracle.polished import Polished, refined

_BITS = 256
Blocks = dict[str, tuple[Array, Array]]


def second_derivative(polished: Polished, cotangent: Array, direction: Direction) -> Blocks:
    """The derivative along ``direction`` of the gradient of ``⟨c, z*⟩``, in every parameter and "x", c (n, *state) held
    fixed; each with a bound on the error of its entries.

    The gradient at either end is the cell's own pull-back of an adjoint polished there; no second derivative of the
    cell decides the value. Twice the distance of the quotients at h and h/2, and the radius, bound the error.
    OracleError as for :func:`deqverify.oracle.differences.derivative`.
    """
    line = Line(polished, cotangent, direction)
    exponent = line.exponent()
    blocks = polished.theta | {"x": polished.x}
    if exponent is None or not polished.n:
        return {name: (np.zeros(np.shape(value)),) * 2 for name, value in blocks.items()}
    if polished.z is None:
        raise OracleError("no equilibrium is proved about the one that Newton's method found")
    with ctx.workprec(_BITS):
        steps = [sign * arb(2) ** k for k in (exponent, exponent - 1) for sign in (1, -1)]
        ends = _gradients(line, polished, balls(cotangent), steps)
        found = {}
        for name in blocks:
            first, second, third, fourth = (np.asarray(end[name], dtype=object) for end in ends)
            wide, fine = (first - second) / (2 * steps[0]), (third - fourth) / (2 * steps[2])
            found[name] = middle(fine), 2.0 * magnitude(wide - fine) + radius(fine)
    return found


def _gradients(line: Line, polished: Polished, cotangent: Balls, steps: list[arb]) -> list[dict[str, Balls]]:
    states = [line.equilibrium(step, _BITS) for step in steps]
    J, M = line.jacobian(steps[0], [z for z, _ in states]), polished.M
    left, right, inverse = J.defect(M), transposed(J.right_defect(M)), transposed(M)
    first = balls(apply(inverse, middle(cotangent).reshape(polished.n, polished.s)).reshape(cotangent.shape))
    ends = []
    for step, (z, off) in zip(steps, states, strict=True):
        state = balls(z, proved(left, apply(np.abs(M), off)).reshape(z.shape))
        theta, x = {name: line.at(name, step) for name in polished.theta}, line.at("x", step)

        def residual(adjoint: Balls, theta: dict[str, Balls] = theta, x: Balls = x, state: Balls = state) -> Balls:
            return np.asarray(cotangent + polished.cell.pull(theta, x, state, adjoint).z - adjoint, dtype=object)

        found, unsolved = refined(residual, first, inverse, _BITS)
        adjoint = balls(found, proved(right, apply(np.abs(inverse), unsolved)).reshape(found.shape))
        parts = polished.cell.pull(theta, x, state, adjoint)
        ends.append({**parts.theta, "x": parts.x})
    return ends
