"""Every cell: its methods under every framework and in balls, its certificate, and what it draws."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flint import arb, ctx

from deqverify.cells import Cell, Contraction, LinearCell, Monotone, cells
from deqverify.cells.arithmetic import gate, relu, root
from deqverify.cells.base import CellWithJacobian
from deqverify.cells.conv import convolve
from deqverify.dtypes import round_to
from deqverify.oracle.krawczyk import dense, unit_pulls
from tests.cell_examples import (
    CELLS,
    NARROW,
    evaluated,
    mid,
    pairs,
    point,
    radii,
    sample,
    to_balls,
)

every_cell = pytest.mark.parametrize("name", list(CELLS))
FORGIVEN = 6
"""What float64 may do: a sum of up to 2⁶ terms in any order, fused or not, is exact for inputs each moved by at most 2⁶
units; so inputs are balls of that radius. A function good to 2⁶ units in the last place, and a sum of its values, err
no more than balls with six bits fewer do in each operation."""


def frameworks() -> list[Any]:
    return [pytest.param(name, id=name) for name in ("numpy", "torch", "jax")]


def native(framework: str, dtype: str = "float64") -> Callable[[Any], Any]:
    """What turns a NumPy array into one of ``framework``; skips where that is not installed."""
    if framework == "torch":
        return lambda array: torch.tensor(array, dtype=getattr(torch, dtype))
    if framework == "jax":
        jax = pytest.importorskip("jax")
        jax.config.update("jax_enable_x64", True)
        return lambda array: jax.numpy.asarray(array, dtype=dtype)
    return lambda array: np.asarray(array, dtype=dtype)


def differentiated(cell: Cell, at: Any) -> dict[str, Any]:
    """What :func:`evaluated` gives, its derivatives PyTorch's own."""
    names = list(at.theta)

    def f(*values: Any) -> Any:
        return cell.step(dict(zip(names, values[:-2], strict=True)), values[-2])(values[-1])

    values, tangent = (*at.theta.values(), at.x, at.z), (*at.tangent.theta.values(), at.tangent.x, at.tangent.z)
    step, pull = torch.func.vjp(f, *values)
    parts = dict(zip([*names, "x", "z"], pull(at.cotangent), strict=True))
    return {"step": step, "push": torch.func.jvp(f, values, tangent)[1], **{f"pull {k}": v for k, v in parts.items()}}


@every_cell
def test_float64_stays_in_the_balls_and_so_do_automatic_derivatives(name: str) -> None:
    stays_in_the_balls(CELLS[name], sample(name))


@pytest.mark.parametrize("power", [0.5, 1.5])
def test_so_it_does_for_other_powers_of_the_lattice(power: float) -> None:
    stays_in_the_balls(dataclasses.replace(CELLS["lattice"], power=power), sample("lattice"))  # type: ignore[type-var]


def stays_in_the_balls(cell: Cell, examples: Any) -> None:
    narrow = 0
    for noise, drawn in enumerate(examples):
        at = point(cell, drawn, noise)
        with ctx.workprec(53 - FORGIVEN):
            balls = evaluated(cell, at.mapped(lambda v: to_balls(v, 2.0 ** (FORGIVEN - 53))))
        tensors = at.mapped(native("torch"))
        for found in (evaluated(cell, at), evaluated(cell, tensors), differentiated(cell, tensors)):
            assert set(found) == set(balls)
            for part, values in found.items():
                assert all(ball.contains(float(value)) for value, ball in pairs(values, balls[part])), part
        size = max(np.abs(mid(part)).max() for part in balls.values())
        # 2⁻⁴⁷ for rounding, times a condition number: where the argument of a ReLU is open it is not met.
        narrow += all(radii(part).max() <= 2.0**-30 * size for part in balls.values())
    assert narrow >= 0.8 * len(examples), "the balls must be narrow, or they say nothing"


