"""Layers of JAX: as short to write as one of PyTorch, exact, compiled once a shape, and 64-bit mode is left alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deqverify import Accuracy, Claims, clock
from deqverify.cells import cells
from deqverify.clock import Hang, alarm
from deqverify.frameworks import framework
from deqverify.implementations import loading
from deqverify.implementations.loading import TargetError, load
from deqverify.implementations.protocol import Layer, Solution, Status
from deqverify.implementations.subject import Subject
from deqverify.reference import reference
from deqverify.registry import laws
from deqverify.trial import Effort
from tests.tokens import CELL as TOKENS
from tests.tokens import instance

jax = pytest.importorskip("jax")
jnp = jax.numpy

from deqverify.frameworks.jax_bridge import named_leaves  # noqa: E402
from deqverify.implementations.jax_base import JaxFixedPoint, JaxLayer  # noqa: E402

JAX = framework("jax")
CLAIMS = Claims(Accuracy(1e-10), Accuracy(1e-10), compiles=True)


@pytest.fixture(autouse=True)
def flag_untouched() -> Any:
    """No test, and nothing that a test calls, may change what JAX is for everybody else."""
    before = jax.config.jax_enable_x64
    yield
    assert jax.config.jax_enable_x64 == before


class Root(JaxLayer):
    """What a user writes: Picard's iteration under ``custom_root``, its adjoint dense."""

    name, claims = "root", CLAIMS

    def solve(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        step = cell.step(theta, x)

        def picard(g: Any, z: Any) -> Any:
            return jax.lax.fori_loop(0, 300, lambda _, z: z + g(z), z)

        def dense(g: Any, y: Any) -> Any:
            return jnp.linalg.solve(jax.jacobian(g)(y).reshape(y.size, y.size), y.ravel()).reshape(y.shape)

        z = jax.lax.custom_root(lambda z: step(z) - z, z0, picard, dense)
        return z, jnp.abs(step(z) - z).reshape(z.shape[0], -1).max(axis=1) < 1e-12


def repeated(step: Any, z0: Any) -> Any:
    """An unrolled iteration, differentiable any number of times and both ways."""
    return jax.lax.fori_loop(0, 300, lambda _, z: step(z), z0)


def python_loop(step: Any, z0: Any) -> Any:
    for _ in range(300):
        z0, before = step(z0), z0
        if float(jax.lax.stop_gradient(jnp.abs(z0 - before).max())) < 1e-14:
            return z0, True
    return z0, False


LAYERS = {
    "root": Root(),
    "repeated": JaxFixedPoint(repeated, CLAIMS),
    "python": JaxFixedPoint(python_loop, Claims(Accuracy(1e-10), Accuracy(1e-10))),
}


def problem(cell: str, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """A cell that contracts at 0.8, θ, x and a cotangent."""
    generator = np.random.default_rng(seed)
    if cell == "tokens":
        theta, x = instance(seed)
        return TOKENS, theta, x, generator.normal(size=(3, 2, 3))
    if cell == "tanh":
        W = generator.normal(size=(3, 3))
        W *= 0.8 / np.abs(W).sum(axis=1).max()
        theta = {"W": W, "U": generator.normal(size=(3, 2)), "b": generator.normal(size=3)}
        return cells()["tanh"], theta, generator.normal(size=(2, 2)), generator.normal(size=(2, 3))
    theta = {"A": generator.normal(size=(3, 3)), "gamma": np.asarray(0.8)}
    return cells()[cell], theta, generator.normal(size=(2, 3)), generator.normal(size=(2, 3))


def natively(theta: Any, *arrays: Any, dtype: str = "float64") -> tuple[Any, ...]:
    return {k: JAX.native(v, dtype, "cpu") for k, v in theta.items()}, *(JAX.native(a, dtype, "cpu") for a in arrays)


@pytest.mark.parametrize("cell", ["tanh", "linear-softmax", "tokens"])
@pytest.mark.parametrize("which", list(LAYERS))
def test_equilibria_and_gradients_are_those_of_the_dense_reference(which: str, cell: str) -> None:
    f, theta, x, c = problem(cell)
    exact, exact_pull = reference("newton", "numpy").vjp(f, theta, x)
    wanted = exact_pull(c)
    native, x, c = natively(theta, x, c)
    solution, pull = LAYERS[which].vjp(f, native, x)
    found = pull(c)
    assert solution.status is (Status.NOT_REPORTED if which == "repeated" else Status.CONVERGED)
    assert {str(a.dtype) for a in (solution.z, found.x, *found.theta.values())} == {"float64"}
    # 0.8^300 is below rounding: what remains is 1/(1 − 0.8)² times that, and sums of tens.
    np.testing.assert_allclose(JAX.to_numpy(solution.z), exact.z, rtol=0, atol=1e-12)
    np.testing.assert_allclose(JAX.to_numpy(found.x), wanted.x, rtol=0, atol=1e-10)
    assert set(found.theta) == set(theta)
    for name in theta:
        np.testing.assert_allclose(JAX.to_numpy(found.theta[name]), wanted.theta[name], rtol=0, atol=1e-10)
    again = pull(c)  # a pull may be called again
    np.testing.assert_array_equal(JAX.to_numpy(again.x), JAX.to_numpy(found.x))


def test_float32_stays_float32_in_the_mode_that_the_user_has_set() -> None:
    seen: list[str] = []

    def looking(step: Any, z0: Any) -> Any:
        seen.append(str(jnp.zeros(1).dtype))
        return repeated(step, z0)

    f, theta, x, c = problem("tanh")
    for dtype in ("float32", "float64"):
        native, x_, c_ = natively(theta, x, c, dtype=dtype)
        solution, pull = JaxFixedPoint(looking, CLAIMS).vjp(f, native, x_)
        assert {str(a.dtype) for a in (solution.z, pull(c_).x)} == {dtype}
    assert set(seen[:1]) == {"float32"}
    assert set(seen[1:]) == {"float64"}


def test_one_shape_is_compiled_once_and_so_are_copies() -> None:
    traced: list[tuple[int, ...]] = []

    def counting(step: Any, z0: Any) -> Any:
        traced.append(z0.shape)
        return repeated(step, z0)

    layer = JaxFixedPoint(counting, CLAIMS)
    for seed in range(4):
        f, theta, x, c = problem("tanh", seed)
        native, x, c = natively(theta, x, c)
        for each in (layer, copy.deepcopy(layer), JaxFixedPoint(counting, CLAIMS, "another name")):
            _, pull = each.vjp(f, native, x)
            pull(c)
    once = len(traced)
    assert set(traced) == {(2, 3)}
    layer.vjp(f, native, x[:1])
    assert set(traced) == {(2, 3), (1, 3)}
    assert once == len(traced) - once  # as often for one shape as for the other: what jax.vjp itself traces
    with_others = JaxFixedPoint(counting, Claims(Accuracy(1e-3), Accuracy(1e-3), compiles=True))
    with_others.vjp(f, native, x)  # a solver may read its tolerance in its claims
    assert len(traced) == 3 * once


class Scaled(JaxLayer):
    claims = CLAIMS

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def fixed_point(self, step: Any, z0: Any) -> Any:
        factor = self.settings["factor"] if isinstance(self.settings, dict) else self.settings
        return factor * repeated(step, z0)


@pytest.mark.parametrize(("first", "second"), [(1.0, 2.0), ({"factor": 1.0}, {"factor": 2.0})])
def test_an_attribute_that_was_set_anew_is_seen(first: Any, second: Any) -> None:
    f, theta, x, _ = problem("tanh")
    native, x = natively(theta, x)
    layer = Scaled(first)
    z = JAX.to_numpy(layer.vjp(f, native, x)[0].z)
    layer.settings = second
    np.testing.assert_array_equal(JAX.to_numpy(layer.vjp(f, native, x)[0].z), 2.0 * z)
    np.testing.assert_array_equal(JAX.to_numpy(Scaled(first).vjp(f, native, x)[0].z), z)


def spoken(answer: Any, compiles: bool = True) -> Solution:
    f, theta, x, _ = problem("tanh")
    native, x = natively(theta, x)
    layer = JaxFixedPoint(lambda step, z0: answer(z0), Claims(Accuracy(1e-6), Accuracy(1e-6), compiles=compiles))
    return layer.vjp(f, native, x)[0]


@pytest.mark.parametrize("compiles", [True, False])
def test_what_is_reported_inside_comes_out(compiles: bool) -> None:
    capped, diverged, good = Status.CAPPED, Status.DIVERGED, Status.CONVERGED
    halves = jnp.array([True, False])
    assert spoken(lambda z: z, compiles).status is Status.NOT_REPORTED
    assert spoken(lambda z: (z, z.sum() == 0), compiles).status is good
    assert spoken(lambda z: (z, z.sum() > 0), compiles).status is capped
    assert spoken(lambda z: (z + jnp.nan, z.sum() > 0), compiles).status is diverged
    assert spoken(lambda z: (z + jnp.nan, True), compiles).status is good  # said, and wrong: for laws to find
    several = spoken(lambda z: (z.at[1].add(jnp.inf), halves), compiles)
    assert (several.status, several.statuses) == (diverged, [good, diverged])
    found = spoken(
        lambda z: Solution(z, capped, 3 + 0 * z.sum().astype(int), z.sum(), jnp.arange(3.0), statuses=[good, capped]),
        compiles,
    )
    assert (found.status, found.statuses) == (capped, [good, capped])
    assert (found.iterations, found.residual, found.trace) == (3, 0.0, [0.0, 1.0, 2.0])


def test_a_solver_that_looks_at_values_is_told_not_to_claim_that_it_compiles() -> None:
    f, theta, x, _ = problem("tanh")
    native, x = natively(theta, x)
    with pytest.raises(TypeError, match=r"python_loop looks at values in Python: claim compiles=False"):
        JaxFixedPoint(python_loop, CLAIMS).vjp(f, native, x)

    def looking(step: Any, z0: Any) -> Any:
        return z0 if float(step(z0).sum()) > 0 else step(z0)

    with pytest.raises(
        TypeError, match=r"looks at values in Python: inside jax\.vjp it can look at jax\.lax\.stop_grad"
    ):
        JaxFixedPoint(looking, Claims(Accuracy(1e-6), Accuracy(1e-6))).vjp(f, native, x)


def test_without_a_gradient_the_solver_is_called_plainly() -> None:
    """As a library does that stops elsewhere once it is differentiated: that is a violation of no-gradient."""

    @jax.custom_vjp
    def other_when_differentiated(z: Any) -> Any:
        return z

    other_when_differentiated.defvjp(lambda z: (1.5 * z, None), lambda _, c: (c,))

    def solve(step: Any, z0: Any) -> Any:
        return other_when_differentiated(repeated(step, z0))

    f, theta, x, c = problem("tanh")
    native, x, c = natively(theta, x, c)
    layer = JaxFixedPoint(solve, CLAIMS)
    inside, _ = layer.vjp(f, native, x)
    with JAX.without_gradient["no vjp"]():
        plain, pull = layer.vjp(f, native, x)
    np.testing.assert_allclose(JAX.to_numpy(inside.z), 1.5 * JAX.to_numpy(plain.z), rtol=1e-15)
    with pytest.raises(RuntimeError, match=r"without jax\.vjp"):
        pull(c)
    trial = laws()["no-gradient"].trial(Subject(layer), Effort(3, 60.0, seed=0))
    assert trial.failure
    assert "in no vjp" in trial.failure.message
    forward = JaxFixedPoint(solve, Claims(Accuracy(1e-6), None, compiles=True))
    np.testing.assert_array_equal(JAX.to_numpy(forward.vjp(f, native, x)[0].z), JAX.to_numpy(plain.z))


@pytest.mark.parametrize("cell", ["linear-softmax", "tanh"])
def test_second_derivatives_and_derivatives_along_tangents(cell: str) -> None:
    f, theta, x, c = problem(cell)
    generator = np.random.default_rng(3)
    d = {k: generator.normal(size=v.shape) for k, v in theta.items()}, generator.normal(size=x.shape)
    native, jx, jc = natively(theta, x, c)
    along = natively(*d)
    layer = LAYERS["repeated"]
    second = layer.second_order(f, native, jx, jc, along)
    _, dz = layer.forward_mode(f, native, jx, along)
    newton = reference("newton", "numpy")

    def gradient(t: float) -> Any:
        moved = {k: theta[k] + t * d[0][k] for k in theta}
        solution, pull = newton.vjp(f, moved, x + t * d[1])
        return solution.z, pull(c)

    h = 1e-5  # central differences: h² from the third derivative and 1e-13/h from rounding, times at most 1e5
    (z_up, up), (z_down, down) = gradient(h), gradient(-h)
    np.testing.assert_allclose(JAX.to_numpy(dz), (z_up - z_down) / (2 * h), rtol=0, atol=1e-4)
    np.testing.assert_allclose(JAX.to_numpy(second.x), (up.x - down.x) / (2 * h), rtol=0, atol=1e-4)
    for k in theta:
        difference = (up.theta[k] - down.theta[k]) / (2 * h)
        assert np.abs(difference).max() > 1e-2  # there is something to get wrong
        np.testing.assert_allclose(JAX.to_numpy(second.theta[k]), difference, rtol=0, atol=1e-4)


def test_the_gradient_that_reaches_the_start_is_shown() -> None:
    f, theta, x, c = problem("tanh")
    native, x, jc, z0 = natively(theta, x, c, np.zeros((2, 3)))
    assert not JAX.to_numpy(LAYERS["root"].start_gradient(f, native, x, z0, jc)).any()
    leaking = JaxFixedPoint(lambda step, z0: repeated(step, z0) + 0.5 * z0, CLAIMS)
    # The iteration's own part is 0.8^300.
    np.testing.assert_allclose(JAX.to_numpy(leaking.start_gradient(f, native, x, z0, jc)), 0.5 * c, rtol=1e-15)


def test_parameters_may_be_a_tree() -> None:
    class Nested:
        """The tanh cell with its parameters in two floors."""

        def __hash__(self) -> int:
            return hash(Nested)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Nested)

        def state(self, theta: Any, inputs: Any) -> Any:
            return cells()["tanh"].state(theta["inner"], inputs)

        def step(self, theta: Any, x: Any) -> Any:
            return cells()["tanh"].step(theta["inner"] | {"b": theta["bias"][0]}, x)

    f, theta, x, c = problem("tanh")
    native, x, c = natively(theta, x, c)
    _, flat = LAYERS["repeated"].vjp(f, native, x)
    tree = {"inner": {"W": native["W"], "U": native["U"]}, "bias": [native["b"]]}
    _, pull = LAYERS["repeated"].vjp(Nested(), tree, x)
    found, wanted = pull(c).theta, flat(c).theta
    assert list(found) == ["bias.0", "inner.U", "inner.W"]
    for name, flat_name in {"bias.0": "b", "inner.U": "U", "inner.W": "W"}.items():
        np.testing.assert_array_equal(found[name], wanted[flat_name])
    assert named_leaves({"a": 1, "b": 2}) == {"a": 1, "b": 2}


@pytest.mark.parametrize("compiles", [True, False])
def test_compiling_does_not_count_against_an_example(compiles: bool) -> None:
    """The alarm is put off by what JAX itself says that it took."""
    f, theta, x, c = problem("tanh")
    rows = 30 + compiles  # a shape that nothing else here has
    native, x, c = natively(theta, np.resize(x, (rows, 2)), np.resize(c, (rows, 3)))
    claims, took = Claims(Accuracy(1e-10), Accuracy(1e-10), compiles=compiles), [0.0]

    def listen(event: str, seconds: float, **more: Any) -> None:
        took[0] += seconds if event.endswith("backend_compile_duration") else 0.0

    jax.monitoring.register_event_duration_secs_listener(listen)
    layer = JaxFixedPoint(lambda step, z0: step(step(z0)), claims)
    with alarm(1000.0):
        assert clock._running
        due = clock._running.deadline
        layer.vjp(f, native, x)[1](c)
        put_off, compiling = clock._running.deadline - due, took[0]
        layer.vjp(f, native, x)[1](c)
        again, least = clock._running.deadline - due - put_off, took[0] - compiling
    jax.monitoring.unregister_event_duration_listener(listen)
    assert put_off >= compiling > 0.0
    # A second call looks up what was compiled; where nothing is, an operation of a new closure may be compiled again.
    assert again >= least
    assert least == 0.0 or not compiles
    assert again < put_off


def test_a_loop_in_python_is_still_ended() -> None:
    def endless(step: Any, z0: Any) -> Any:
        while True:
            z0 = step(z0)

    f, theta, x, _ = problem("tanh")
    native, x = natively(theta, x)
    with pytest.raises(Hang), alarm(0.5):
        JaxFixedPoint(endless, Claims(Accuracy(1e-6), None)).vjp(f, native, x)


MINE = """
import jax

def solve(step, z0):
    return jax.lax.fori_loop(0, 400, lambda _, z: step(z), z0)
"""


def test_a_function_of_jax_is_told_by_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_in_jax.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    loading.forget()
    layer = load("mine_in_jax:solve[framework=jax,rtol=1e-8,status=no]")
    assert isinstance(layer, JaxFixedPoint)
    assert layer.claims == Claims(Accuracy(1e-8), Accuracy(1e-8), compiles=True, status=False)
    with pytest.raises(TargetError, match=r"framework: takes torch or jax, .* got 'numpy'"):
        load("mine_in_jax:solve[framework=numpy]")


def test_laws_judge_it() -> None:
    """Twenty steps are a millionth at γ = ½ and too few beyond, of which nothing is said; else it is right."""
    layer = JaxFixedPoint(lambda step, z0: jax.lax.fori_loop(0, 20, lambda _, z: step(z), z0), CLAIMS)
    assert isinstance(layer, Layer)
    subject = Subject(layer, "float64")
    assert laws()["status-forward"].trial(subject, Effort(5, 60.0, seed=0)).failure
    for law in ("inputs-kept", "dtype-and-device", "repeated-pull"):
        trial = laws()[law].trial(subject, Effort(3, 60.0, seed=0))
        assert (trial.failure, trial.error, trial.crashed) == (None, None, 0)


@pytest.mark.parametrize("law", ["existence", "euler", "second-order", "adjoint-identity", "empty-batch"])
def test_no_law_rejects_the_direct_reference(law: str) -> None:
    trial = laws()[law].trial(Subject(reference("jax")), Effort(4, 60.0, seed=0))
    assert (trial.failure, trial.error, trial.crashed) == (None, None, 0)
    assert trial.informative
