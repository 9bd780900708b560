"""Scripts that do without this suite: each cell's text is its step, each library's call is its adapter's, and what they
print where deqverify cannot be imported is the oracle's number and the library's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from deqverify import SoftmaxProblem, losses
from deqverify.cells import cells
from deqverify.cli import main
from deqverify.implementations.loading import load
from deqverify.implementations.subject import Subject
from deqverify.running.counterexamples import FOLDER, Counterexample, keep
from deqverify.running.replaying import code
from deqverify.running.standalone import NAMES, standalone
from tests.cell_examples import sample
from tests.test_libraries import TARGETS

SIMPLE = SoftmaxProblem([[0.0]], [[1.0]], [[1.0]], [[0.0]], 0.5, losses.Squared())
A = np.array([[0.0, 1.0], [0.5, 0.25]])
WIDER = SoftmaxProblem(A, [[1.0, 2.0]], [[1.0, -0.5], [3.0, 0.25]], [[0.1, 0.3]], 0.5, losses.Squared())
COTANGENT = np.array([[1.0, 0.5], [-0.25, 1.0]])


@pytest.mark.parametrize("name", cells())
@pytest.mark.parametrize("framework", NAMES)
def test_a_cells_text_is_its_step(name: str, framework: str) -> None:
    module = {"numpy": "numpy", "torch": "torch", "jax": "jax.numpy"}[framework]
    xp, cell = pytest.importorskip(module), cells()[name]
    text = "".join(f"    {line}\n" for line in cell.code.splitlines())
    made: Any = xp.asarray if framework != "torch" else lambda a: xp.tensor(np.asarray(a))
    unit = 2.0**-53 if framework != "jax" else 2.0**-24  # JAX computes in float32 unless it is told otherwise
    for theta, x in sample(name, 5):
        names: dict[str, Any] = {"xp": xp}
        exec(f"def f(z, x, {', '.join(theta)}):\n{text}", names)
        z = np.random.default_rng(0).standard_normal((len(x), *cell.state(theta, x.shape[1:])))
        if max(float(np.abs(each).max(initial=0.0)) for each in (x, *theta.values())) > 2.0**30:
            continue  # what cancels there would need a bound of its own
        found = np.asarray(names["f"](made(z), made(x), *map(made, theta.values())))
        expected = np.asarray(cell.step(theta, x)(z))
        # Sums of a few dozen products of numbers of size up to 2⁵ in another order, behind functions of slope 1.
        size = 1.0 + max(float(np.abs(each).max(initial=0.0)) for each in (expected, x, *theta.values())) ** 2
        assert np.abs(found - expected).max() <= 2**10 * unit * size


def run_in(text: str, target: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    before = sys.modules["jax"].config.jax_enable_x64 if "jax" in sys.modules else None
    try:
        exec(compile(text, target, "exec"), names)
    finally:
        if before is not None:
            sys.modules["jax"].config.update("jax_enable_x64", before)
    return names


@pytest.mark.parametrize(("library", "target"), TARGETS)
def test_a_librarys_call_is_that_of_its_adapter(library: str, target: str) -> None:
    pytest.importorskip("jax" if library == "jaxopt" else library)
    pytest.importorskip(library)
    deq = Subject(load(target), "float64")
    forward = deq.claims.backward is None
    asked = {"problem": WIDER} if forward else {"problem": WIDER, "cotangent": COTANGENT}
    text = standalone(
        Counterexample("enclosure" if forward else "adjoint-certificate", target, "float64", "cpu", asked)
    )
    assert "deqverify" not in text
    names, answer = run_in(text, target), deq.solve(WIDER)
    # The same call on the same numbers, f summed in another order: roundings, far below what any other tolerance or cap
    # would show.
    near = 1e-9
    z = names["z"].detach().numpy() if hasattr(names["z"], "detach") else np.asarray(names["z"])
    assert np.abs(z - answer.z).max() <= near * np.abs(answer.z).max()
    if forward:
        return
    pulled, order = deq.pull_status(answer, COTANGENT)[0], ("x", "A", "gamma")
    for block, found in zip(order, names["found"], strict=True):
        assert np.abs(np.asarray(found) - pulled[block]).max() <= near * (1.0 + np.abs(pulled[block]).max()), block


BLOCKED = (
    "import sys; sys.modules['deqverify'] = None; exec(compile(open(sys.argv[1]).read(), sys.argv[1], 'exec'), {})"
)


def run_alone(text: str, folder: Path) -> list[str]:
    """The lines that a script prints in a process in which deqverify cannot be imported."""
    (folder / "script.py").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, "script.py"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("law", "target", "arguments", "expected", "seen"),
    [
        ("gradient-x", "torchdeq", {"problem": SIMPLE, "direction": np.ones((1, 1))}, 8.0, 4.0),
        ("enclosure", "jaxopt", {"problem": SIMPLE}, 2.0, 2.0),
        ("enclosure", "scipy[iteration]", {"problem": SIMPLE}, 2.0, 2.0),
    ],
)
def test_a_script_says_what_is_expected_and_what_is_seen(
    law: str, target: str, arguments: dict[str, Any], expected: float, seen: float, tmp_path: Path
) -> None:
    pytest.importorskip(target.partition("[")[0])
    *_, first, last = run_alone(standalone(Counterexample(law, target, "float64", "cpu", arguments)), tmp_path)
    assert first.startswith("expected, ")
    assert last.startswith("seen: ")
    assert float(first.split()[-1]) == pytest.approx(expected, abs=2e-2)  # f_tol = 1e-3, amplified
    assert float(last.split()[-1]) == pytest.approx(seen, abs=2e-2)


def test_a_wrong_second_derivative_is_shown(tmp_path: Path) -> None:
    pytest.importorskip("torchopt")
    directions = {"A": np.zeros((1, 1)), "gamma": np.asarray(0.0), "x": np.ones((1, 1))}
    asked = {"problem": SIMPLE, "cotangent": np.ones((1, 1)), "first": directions, "second": directions}
    text = standalone(Counterexample("second-order", "torchopt[inv]", "float64", "cpu", asked))
    *_, first, last = run_alone(text, tmp_path)
    # z = x/(1 − γ): ∂²z/∂x∂γ = 1/(1 − γ)² = 4.
    assert "∂γ" in first or "gamma" in first
    assert float(first.split()[-1]) == pytest.approx(4.0, rel=1e-9)  # the oracle's accuracy is 1e-12
    assert abs(float(last.split()[-1]) - 4.0) > 1.0


USERS = """
import torch