@every_cell
def test_pull_is_the_transpose_of_push(name: str) -> None:
    cell = CELLS[name]
    for noise, drawn in enumerate(sample(name)):
        at = point(cell, drawn, noise)
        with ctx.workprec(200):
            balls = at.mapped(to_balls)
            found = evaluated(cell, balls)
            forth, tangent = found["push"] * balls.cotangent, balls.tangent
            back = [found["pull x"] * tangent.x, found["pull z"] * tangent.z]
            back += [found[f"pull {key}"] * along for key, along in tangent.theta.items()]
            entries = np.concatenate([np.asarray(part, dtype=object).ravel() for part in back])
            left, right = sum(forth.ravel(), arb(0)), sum(entries, arb(0))
            assert left.overlaps(right)
            # A slope next to zero, as 1 − tanh², is known to a part of one and not of itself.
            steep = [tangent.x, tangent.z, *tangent.theta.values()]
            unsaturated = np.abs(mid(balls.cotangent)).sum() * sum(np.abs(mid(part)).sum() for part in steep)
            sizes = np.abs(mid(forth)).sum() + np.abs(mid(entries)).sum() + unsaturated
            assert float((left - right).rad()) <= NARROW * sizes


@every_cell
@pytest.mark.parametrize("framework", frameworks())
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_dtype_is_kept(name: str, framework: str, dtype: str) -> None:
    convert, cell = native(framework, dtype), CELLS[name]
    for drawn in sample(name, 6, dtype):
        at = point(cell, drawn).mapped(convert)
        for part, value in evaluated(cell, at).items():
            assert str(value.dtype).endswith(dtype), part


@every_cell
def test_jax_gives_what_numpy_gives(name: str) -> None:
    convert = native("jax")
    import jax

    cell = CELLS[name]
    for drawn in sample(name, 3):  # each shape compiles anew, in a second
        at = point(cell, drawn)
        with ctx.workprec(53 - FORGIVEN):
            balls = evaluated(cell, at.mapped(lambda v: to_balls(v, 2.0 ** (FORGIVEN - 53))))
        found = jax.jit(lambda at: evaluated(cell, at))(at.mapped(convert))
        for part, values in found.items():
            assert all(ball.contains(float(value)) for value, ball in pairs(values, balls[part])), part


@every_cell
def test_a_batch_of_none_is_legal(name: str) -> None:
    theta, x = sample(name, 3)[0]
    for convert in (native("numpy"), native("torch"), to_balls):
        at = point(CELLS[name], (theta, x[:0])).mapped(convert)
        found = evaluated(CELLS[name], at)
        assert found["step"].shape == at.z.shape
        assert found["pull x"].shape == at.x.shape


@every_cell
def test_it_is_a_frozen_value(name: str) -> None:
    cell: Any = CELLS[name]
    assert isinstance(cell, Cell)
    assert cell.name == name
    assert cell == type(cell)()
    assert hash(cell) == hash(type(cell)())
    field = next((f.name for f in dataclasses.fields(cell)), "name")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cell, field, None)
    if name in cells():
        assert pickle.loads(pickle.dumps(cell)) == cell


def norm(balls: Any, kind: str) -> Any:
    size = [abs(ball) for ball in balls.ravel()]
    if kind == "max":
        largest = size[0]
        for ball in size[1:]:
            largest = largest.max(ball)
        return largest
    return sum(size, arb(0)) if kind == "1" else sum((ball * ball for ball in size), arb(0)).sqrt()


@every_cell
def test_a_contraction_contracts(name: str) -> None:
    cell, certified = CELLS[name], 0
    for noise, (theta, x) in enumerate(sample(name)):
        certificate = cell.certificate(theta)
        if not isinstance(certificate, Contraction):
            continue
        certified += 1
        assert certificate.rate < 1.0
        at = point(cell, (theta, x[:1]), noise)
        # Near and far, along every entry and along the direction that grows most where the cell is nearly linear.
        slopes = np.stack([cell.pull(at.theta, at.x, at.z, unit).z.ravel() for unit in units(at.z)])
        steepest = np.linalg.svd(slopes)[2][0].reshape(at.z.shape)
        for step in (at.cotangent, 1e-3 * np.sign(at.cotangent), 2.0**-20 * steepest, *units(at.z)):
            with ctx.workprec(200):
                z, w = to_balls(at.z), to_balls(at.z + step)
                f = cell.step({k: to_balls(v) for k, v in theta.items()}, to_balls(at.x))
                assert not norm(f(w) - f(z), certificate.norm) > certificate.rate * norm(w - z, certificate.norm)
    # Every one but the attention's, the lattice's where it is nonlinear, and monotone ones.
    assert certified >= {"attention": 0, "monotone": 0, "lattice": 1}.get(name, len(sample(name)))


