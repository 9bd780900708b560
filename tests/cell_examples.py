"""Drawn examples of every cell, the cell of ``docs/add-a-cell.md`` among them, and its methods in any arithmetic."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flint import arb
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from deqverify.cells import Cell, Parts, cells

PAGE = Path(__file__).parent.parent / "docs" / "add-a-cell.md"
QUIET = settings(
    database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink)
)
Theta = dict[str, Any]
Drawn = tuple[Theta, Any]


NARROW = 2.0**-100  # of the sizes met, at 200 bits: hundreds of operations, each of 2⁻²⁰⁰, with room for cancellation


def snippet() -> str:
    """The module that the page shows."""
    found = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def _of_the_page() -> Cell:
    spec = importlib.util.spec_from_loader("hopfield_of_the_page", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    exec(compile(snippet(), str(PAGE), "exec"), module.__dict__)
    cell: Cell = module.CELL
    return cell


CELLS: dict[str, Cell] = {**cells(), "hopfield": _of_the_page()}


@st.composite
def instances(draw: DrawFn, name: str, dtype: str = "float64", largest_n: int = 1, large: bool = False) -> Drawn:
    n = draw(st.integers(1, largest_n)) if largest_n > 1 else 1
    return CELLS[name].draw(draw, dtype, n, large)


@lru_cache(maxsize=64)
def sample(
    name: str, count: int = 30, dtype: str = "float64", largest_n: int = 3, large: bool = False, number: int = 0
) -> tuple[Drawn, ...]:
    found: list[Drawn] = []

    @seed(number)
    @settings(QUIET, max_examples=count, phases=(Phase.generate,))
    @given(instances(name, dtype, largest_n, large))
    def collect(value: Drawn) -> None:
        found.append(value)

    collect()
    return tuple(found)


class Point(NamedTuple):
    """Where a cell is evaluated: all that its methods take."""

    theta: Theta
    x: Any
    z: Any
    cotangent: Any
    tangent: Parts

    def mapped(self, function: Any) -> Point:
        def each(theta: Theta) -> Theta:
            return {name: function(value) for name, value in theta.items()}

        t = self.tangent
        tangent = Parts(each(t.theta), function(t.x), function(t.z))
        return Point(each(self.theta), function(self.x), function(self.z), function(self.cotangent), tangent)


def point(cell: Cell, drawn: Drawn, noise: int = 0) -> Point:
    """Gaussian state, cotangent and tangent."""
    theta, x = drawn
    rng = np.random.default_rng(noise)
    state = (len(x), *cell.state(theta, x.shape[1:]))
    along = {name: np.asarray(rng.normal(size=value.shape)) for name, value in theta.items()}
    z, c, dz = rng.normal(size=(3, *state))
    return Point(theta, x, z, c, Parts(along, rng.normal(size=x.shape), dz))


def evaluated(cell: Cell, at: Point) -> dict[str, Any]:
    """What the cell's three methods give, by name."""
    pulled = cell.pull(at.theta, at.x, at.z, at.cotangent)
    assert set(pulled.theta) == set(at.theta)
    return {
        "step": cell.step(at.theta, at.x)(at.z),
        "push": cell.push(at.theta, at.x, at.z, at.tangent),
        "pull x": pulled.x,
        "pull z": pulled.z,
        **{f"pull {name}": part for name, part in pulled.theta.items()},
    }


def to_balls(array: Any, relative: float = 0.0) -> Any:
    """Balls about the entries, of radius ``relative`` times their magnitude."""
    made = np.frompyfunc(lambda v: arb(float(v), abs(float(v)) * relative), 1, 1)(np.asarray(array))
    return np.asarray(made, dtype=object)


def pairs(found: Any, balls: Any) -> list[tuple[Any, Any]]:
    """Entry by entry, after a comparison of shapes."""
    found, balls = np.asarray(found), np.asarray(balls, dtype=object)
    assert found.shape == balls.shape
    return list(zip(found.ravel(), balls.ravel(), strict=True))


def mid(balls: Any) -> np.ndarray:
    return np.array([float(ball.mid()) for ball in np.asarray(balls, dtype=object).ravel()])


def radii(balls: Any) -> np.ndarray:
    return np.array([float(ball.rad()) for ball in np.asarray(balls, dtype=object).ravel()])
