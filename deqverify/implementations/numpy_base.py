"""NumPy: the base that makes a layer of a plain ``fixed_point(step, z0)``, for a forward pass alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from deqverify.cells import Cell
from deqverify.cells.base import Theta
from deqverify.claims import Accuracy, Claims
from deqverify.dtypes import Array
from deqverify.implementations.protocol import Cotangents, Pull, Solution


class NumpyLayer:
    """A layer without a gradient: NumPy records none. Subclasses say ``fixed_point`` and ``claims``, in which
    ``backward`` is None.

    ``fixed_point(step, z0)`` returns z (n, *state), or a :class:`Solution` around it.
    """

    framework = "numpy"
    name = "numpy layer"
    claims = Claims(Accuracy(1e-6), backward=None)

    def fixed_point(self, step: Callable[[Array], Array], z0: Array) -> Any:
        raise NotImplementedError("fixed_point: a NumpyLayer says how z = step(z) is solved")

    def equilibrium(self, cell: Cell, theta: Theta, x: Array, z0: Array) -> Any:
        """Override this instead where more than the step is needed, as a linear solver does."""
        return self.fixed_point(cell.step(theta, x), z0)

    def vjp(self, cell: Cell, theta: Theta, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        if z0 is None:
            z0 = np.zeros((x.shape[0], *cell.state(theta, tuple(x.shape[1:]))), x.dtype)
        answer = self.equilibrium(cell, theta, x, z0)
        return answer if isinstance(answer, Solution) else Solution(answer), _refuse


def _refuse(cotangent: Any) -> Cotangents:
    raise NotImplementedError("no pull: a layer of NumPy is a forward pass alone, and says so: Claims(backward=None)")
