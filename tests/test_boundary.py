"""Where a cause begins: the border is found along the coordinate that matters, and is where theory says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deqverify import CellProblem, SoftmaxProblem, laws, losses
from deqverify.cells import cells
from deqverify.faults.backward import MissingTranspose, OneStepGradient, OneStepOfAnyCell
from deqverify.faults.batch import Centred, DropsBeyondABuffer, Raises
from deqverify.faults.forward import AbsoluteStopping, Saturated
from deqverify.faults.interface import NarrowInside
from deqverify.faults.losses import MeanForSum
from deqverify.faults.sound import Sound
from deqverify.implementations.protocol import Solution, Status
from deqverify.implementations.subject import Subject
from deqverify.running import boundary as module
from deqverify.running.boundary import Line, boundary, drawn, said
from deqverify.trial import Effort, Failure
from tests.two_defects import my_deq

SIMPLE = SoftmaxProblem([[0.0]], [[1.0]], [[1.0]], [[0.0]], 0.99, losses.Squared())


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found is asked here, not how soon on a loaded machine."""
    monkeypatch.setattr(module, "SECONDS", 60.0)


def lines_of(deq: Any, law: str, kind: str = "wrong", problem: Any = SIMPLE) -> dict[str, Line]:
    subject = Subject(deq, "float64")
    found = boundary(laws()[law], lambda: subject, Failure(kind, None, "", {"problem": problem}), Effort())
    return {line.coordinate: line for line in found}


def test_a_cap_is_wrong_from_the_rate_on_where_its_steps_do_not_suffice() -> None:
    line = lines_of(my_deq, "existence")["γ"]
    assert line.right is not None
    assert line.wrong is not None
    assert line.right < line.wrong
    # 401 steps leave γ⁴⁰¹ of the first residual. 1e-6 of ‖f(z)‖ is claimed, which is 1 to 1/(1−γ) times as large as
    # that residual, and a few times that is allowed: γ⁴⁰¹ lies between 1e-6 and 1e-3.
    assert 10.0 ** (-6 / 401) < line.right < line.wrong < 10.0 ** (-3 / 401)
    assert line.wrong - line.right < 1e-3
    assert line.said == f"wrong from γ = {line.wrong:.3f} on at m = 4, n = 2, right at {line.right:.3f} and below"


def test_a_gradient_of_one_step_is_wrong_everywhere() -> None:
    found = lines_of(OneStepGradient(), "adjoint-certificate")
    assert said(list(found.values())) == "wrong at every γ tried at m = 4, n = 2"
    assert found["γ"].right is None


class ReportsBeyond(OneStepGradient):
    """Beyond γ = 0.8 the equilibrium is reported as not converged, so that nothing is judged there."""

    def equilibrium(self, cell: Any, theta: Any, x: Any, z0: Any) -> Any:
        z = super().equilibrium(cell, theta, x, z0)
        z = z if isinstance(z, Solution) else Solution(z)
        z.status = Status.CAPPED if float(theta["gamma"]) > 0.8 else Status.CONVERGED
        return z


def test_what_is_reported_is_neither_right_nor_wrong() -> None:
    found = lines_of(ReportsBeyond(), "adjoint-certificate")
    assert found["γ"].undecided == (0.9, 0.97, 0.99, 0.999, 0.9999)
    assert found["γ"].right is None
    assert said(list(found.values())) == "wrong at every γ that can be judged, 0.1 to 0.75, at m = 4, n = 2"


@pytest.mark.parametrize(
    ("deq", "law", "kind", "coordinate", "wrong", "right"),
    [
        (MissingTranspose(), "adjoint-certificate", "wrong", "m", 2, 1),
        (MeanForSum(), "objective", "wrong", "n", 2, 1),
        (Centred(), "existence", "wrong", "n", None, None),  # of one data point it leaves nothing: always wrong
        (Raises(), "answers", "crash", "n", 3, 2),
        (DropsBeyondABuffer(), "existence", "wrong", "n", 65, 64),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_sizes_from_which_on_it_is_wrong(
    deq: Any, law: str, kind: str, coordinate: str, wrong: int | None, right: int | None
) -> None:
    line = lines_of(deq, law, kind).get(coordinate)
    assert (line and line.wrong, line and line.right) == (wrong, right)


def test_the_size_of_the_inputs_from_which_down_an_absolute_tolerance_is_wrong() -> None:
    line = lines_of(AbsoluteStopping(), "existence")["the size of x"]
    assert line.right is not None
    assert line.wrong is not None
    assert line.wrong < line.right < 1.0  # 1e-6 is allowed beside entries of size one
    assert "down at γ = " in line.said
    up = lines_of(Saturated(), "existence")["the size of x"]
    assert up.wrong is not None
    assert up.right is not None
    assert up.wrong > up.right


def test_of_another_cell_the_data_are_varied() -> None:
    cell = cells()["tanh"]
    theta = {name: np.array(value) for name, value in {"W": [[0.5]], "U": [[1.0]], "b": [0.0]}.items()}
    problem = CellProblem(cell, theta, np.ones((1, 1)), np.ones((1, 1)), np.zeros((1, 1)), losses.Squared())
    found = lines_of(OneStepOfAnyCell(), "existence", problem=problem)
    assert found == {}
    narrow = lines_of(NarrowInside(), "existence", problem=problem)
    assert all(line.coordinate in ("n", "the size of x") for line in narrow.values())


def test_laws_of_several_calls_have_no_border() -> None:
    assert lines_of(Sound(), "history") == {}
    assert lines_of(Sound(), "existence", kind="hang") == {}


def test_a_picture_has_a_sign_for_each_value() -> None:
    line = Line("γ", (0.1, 0.5, 0.9), (0.0, 0.5, 1e9), 0.5, 0.9, "m = 4")
    assert drawn([line]) == "γ 0.1 ·▁█ 0.90  at m = 4"
    assert line.said == "wrong from γ = 0.90 on at m = 4, right at 0.5 and below"
    close = Line("γ", (0.1, 0.9), (0.0, 1e9), 0.8996, 0.9004, "m = 4")
    assert close.said == "wrong from γ = 0.9004 on at m = 4, right at 0.9 and below"
    assert said([]) == ""
