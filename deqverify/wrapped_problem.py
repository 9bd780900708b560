"""A problem of a cell that the user wrote: as data it holds only what differs from the user's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from deqverify.cells.wrapped import WrappedCell
from deqverify.dtypes import DTYPES, Array, round_to
from deqverify.problem import CellProblem, array_code


@dataclass(frozen=True, eq=False)
class WrappedProblem(CellProblem):
    """As :class:`CellProblem`. Parameters that ``theta`` leaves out are the user's own.

    ``cell`` may be the name of the user's cell, as in a counterexample that was printed or stored: nothing can be asked
    of such a problem before it is :meth:`bound` to the cell itself.
    """

    def __post_init__(self) -> None:
        if isinstance(self.cell, str):
            return
        if unknown := [name for name in self.theta if name not in self._cell.own]:
            raise ValueError(f"theta: {unknown[0]!r} is not a parameter of {self._cell.name}")
        object.__setattr__(self, "theta", dict(self._cell.own) | dict(self.theta))
        super().__post_init__()

    @property
    def _cell(self) -> WrappedCell:
        assert isinstance(self.cell, WrappedCell)
        return self.cell

    def bound(self, cell: WrappedCell, dtype: str) -> WrappedProblem:
        """The same problem of ``cell``, its values numbers of ``dtype``."""
        return replace(self, cell=cell).rounded_to(dtype)

    def rounded_to(self, name: str) -> WrappedProblem:
        return cast(WrappedProblem, super().rounded_to(name))

    @property
    def _changed(self) -> dict[str, Any]:
        if isinstance(self.cell, str):
            return self.theta
        return {name: value for name, value in self.theta.items() if not _is_rounded(value, self._cell.own[name])}

    @property
    def _name(self) -> str:
        return self.cell if isinstance(self.cell, str) else self.cell.name

    def __reduce__(self) -> tuple[Any, ...]:
        # The user's function stays where it is: what is stored is data.
        return WrappedProblem, (self._name, self._changed, self.x, self.B, self.Y, self.loss)

    def where(self) -> str:
        if isinstance(self.cell, str):
            return self.cell
        changed = ", ".join(self._changed)
        return f"{self._name}, states {self.states}, p = {self.p}, {f'moved: {changed}' if changed else 'own weights'}"

    def __repr__(self) -> str:
        """Python code that makes the same problem, not yet bound (``np`` and ``losses`` in scope)."""
        theta = ", ".join(f"{name!r}: {array_code(value)}" for name, value in self._changed.items())
        parts = [f"cell={self._name!r}", f"theta={{{theta}}}"]
        parts += [f"{name}={array_code(getattr(self, name))}" for name in ("x", "B", "Y")]
        body = ",\n    ".join([*parts, f"loss=losses.{self.loss!r}"])
        return f"WrappedProblem(\n    {body},\n)"


def _is_rounded(value: Array, own: Array) -> bool:
    """Whether ``value`` is the user's own, in some dtype."""
    return any(np.array_equal(value, round_to(own, name)) for name in DTYPES)