def solve(step, z0):
    for _ in range(3):
        z0 = step(z0)
    return z0


def make(word):
    assert word == "twice"
    return lambda step, z0: solve(step, solve(step, z0))


def raises(step, z0):
    raise ValueError("never in my life")
"""


@pytest.mark.parametrize(("target", "seen"), [("theirs_alone:solve", "1.75"), ("theirs_alone:make[twice]", "1.96875")])
def test_a_function_or_factory_of_the_users_is_imported(
    target: str, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs_alone.py").write_text(USERS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "theirs_alone", raising=False)
    text = standalone(Counterexample("enclosure", target, "float64", "cpu", {"problem": SIMPLE}))
    *_, first, last = run_alone(text, tmp_path)
    assert (first.split()[-1], last.split()[-1]) == ("2.0", seen)  # 2 − 2⁻²: powers of two round nothing


def test_what_raises_is_shown_as_what_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs_alone.py").write_text(USERS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "theirs_alone", raising=False)
    known = Counterexample("answers", "theirs_alone:raises", "float64", "cpu", {"problem": SIMPLE}, "crash")
    assert run_alone(standalone(known), tmp_path)[-1] == "seen: ValueError: never in my life"


def test_what_is_no_number_is_shown_as_what_it_is(tmp_path: Path) -> None:
    pytest.importorskip("torchdeq")
    known = Counterexample("pickles", "torchdeq", "float64", "cpu", {"problem": SIMPLE}, "crash")
    *_, first, last = run_alone(standalone(known), tmp_path)
    assert first == "expected, the type of its pickle: bytes"
    assert "local object" in last  # which pickle refuses
    beside = {"problem": SIMPLE, "point": 0}
    text = standalone(Counterexample("status-nan", "scipy", "float64", "cpu", beside, "crash"))
    assert run_alone(text, tmp_path)[-1] == "seen: ValueError: array must not contain infs or NaNs"


def test_where_there_is_no_such_script_it_says_why() -> None:
    direction = {"problem": SIMPLE, "direction": np.ones((1, 1))}
    text = code(
        Counterexample("gradient-x", "deqverify.faults.parametrisation:RowSoftmax", "float64", "cpu", direction)
    )
    assert text.startswith(
        "# This script needs deqverify: the target deqverify.faults.parametrisation:RowSoftmax is built on it"
    )
    assert ".replay(" in text


def test_the_command_prints_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchdeq")
    monkeypatch.chdir(tmp_path)
    known = Counterexample(
        "gradient-x", "torchdeq", "float64", "cpu", {"problem": SIMPLE, "direction": np.ones((1, 1))}
    )
    id = keep(known.document(), FOLDER)
    shown = CliRunner().invoke(main, ["replay", id, "--code"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.splitlines()[-1] == 'print("seen:", seen)'
    assert "from torchdeq import get_deq" in shown.output