def units(z: np.ndarray) -> np.ndarray:
    return np.eye(z.size).reshape(z.size, *z.shape)


def test_a_monotone_certificate_holds() -> None:
    cell = CELLS["monotone"]
    for noise, (theta, _) in enumerate(sample("monotone")):
        certificate = cell.certificate(theta)
        assert isinstance(certificate, Monotone)
        assert 0.0 < certificate.mu <= certificate.lipschitz
        with ctx.workprec(200):
            balls = {key: to_balls(value) for key, value in theta.items()}
            m = len(theta["b"])
            operator = np.eye(m, dtype=int) - cell.weight(balls)  # type: ignore[attr-defined]
            for v in (
                np.random.default_rng(noise).normal(size=m),
                np.linalg.svd(operator.astype(float))[2][0],
                *np.eye(m),
            ):
                d = to_balls(v)
                assert not (d * (operator @ d)).sum() < certificate.mu * (d * d).sum()
                assert not norm(operator @ d, "2") > certificate.lipschitz * norm(d, "2")


SHEAR, ROOT = (
    np.array([[0.5, 0.25], [0.0, 0.5]]),
    np.sqrt(0.265625),
)  # its singular values are ROOT ± ⅛, ROOT² = ¼ + 1/64
ONE = {"U": np.ones((2, 1)), "b": np.zeros(2)}
CERTIFICATES: list[tuple[str, dict[str, Any], Contraction | Monotone | None]] = [
    ("linear", {"A": SHEAR, "U": np.ones((2, 1))}, Contraction(ROOT + 0.125, "2")),
    ("linear", {"A": np.array([[0.5, 0.5], [0.0, 0.0]]), "U": np.ones((2, 1))}, Contraction(0.5, "1")),
    ("linear", {"A": np.array([[0.5, 0.0], [0.5, 0.0]]), "U": np.ones((2, 1))}, Contraction(0.5, "max")),
    ("linear", {"A": np.array([[0.5, 0.5], [0.5, -0.5]]), "U": np.ones((2, 1))}, Contraction(np.sqrt(0.5), "2")),
    ("linear", {"A": np.array([[0.5]]), "U": np.ones((1, 1))}, Contraction(0.5, "max")),
    ("linear", {"A": 2.0 * SHEAR, "U": np.ones((2, 1))}, None),
    ("tanh", {"W": SHEAR, **ONE}, Contraction(ROOT + 0.125, "2")),
    ("relu", {"W": SHEAR, **ONE}, Contraction(ROOT + 0.125, "2")),
    ("relu", {"W": np.eye(2), **ONE}, None),
    ("relu", {"W": np.eye(1), "U": np.ones((1, 1)), "b": np.zeros(1)}, None),
    ("sigmoid", {"W": 4.0 * SHEAR, **ONE}, Contraction(ROOT + 0.125, "2")),
    ("sigmoid", {"W": 4.0 * np.eye(2), **ONE}, None),
    ("relu-gao", {"A": SHEAR, "gamma": np.asarray(1.0), **ONE}, Contraction((ROOT + 0.125) / np.sqrt(2), "2")),
    ("relu-gao", {"A": np.eye(2), "gamma": np.asarray(1.5), **ONE}, None),
    ("monotone", {"P": np.eye(2), "Q": SHEAR, "mu": np.asarray(0.25), **ONE}, Monotone(0.25, np.hypot(1.25, 0.25))),
    ("monotone", {"P": np.eye(2), "Q": SHEAR, "mu": np.asarray(0.0), **ONE}, None),
    ("graph", {"adjacency": SHEAR, "W": np.full((1, 1), -1.0), **ONE}, Contraction(ROOT + 0.125, "2")),
    ("graph", {"adjacency": np.eye(2), "W": np.eye(1), **ONE}, None),
    ("conv", {"K": SHEAR.reshape(1, 1, 2, 2) / 2, "gain": np.full(1, -1.5)}, Contraction(0.9375, "2")),
    ("conv", {"K": SHEAR.reshape(2, 2, 1, 1), "gain": np.array([1.0, -1.5])}, Contraction(1.5 * (ROOT + 0.125), "2")),
    ("conv", {"K": np.ones((1, 1, 1, 1)), "gain": np.ones(1)}, None),
    ("lattice", {"V": np.array([1.0, -2.0]), "beta": np.asarray(0.0), "dt": np.asarray(0.25)}, Contraction(0.5, "2")),
    ("lattice", {"V": np.zeros(2), "beta": np.asarray(1.0), "dt": np.asarray(0.25)}, None),
    ("lattice", {"V": np.zeros(2), "beta": np.asarray(0.0), "dt": np.asarray(1.0)}, None),
    ("attention", {"Q": np.zeros((1, 1)), "K": np.zeros((1, 1)), "V": np.zeros((1, 1))}, None),
    ("hopfield", {"W": SHEAR, "damping": np.asarray(0.5)}, Contraction(0.5 + (ROOT + 0.125) / 2, "2")),
    ("hopfield", {"W": SHEAR, "damping": np.asarray(0.0)}, None),
]


