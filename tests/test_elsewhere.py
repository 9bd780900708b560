"""A target that only another interpreter can import is verified through the same workers; whatever happens there is a
verdict."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from deqverify import SoftmaxProblem, losses
from deqverify.claims import Claims
from deqverify.cli import main
from deqverify.running.counterexamples import Counterexample
from deqverify.running.elsewhere import PREFIX, ChildError, Elsewhere, interpreter_of, name_interpreters
from deqverify.running.replaying import code
from deqverify.running.results import Job, Verdict
from deqverify.running.workers import Workers

LONELY = """
import os
import time

import torch


def solve(step, z0):
    print("this is no answer")
    for _ in range(3):
        z0 = step(z0)
    return z0


def dies(step, z0):
    os._exit(7)


def hangs(step, z0):
    while True:
        time.sleep(1)
"""

SECONDS = 240.0
"""Much: the machine may be busy, and nothing here waits for it."""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter that finds the module ``lonely``, which this one does not."""
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "lonely.py").write_text(LONELY, encoding="utf-8")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path / "only"}" exec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setenv(PREFIX + "lonely", str(python))
    return python


def job(target: str, law: str = "existence", hard: float = 20.0) -> Job:
    return Job(law, target, "float64", "cpu", 5, hard, hard, seed=0, cells=("linear-softmax",), expected=True)


def test_what_only_another_environment_has_is_verified_there(elsewhere: Path) -> None:
    with Workers(SECONDS, 1) as workers:
        asked = workers.ask(["lonely:solve", "lonely:nothing"])
        assert isinstance(asked["lonely:solve"], Claims)
        assert "has no attribute 'nothing'" in str(asked["lonely:nothing"])
        wrong, dead, after = workers.run([job("lonely:solve"), job("lonely:dies"), job("lonely:solve", "scale")])
    assert wrong.verdict is Verdict.VIOLATED
    assert "this is no answer" in wrong.output
    assert (dead.verdict, "exit code 7" in dead.reason) == (Verdict.VIOLATED, True)
    assert after.verdict is not Verdict.COULD_NOT_RUN, after.reason  # the child was started again


def test_a_hang_there_is_a_hang(elsewhere: Path) -> None:
    child = Elsewhere(str(elsewhere))
    child.ask("ask_quietly", "lonely:hangs", seconds=SECONDS)
    with pytest.raises(TimeoutError):
        child.ask("run_quietly", job("lonely:hangs", hard=SECONDS), None, seconds=2.0)
    child.close()


def test_a_script_is_written_there(elsewhere: Path) -> None:
    simple = SoftmaxProblem([[0.0]], [[1.0]], [[1.0]], [[0.0]], 0.5, losses.Squared())
    known = Counterexample(
        "gradient-x", "lonely:solve", "float64", "cpu", {"problem": simple, "direction": np.ones((1, 1))}
    )
    assert "from lonely import solve as theirs" in code(known)


def test_an_interpreter_without_deqverify_is_said_with_what_to_do(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    bare.chmod(0o755)
    with pytest.raises(ChildError, match=r"exit code 1; is deqverify installed there, as by .*bare -m pip install"):
        Elsewhere(str(bare)).ask("ask_quietly", "lonely:solve", seconds=SECONDS)


def test_the_option_names_a_target_and_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "deepinv", "")
    assert interpreter_of("deepinv[x]") is None
    name_interpreters([f"deepinv={sys.executable}"])
    assert interpreter_of("deepinv[x]") == interpreter_of("deepinv.mine:make") == sys.executable
    assert interpreter_of("torchdeq") is None
    said = CliRunner().invoke(main, ["run", "reference", "--python", "deepinv=/no/such/python"])
    assert said.exit_code == 2
    assert "NAME=/path/to/python" in said.output
