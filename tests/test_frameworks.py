"""The protocol of a framework, kept by all three: conversion, layouts, readout, modes, and what is global."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import array_api_compat
import numpy as np
import pytest

from deqverify import frameworks
from deqverify.cells import cells
from deqverify.claims import Claims
from deqverify.clock import alarm
from deqverify.errors.balls import BallErrors
from deqverify.frameworks import FRAMEWORKS, Framework, framework
from deqverify.frameworks.base import PROCESS_SETTINGS
from deqverify.implementations.loading import load
from deqverify.implementations.subject import Subject
from deqverify.implementations.torch_base import TorchFixedPoint
from deqverify.losses import CrossEntropy, HingeSquared, LogCosh, Logistic, Loss, Poisson, PseudoHuber, Squared
from deqverify.namespaces import array_namespace
from deqverify.reference.newton import NewtonLayer
from tests.tokens import CELL, instance

HERE = [name for name in FRAMEWORKS if importlib.util.find_spec(name)]
STATES = [(), (3,), (2, 3), (2, 1, 3), (2, 2, 1, 3)]
SHAPES = [(), (4,), (3, 2), (2, 3, 4), (2, 1, 3, 2)]


@pytest.fixture(params=HERE)
def bridge(request: pytest.FixtureRequest) -> Framework:
    return framework(request.param)


def numbered(shape: tuple[int, ...]) -> Any:
    return np.arange(1.0, 1.0 + np.prod(shape, dtype=int)).reshape(shape)


def test_all_three_are_known_and_another_one_is_refused_with_the_list() -> None:
    assert FRAMEWORKS == ("numpy", "torch", "jax")
    with pytest.raises(ValueError, match="'tensorflow' is not known; use one of numpy, torch, jax"):
        framework("tensorflow")


def test_importing_one_does_not_count_against_an_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_bridge.py").write_text(
        "import time\ntime.sleep(0.6)\n\nclass Slow:\n    pass\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(frameworks._BRIDGES, "slow", "slow_bridge:Slow")
    with alarm(0.2):
        made = framework.__wrapped__("slow")  # what is kept for others stays as it is
    assert type(made).__name__ == "Slow"


def test_a_namespace_is_the_librarys_whatever_was_asked_before(bridge: Framework) -> None:
    for dtype in ("float64", "float32"):
        array = bridge.native(numbered((2, 3)), dtype, "cpu")
        assert array_namespace(array) is array_api_compat.array_namespace(array)
    with pytest.raises(TypeError):
        array_namespace([1.0])


def test_the_protocol_is_kept(bridge: Framework) -> None:
    assert isinstance(bridge, Framework)
    assert framework(bridge.name) is bridge
    # What cannot be asked of its arrays is said, and only then.
    assert bool(bridge.because) == (not (bridge.mutable and bridge.layouts))


def test_no_bridge_is_imported_before_it_is_used() -> None:
    code = "import sys, deqverify.frameworks as f; f.framework('numpy'); print({'torch', 'jax'} & {*sys.modules})"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said == "set()\n"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_subject_is_forgiven_what_elementary_functions_of_its_framework_are_off_by(
    bridge: Framework, dtype: str
) -> None:
    layer = NewtonLayer(bridge.name)
    needed = max(Claims().function_error, bridge.function_error(dtype, "cpu"))
    assert Subject(layer, dtype).claims.function_error == needed >= 2.0
    layer.claims = replace(layer.claims, function_error=10.0)
    assert Subject(layer, dtype).claims.function_error == 10.0, "a claim of one's own that is wider is kept"


def test_the_rounding_of_a_cell_grows_with_what_its_functions_are_off_by() -> None:
    drawn = cells()["tanh"], {"W": np.array([[0.5]]), "U": np.eye(1), "b": np.zeros(1)}, np.ones((1, 1))
    two, eight = (
        BallErrors(*drawn, Claims(function_error=k), "float64", cotangent=np.ones((1, 1))) for k in (2.0, 8.0)
    )
    # A direct solve's part and the rounding of z itself stay.
    assert 1.5 * two.z_error.total < eight.z_error.total < 4 * two.z_error.total
    assert 1.5 * two.pulled()["W"][1].total < eight.pulled()["W"][1].total


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_there_and_back(bridge: Framework, dtype: str, shape: tuple[int, ...]) -> None:
    values = numbered(shape) + 2.0 ** (
        -40 if dtype == "float64" else -18
    )  # up to 25 and a part: 23 bits of float32's 24
    native = bridge.native(values, dtype, "cpu")
    assert bridge.kind(native) == (dtype, "cpu")
    assert tuple(native.shape) == shape
    other = bridge.like(values + 1.0, native)
    assert bridge.kind(other) == bridge.kind(native)
    np.testing.assert_array_equal(bridge.to_numpy(other), values + 1.0)
    back = bridge.to_numpy(native)
    assert back.dtype == np.float64
    np.testing.assert_array_equal(back, values)
    back[...] = 0.0  # a copy
    np.testing.assert_array_equal(bridge.to_numpy(native), values)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_layout_holds_the_same_entries(bridge: Framework, shape: tuple[int, ...]) -> None:
    native = bridge.native(numbered(shape), "float64", "cpu")
    for layout in bridge.layouts:
        found = bridge.laid_out(native, layout)
        expected = np.full(shape, 1.0) if layout == "broadcast" else numbered(shape)
        np.testing.assert_array_equal(bridge.to_numpy(found), expected, err_msg=layout)
        if not shape:
            assert found is native


def test_layouts_lie_in_memory_as_they_are_called() -> None:
    array = numbered((2, 3, 4))
    numpy, torch = framework("numpy"), framework("torch")
    laid = {layout: numpy.laid_out(array, layout) for layout in numpy.layouts}
    assert laid["transposed"].strides == (8, 16, 48)
    assert laid["strided"].strides == tuple(8 * s for s in (2 * 48, 2 * 8, 2))
    assert all(stride < 0 for stride in laid["reversed"].strides)
    assert laid["broadcast"].strides == (0, 0, 0)
    assert not laid["read-only"].flags.writeable
    assert laid["offset"].base is not None
    tensor = torch.native(array, "float64", "cpu")
    assert torch.laid_out(tensor, "transposed").stride() == (1, 2, 6)
    assert torch.laid_out(tensor, "strided").stride() == (2 * 48, 2 * 8, 2)
    assert torch.laid_out(tensor, "broadcast").stride() == (0, 0, 0)
    assert torch.laid_out(tensor, "offset").storage_offset() == 2


def test_an_unknown_layout_is_refused(bridge: Framework) -> None:
    with pytest.raises(ValueError, match=f"'diagonal' is not known; use one of {', '.join(bridge.layouts) or 'none'}"):
        bridge.laid_out(bridge.native(numbered((2, 2)), "float64", "cpu"), "diagonal")


def test_what_is_immutable_says_so_and_the_rest_is_written_into(bridge: Framework) -> None:
    native = bridge.native(numbered((2, 2)), "float64", "cpu")
    if not bridge.mutable:
        with pytest.raises(TypeError, match="immutable"):
            bridge.assign(native, np.zeros((2, 2)))
        return
    bridge.assign(native, np.full((2, 2), 7.0))
    np.testing.assert_array_equal(bridge.to_numpy(native), np.full((2, 2), 7.0))


LOSSES: list[Loss] = [
    Squared(), PseudoHuber(0.25), LogCosh(), Logistic(0.5), CrossEntropy(0.125), Poisson(0.5), HingeSquared(0.5),
]  # fmt: skip


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_the_readout_is_the_loss_and_its_gradient(bridge: Framework, loss: Loss, state: tuple[int, ...]) -> None:
    generator, (n, p) = np.random.default_rng(0), (3, 2)
    size = int(np.prod(state, dtype=int))
    z, B = generator.normal(size=(n, *state)), generator.normal(size=(p, size))
    Y = {"squared-hinge": 2.0 * np.eye(p, n) - 1.0}.get(loss.name, np.eye(p, n)[:, [0, 1, 1]])
    if isinstance(loss, HingeSquared):
        Y = np.where(generator.normal(size=(p, n)) > 0, 1.0, -1.0)
    value, dz, dB = bridge.readout(loss, *(bridge.native(a, "float64", "cpu") for a in (z, B, Y)))
    F = B @ z.reshape(n, -1).T
    dF = loss.gradient(F, Y)
    # Sums of a dozen terms of size at most some tens, each rounded a dozen times: below 1e-13 of that.
    assert value == pytest.approx(float(loss.value(F, Y)), rel=1e-12)
    assert tuple(dz.shape) == z.shape
    np.testing.assert_allclose(bridge.to_numpy(dz), (dF.T @ B).reshape(z.shape), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(bridge.to_numpy(dB), dF @ z.reshape(n, -1), rtol=1e-11, atol=1e-12)


def test_the_readout_of_no_data(bridge: Framework) -> None:
    z, B, Y = (bridge.native(np.ones(shape), "float64", "cpu") for shape in ((0, 2, 3), (4, 6), (4, 0)))
    value, dz, dB = bridge.readout(Squared(), z, B, Y)
    assert (value, tuple(dz.shape)) == (0.0, (0, 2, 3))
    np.testing.assert_array_equal(bridge.to_numpy(dB), np.zeros((4, 6)))


@pytest.mark.parametrize("name", [name for name in HERE if name != "numpy"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precisions_are_read_out_in_float32(name: str, dtype: str) -> None:
    bridge = framework(name)
    z, B, Y = (bridge.native(np.full(shape, 1.0 + 2.0**-7), dtype, "cpu") for shape in ((2, 3), (1, 3), (1, 2)))
    value, dz, dB = bridge.readout(Squared(), z, B, Y)
    assert {bridge.kind(dz), bridge.kind(dB)} == {(dtype, "cpu")}
    # Exact in float32: 3a² − a with a = 1 + 2⁻⁷ has 16 bits, in half precision 11 at the most.
    a = 1.0 + 2.0**-7
    assert value == pytest.approx(2 * (3 * a * a - a) ** 2, rel=2.0**-20)


def test_settings_are_put_back(bridge: Framework) -> None:
    assert set(PROCESS_SETTINGS) <= set(bridge.settings())
    before = bridge.settings()
    with np.errstate(over="raise" if before["numpy.geterr"]["over"] != "raise" else "ignore"):
        assert bridge.settings()["numpy.geterr"] != before["numpy.geterr"]
        bridge.restore(before)
        assert bridge.settings() == before
    assert bridge.random_state() == bridge.random_state()


def test_a_random_state_is_moved_on_and_put_back(bridge: Framework) -> None:
    before = bridge.random_state()
    with bridge.other_random_state():
        assert (bridge.random_state() != before) == (bridge.name != "jax")
        with bridge.other_random_state():
            pass
    assert bridge.random_state() == before


def test_every_draw_shows_in_the_global_state_of_numpy() -> None:
    bridge, before = framework("numpy"), np.random.get_state()
    try:
        np.random.seed(0)
        told = [bridge.random_state()]
        for _ in range(3):  # the second normal number is kept from the first draw: only has_gauss and gauss change
            np.random.standard_normal()
            told.append(bridge.random_state())
        assert len(set(told)) == 4
        np.random.seed(0)
        assert bridge.random_state() == told[0]
    finally:
        np.random.set_state(before)


def test_a_layer_of_pytorch_takes_states_of_another_shape_than_its_inputs() -> None:
    torch = framework("torch")
    theta, x = instance()
    native = {name: torch.native(value, "float64", "cpu") for name, value in theta.items()}

    def solve(step: Any, z0: Any) -> Any:
        assert tuple(z0.shape) == (3, 2, 3)
        for _ in range(150):  # 0.8^150 = 3e-15
            z0 = step(z0)
        return z0

    x = torch.native(x, "float64", "cpu")
    exact, pull = load("reference[newton]").vjp(CELL, native, x)
    found, unrolled = TorchFixedPoint(solve).vjp(CELL, native, x)
    cotangent = torch.native(numbered((3, 2, 3)), "float64", "cpu")
    # Both to 1e-14 in the maximum norm, times 1/(1 − 0.8) and cotangents of up to 18.
    np.testing.assert_allclose(torch.to_numpy(found.z), torch.to_numpy(exact.z), rtol=0, atol=1e-13)
    wanted, got = pull(cotangent), unrolled(cotangent)
    for name in theta:
        np.testing.assert_allclose(torch.to_numpy(got.theta[name]), torch.to_numpy(wanted.theta[name]), atol=1e-10)
    np.testing.assert_allclose(torch.to_numpy(got.x), torch.to_numpy(wanted.x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("options", ["ift", "ift,anderson", "ift,broyden", "ift,hook", "ift,rel,writer"])
def test_torchdeq_takes_states_of_any_shape(options: str) -> None:
    pytest.importorskip("torchdeq")
    torch = framework("torch")
    theta, x = instance()
    native = {name: torch.native(value, "float64", "cpu") for name, value in theta.items()}
    x = torch.native(x, "float64", "cpu")
    cotangent = torch.native(numbered((3, 2, 3)) / 18, "float64", "cpu")
    exact, exact_pull = load("reference[newton]").vjp(CELL, native, x)
    layer = load(f"torchdeq[{options}]").at_tolerance(1e-9)
    solution, pull = layer.traced().vjp(CELL, native, x)
    assert solution.statuses is not None
    assert len(solution.statuses) == 3
    assert solution.trace is not None
    assert solution.trace[-1] <= 1e-7
    # Residuals of 1e-9, relative to states of 2-norm at most √6: amplified by 5, and by slopes of products of both.
    np.testing.assert_allclose(torch.to_numpy(solution.z), torch.to_numpy(exact.z), rtol=0, atol=1e-7)
    found, wanted = pull(cotangent), exact_pull(cotangent)
    for name in theta:
        np.testing.assert_allclose(torch.to_numpy(found.theta[name]), torch.to_numpy(wanted.theta[name]), atol=1e-5)