@pytest.mark.parametrize(("name", "theta", "expected"), CERTIFICATES)
def test_certificates_worked_out_on_paper(name: str, theta: dict[str, Any], expected: Any) -> None:
    found: Any = CELLS[name].certificate(theta)
    if expected is None:
        assert found is None
        return
    # Raised by ten times the size for a singular value, and a few products.
    for got, value in zip(dataclasses.astuple(found), dataclasses.astuple(expected), strict=True):
        if isinstance(value, str):
            assert got == value
        else:
            assert -2 * 2.0**-53 <= got / value - 1.0 <= 400 * 2.0**-53


@every_cell
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("large", [False, True])
def test_a_certificate_survives_rounding(name: str, dtype: str, large: bool) -> None:
    cell = CELLS[name]
    for theta, _ in sample(name, 6 if large else 30, dtype, 1, large):
        drawn = cell.certificate(theta)
        kept = cell.certificate({key: round_to(value, dtype) for key, value in theta.items()})
        assert type(kept) is type(drawn)
        if large and drawn is not None:
            # The damping of ⅛ takes the page's cell from .99 to .99875.
            assert drawn.rate <= 1 - (0.01 / 8 if name == "hopfield" else 0.01) * (1 - 2.0**-30)


def assert_the_same(found: Any, expected: Any, size: float) -> None:
    """That balls overlap, and are narrow beside ``size``, or that would say nothing."""
    for one, other in pairs(found, expected):
        assert one.overlaps(other)
        assert float((one - other).rad()) <= NARROW * size


@pytest.mark.parametrize("cell", [c for c in CELLS.values() if isinstance(c, CellWithJacobian)], ids=lambda c: c.name)
def test_a_jacobian_is_made_of_the_unit_cotangents_pulled_back(cell: CellWithJacobian) -> None:
    for noise, drawn in enumerate(sample(cell.name)):
        at = point(cell, drawn, noise)
        with ctx.workprec(200):
            theta, x, z, _, _ = at.mapped(to_balls)
            found, expected = cell.jacobian(theta, x, z), dense(unit_pulls(cell, theta, x, z), len(at.z))
        size = max(1.0, np.abs(at.z).max()) * max(np.abs(mid(value)).max() for value in theta.values()) * at.z.size
        assert_the_same(found, expected, max(1.0, size) ** 4)  # four factors of z and θ in a product


@every_cell
def test_a_linear_cell_is_its_matrix_and_its_offset(name: str) -> None:
    cell = CELLS[name]
    assert isinstance(cell, LinearCell) == (name in ("linear", "linear-softmax"))
    if not isinstance(cell, LinearCell):
        return
    for noise, drawn in enumerate(sample(name)):
        at = point(cell, drawn, noise)
        with ctx.workprec(200):
            theta, x, z, _, _ = at.mapped(to_balls)
            found, expected = cell.step(theta, x)(z), z @ cell.matrix(theta).T + cell.offset(theta, x)
        size = max(1.0, np.abs(at.x).max()) * at.z.size * 10
        assert_the_same(found, expected, size)


def test_an_open_gate_holds_both_slopes() -> None:
    balls = np.array([arb(0, 1), arb(1), arb(-1), arb(0), arb(1, 0.5), arb(-2, 1)], dtype=object)
    slopes, values = gate(balls), relu(balls)
    assert [ball.contains(0) for ball in slopes] == [True, False, True, True, False, True]
    assert [ball.contains(1) for ball in slopes] == [True, True, False, False, True, False]
    assert values[0].contains(0)
    assert values[0].contains(1)
    assert slopes[0].contains(0.5)


