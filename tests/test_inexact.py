"""Running error analysis of a cell: its own text on arrays with errors holds what balls of many bits hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flint import ctx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deqverify.cells import Parts, cells
from deqverify.dtypes import Array
from deqverify.inexact import Inexact
from deqverify.oracle.balls import balls, magnitude

CELLS = cells()
UNIT = 2.0**-52
FEW = settings(
    max_examples=8, database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)


def exact(value: Any, error: float = 0.0) -> Inexact:
    value = np.asarray(value, dtype=np.float64)
    return Inexact(value, np.full(value.shape, error), UNIT)


def evaluated(cell: Any, theta: Any, x: Any, z: Any, c: Any, along: Any) -> dict[str, Any]:
    pulled, tangent = cell.pull(theta, x, z, c), Parts(theta, x, along)
    rest = {f"∂{name}": value for name, value in pulled.theta.items()}
    return {
        "f": cell.step(theta, x)(z),
        "∂x": pulled.x,
        "∂z": pulled.z,
        "push": cell.push(theta, x, z, tangent),
        **rest,
    }


def outside(found: Inexact, true: Any) -> bool:
    """Whether some ball is not within the error; that was summed in float64, so that a little is added. NaN, as of
    zero times what nothing is known of, says nothing."""
    with ctx.workprec(160):
        off = magnitude(np.asarray(true, dtype=object) - balls(found.value))
    return bool(np.any(off > found.error * (1.0 + 2.0**-40) + 2.0**-1000))


@pytest.mark.parametrize("name", CELLS)
def test_every_point_of_a_box_is_held(name: str) -> None:
    """Step, pull and push at corners of the box, at 128 bits; kinks included."""
    cell = CELLS[name]

    @FEW
    @given(st.data())
    def holds(data: Any) -> None:
        theta, x = cell.draw(data.draw, "float64", 2)
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        wide = 2.0 ** data.draw(st.integers(-52, -3))
        z, c = rng.standard_normal((2, len(x), *cell.state(theta, x.shape[1:])))
        inexact = {k: exact(v) for k, v in theta.items()}
        with np.errstate(all="ignore"):
            found = evaluated(cell, inexact, exact(x), exact(z, wide), exact(c, wide), exact(z, wide))
        corner = wide * rng.choice([-1.0, 1.0], z.shape)
        with ctx.workprec(128):
            in_balls = {k: balls(v) for k, v in theta.items()}
            at = balls(z) + balls(corner)
            true = evaluated(cell, in_balls, balls(x), at, balls(c) - balls(corner), at)
        assert [what for what in found if outside(found[what], true[what])] == []

    holds()


def test_what_may_vanish_or_change_sign_is_known_by_nothing() -> None:
    open_, x = Inexact(np.array([0.1]), np.array([0.2]), UNIT), exact([1.0])
    xp: Any = x.__array_namespace__()
    with np.errstate(all="ignore"):
        assert np.isinf((x / open_).error).all()
        assert np.isinf(xp.log(open_).error).all()
        assert np.isinf(xp.sqrt(open_).error).all()
    assert (open_.gate().value, open_.gate().error) == (0.5, 0.5)
    still = exact([0.0, 1.0, -1.0]).gate()
    assert still.value.tolist() == [0.0, 1.0, 0.0]
    assert not still.error.any()


@pytest.mark.parametrize("function", ["tanh", "exp", "log", "sqrt"])
def test_a_function_moves_by_its_steepest_slope_and_not_much_more(function: str) -> None:
    """Against both ends of the argument's interval; on [1, 2] no slope changes by more than e between them."""
    x, e = np.linspace(1.0, 2.0, 9), 2.0**-4
    found = getattr(exact(x).__array_namespace__(), function)(exact(x, e))
    ends: list[Array] = [getattr(np, function)(x + sign * e) for sign in (1, -1)]
    far = np.maximum(*(np.abs(end - found.value) for end in ends))
    assert np.all(far <= found.error)
    assert np.all(found.error <= np.e * far)


def test_numbers_and_plain_arrays_are_exact() -> None:
    x = exact([[2.0, 3.0]], 0.5)
    for found in (np.array([[4.0, 4.0]]) * x, 4 * x, x * 4.0):
        assert found.value.tolist() == [[8.0, 12.0]]
        assert np.all(found.error - 2.0 <= 4 * UNIT * 12.0)
    assert (np.eye(1) @ x).shape == (1, 2)
    assert (1 - x).value.tolist() == [[-1.0, -2.0]]
    assert (6 / x).value.tolist() == [[3.0, 2.0]]