@pytest.mark.parametrize("name", ["relu", "relu-gao", "monotone"])
def test_a_box_over_a_kink_holds_the_pull_from_both_sides(name: str) -> None:
    cell, decided = CELLS[name], 0
    for noise, (theta, x) in enumerate(sample(name)):
        at = point(cell, (theta, x[:1]), noise)
        weight = cell.weight(theta)  # type: ignore[attr-defined]
        offset = x[:1] @ theta["U"].T + theta["b"]
        if not weight[0].any() or np.abs(offset[0, 0]) > 10:
            continue
        # Onto the kink of the first argument, and a little to both sides of it.
        z = at.z - (at.z @ weight[0] + offset[0, 0])[:, None] * weight[0] / (weight[0] @ weight[0])
        side = 2.0**-20 * np.sign(weight[0])
        box = to_balls(z) + np.array([arb(0, 2.0**-19)] * z.size, dtype=object).reshape(z.shape)
        with ctx.workprec(53 - FORGIVEN):
            around = at.mapped(lambda v: to_balls(v, 2.0 ** (FORGIVEN - 53)))
            found = cell.pull(around.theta, around.x, box, around.cotangent)
        sides = [cell.pull(theta, x[:1], z + sign * side, at.cotangent) for sign in (1, -1)]
        for one in sides:
            for part in ("x", "z"):
                inside = pairs(getattr(one, part), getattr(found, part))
                assert all(ball.contains(float(value)) for value, ball in inside)
        decided += bool(np.any(sides[0].x != sides[1].x))
    assert decided >= 10


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (2, 3), (5, 4)])
def test_a_convolution_is_the_sum_that_its_docstring_says(k: int, shape: tuple[int, int]) -> None:
    """Integers, so that every sum is exact."""
    rng, (h, w) = np.random.default_rng(k), shape
    K, z = rng.integers(-4, 5, size=(2, 2, k, k)).astype(float), rng.integers(-4, 5, size=(3, 2, h, w)).astype(float)
    expected = np.zeros_like(z)
    for n, o, c, y, x, i, j in np.ndindex(3, 2, 2, h, w, k, k):
        expected[n, o, y, x] += K[o, c, i, j] * z[n, c, (y + i - k // 2) % h, (x + j - k // 2) % w]
    assert np.array_equal(convolve(K, z), expected)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
def test_the_lattice_keeps_its_norm_but_for_the_residual(power: float) -> None:
    cell = dataclasses.replace(CELLS["lattice"], power=power)  # type: ignore[type-var]
    for noise, drawn in enumerate(sample("lattice")):
        at = point(cell, drawn, noise)
        with ctx.workprec(200):
            theta, psi, z, _, _ = at.mapped(to_balls)
            r = cell.step(theta, psi)(z) - z
            change, owed = (z * z).sum() - (psi * psi).sum(), -((psi + z) * r).sum()
            assert change.overlaps(owed)
            assert float((change - owed).rad()) <= NARROW * (1.0 + np.abs(mid((psi + z) * r)).sum())


def test_picards_iteration_on_the_lattice_contracts_from_psi_and_from_zero() -> None:
    cell = CELLS["lattice"]
    for theta, psi in sample("lattice"):
        f = cell.step(theta, psi)
        for z in (psi, 0.0 * psi):
            last, steps = f(z), []
            for _ in range(12):
                last, before = f(last), last
                steps.append(float(np.linalg.norm(last - before)))
            # Each step is shorter than the one before it, but for rounding of numbers of the size of ψ, 2⁶ times.
            allowed = 2.0 ** (FORGIVEN - 53) * np.linalg.norm(psi) * (1 + np.abs(theta["V"]).max())
            assert all(after <= before + allowed for before, after in itertools.pairwise(steps))


def test_a_root_of_a_size_is_a_ball_among_balls() -> None:
    with ctx.workprec(200):
        ball = root(2, to_balls([1.0]))
        assert (ball * ball).contains(2)
        assert float(ball.rad()) < NARROW
    assert root(4, np.ones(1)) == 2.0
