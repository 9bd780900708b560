"""Counterexamples are data: written and read without loss, replayed, tried first; hostile files run nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from deqverify import CellProblem, SoftmaxProblem, laws, losses
from deqverify.cli import main
from deqverify.faults.sound import Sound, SoundNewton
from deqverify.implementations.subject import Subject
from deqverify.problem import Problem
from deqverify.running import counterexamples
from deqverify.running.counterexamples import Counterexample, CounterexampleError, keep, read
from deqverify.running.jobs import run_job
from deqverify.running.plan import make_jobs
from deqverify.running.profiles import Profile
from deqverify.running.replaying import CANNOT, FIXED, STILL, replayed
from deqverify.running.results import Verdict
from deqverify.trial import look_at
from tests import targets

SIMPLE = SoftmaxProblem([[0.0, 1.0], [0.5, 0.25]], [[1.0, 2.0]], [[1.0], [3.0]], [[0.1]], 0.5, losses.Squared())
PROFILE = Profile("test", examples=5, seconds=5.0)


def same(one: Any, other: Any) -> bool:
    """Bit by bit, types included; problems by the code that makes them, which holds every number in full."""
    if isinstance(one, Problem):
        return type(one) is type(other) and repr(one) == repr(other)
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and one.tobytes() == np.ascontiguousarray(other).tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def drawn(law_id: str, deq: Any, examples: int = 6) -> Iterator[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    look_at(laws()[law_id].draws(Subject(deq)), found.append, examples, 0)
    yield from found


@pytest.mark.parametrize(
    ("law_id", "deq"),
    [
        ("gradient-theta", Sound()),
        ("history", Sound()),
        ("batch", SoundNewton()),
        ("cotangent-linearity", SoundNewton()),
        ("memory-layout", SoundNewton()),
        ("in-place-update", Sound()),
        ("scale", Sound()),
        ("linearity", Sound()),
        ("permutation", Sound()),
    ],
)
def test_what_is_drawn_is_read_as_it_was_written(law_id: str, deq: Any, tmp_path: Path) -> None:
    for arguments in drawn(law_id, deq):
        said = {"description": "measured 1", "measured": np.inf, "terms": {"a": 1.0}}
        known = Counterexample(law_id, "reference", "float64", "cpu", arguments, "wrong", said, {"numpy": "2"})
        id = keep(known.document(), tmp_path)
        found = read(tmp_path / f"{id}.json")
        assert same(dict(found.arguments), {name: arguments[name] for name in found.arguments})
        assert set(found.arguments) == set(arguments)
        assert (found.law, found.target, found.dtype, found.kind) == (law_id, "reference", "float64", "wrong")
        assert found.said["measured"] == "inf"
        assert found.document()["id"] == id


def test_special_numbers_and_negative_zero_survive(tmp_path: Path) -> None:
    array = np.array([[-0.0, 5e-324], [np.nan, -np.inf]])
    known = Counterexample("adjoint-certificate", "r", None, "cpu", {"problem": SIMPLE, "cotangent": array})
    assert same(read(tmp_path / f"{keep(known.document(), tmp_path)}.json").arguments["cotangent"], array)


def test_what_is_no_data_is_refused() -> None:
    with pytest.raises(CounterexampleError, match="other: a function is no data"):
        Counterexample("history", "r", None, "cpu", {"other": lambda: 0}).document()
    cell = type("Mine", (type(SIMPLE.cell),), {"name": "mine"})()
    problem = CellProblem(cell, dict(SIMPLE.theta), SIMPLE.x, SIMPLE.B, SIMPLE.Y, SIMPLE.loss)
    with pytest.raises(CounterexampleError, match="not one that is known by its name"):
        Counterexample("existence", "r", None, "cpu", {"problem": problem}).document()


def good() -> dict[str, Any]:
    return Counterexample("existence", "tests.targets:sound", "float64", "cpu", {"problem": SIMPLE}).document()


def changed(*path: str, to: Any) -> str:
    document = good()
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(document)


HOSTILE = {
    "": "is not JSON",
    "{": "is not JSON",
    "[]": "is no counterexample",
    "null": "is no counterexample",
    "[" * 100_000: "is not JSON",
    "\x80\x04\x95": "is not text in UTF-8",
    '{"deqverify counterexample": 2}': "is no counterexample",
    '{"deqverify counterexample": NaN}': "holds the number NaN",
    "1" * 10_000: "is not JSON",
    changed("law", to="os.system"): "law: 'os.system' is not known here",
    changed("law", to=["existence"]): "law: ",
    changed("law", to="euler-of-none"): "law: ",
    changed("target", to="reference\x1b[2J"): "target: expected text that can be printed",
    changed("target", to=7): "target: expected text",
    changed("dtype", to="float7"): "dtype: 'float7' is not known here",
    changed("kind", to="joke"): "kind: 'joke' is not known here",
    changed("arguments", to={}): "the law existence takes problem, got",
    changed("arguments", "problem", to="SoftmaxProblem()"): "arguments.problem: is no Problem",
    changed("arguments", "problem", to={"code": "x"}): "arguments.problem: expected a number, text, or",
    changed("arguments", "problem", "problem", to="subprocess"): "problem: 'subprocess' is not known here",
    changed("arguments", "problem", "gamma", to=2.0): "gamma: must lie strictly between 0 and 1",
    changed("arguments", "problem", "gamma", to="nan"): "gamma: must lie strictly between 0 and 1",
    changed("arguments", "problem", "gamma", to=10**400): "gamma: 1000",
    changed("arguments", "problem", "A", to=[[1.0]]): "A: expected an array",
    changed("arguments", "problem", "A", "shape", to=[2, 3]): "A.array: expected 6 numbers",
    changed("arguments", "problem", "A", "shape", to=[-1, -4]): "A.shape: ",
    changed("arguments", "problem", "A", "shape", to=[10**12, 10**12]): "A.shape: ",
    changed("arguments", "problem", "A", "shape", to=[True, 4]): "A.shape: ",
    changed("arguments", "problem", "A", "shape", to=[1] * 9 + [4]): "A.shape: ",
    changed("arguments", "problem", "A", "array", to=[1.0, 2.0, "x", 3.0]): "A.array[2]: 'x' is no number",
    changed("arguments", "problem", "A", "array", to=[1.0, 2.0, "inf", 3.0]): "holds NaN or infinite entries",
    changed("arguments", "problem", "loss", "name", to="__import__"): "'__import__' is none of deqverify.losses",
    changed("arguments", "problem", "loss", "name", to="Loss"): "'Loss' is none of deqverify.losses",
    changed("arguments", "problem", "loss", "delta", to=1.0): "Squared takes nothing",
    changed("arguments", "problem", "more", to=1.0): "arguments.problem: expected A, B",
    changed("arguments", "problem", to={"problem": "tanh", "theta": {}, "x": 1, "B": 1, "Y": 1, "loss": 1}): "loss: is",
    changed("said", to=[]): "said: is a list, expected an object",
}


@pytest.mark.parametrize(("text", "said"), HOSTILE.items(), ids=range(len(HOSTILE)))
def test_a_hostile_file_is_refused_with_what_is_wrong_with_it(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(CounterexampleError) as refused:
        read(path)
    assert said in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400
    assert replayed(str(path), "reference", tmp_path)[0] == CANNOT


def test_parameters_that_make_no_cell_are_refused(tmp_path: Path) -> None:
    one = {"array": [1.0], "shape": [1, 1]}
    for theta in ({}, {"W": one}, {"x": one}, {"A": {"array": [], "shape": [0]}}):
        problem = {"problem": "tanh", "theta": theta, "x": one, "B": one, "Y": one, "loss": {"name": "Squared"}}
        (tmp_path / "f.json").write_text(changed("arguments", "problem", to=problem))
        with pytest.raises(CounterexampleError, match=r"arguments\.problem: makes no problem of tanh"):
            read(tmp_path / "f.json")


def test_a_file_that_is_too_large_or_absent_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counterexamples, "LARGEST_FILE", 10)
    (tmp_path / "f.json").write_text(json.dumps(good()))
    with pytest.raises(CounterexampleError, match="is larger than"):
        read(tmp_path / "f.json")
    with pytest.raises(CounterexampleError, match="cannot be read"):
        read(tmp_path / "gone.json")
    verdict, why, _ = replayed("00000000", None, tmp_path)
    assert verdict == CANNOT
    assert "is no file, and none of the 1 counterexamples" in why


def test_a_strangers_file_imports_nothing_until_its_reader_names_a_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "from_a_stranger.py").write_text(f"open({str(ran)!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "mail.json"
    path.write_text(changed("target", to="from_a_stranger:deq"))
    for *command, code in (["replay", 2], ["show", 0], ["show", "--code", 0], ["replay", "--code", 2]):
        done = CliRunner().invoke(main, [str(each) for each in (command[0], path, *command[1:])])
        assert done.exit_code == code, done.output
        assert not ran.exists()
        assert command[0] == "show" or "--target" in done.output


def kept(folder: Path, law: str, target: str) -> tuple[str, dict[str, Any]]:
    (job,) = make_jobs([target], [law], PROFILE, ["float64"], database=None)
    result = run_job(job)
    assert result.violation
    return keep(result.violation.counterexample, folder), result.violation.counterexample


def test_a_replay_answers_fixed_still_violated_or_cannot_run(tmp_path: Path) -> None:
    id, _ = kept(tmp_path, "mass", "fault[row-softmax]")
    verdict, why, result = replayed(id, None, tmp_path)
    assert (verdict, why) == (STILL, "|1ᵀẑ − 1ᵀφ/(1−γ)|")
    assert result is not None
    assert result.violation is not None
    assert replayed(id, "deqverify.faults.sound:Sound", tmp_path)[0] == FIXED
    verdict, why, _ = replayed(id, "deqverify.faults.sound:Gone", tmp_path)
    assert verdict == CANNOT
    assert "Gone" in why
    assert replayed(str(tmp_path / f"{id}.json"), "tests.targets:Dying", tmp_path)[0] == STILL


def test_show_and_replay_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    id, _ = kept(counterexamples.FOLDER, "mass", "fault[row-softmax]")
    shown = CliRunner().invoke(main, ["show", id])
    assert shown.exit_code == 0, shown.output
    for part in ("mass × fault[row-softmax] float64", "measured", "found with python", "SoftmaxProblem("):
        assert part in shown.output
    script = CliRunner().invoke(main, ["replay", id, "--code"]).output
    with pytest.raises(AssertionError, match="mass"):
        exec(script, {})
    assert "measured" in script.splitlines()[-4] + script.splitlines()[-5] + script.splitlines()[-6]
    assert CliRunner().invoke(main, ["show", "00000000"]).exit_code == 2
    assert CliRunner().invoke(main, ["replay", "../../etc/passwd"]).exit_code == 2


def test_stored_ones_are_tried_first_and_a_mended_target_goes_on(tmp_path: Path) -> None:
    id, document = kept(tmp_path, "mass", "fault[row-softmax]")
    (job,) = make_jobs(["fault[row-softmax]"], ["mass"], PROFILE, ["float64"], database=None)
    known = counterexamples.kept_for(tmp_path)
    assert known == {("mass", "fault[row-softmax]", "float64", "cpu"): [str(tmp_path / f"{id}.json")]}
    from dataclasses import replace

    again = run_job(replace(job, pinned=(str(tmp_path / f"{id}.json"),)))
    assert again.examples == 1
    assert again.violation is not None
    assert again.violation.counterexample["id"] == document["id"]
    mended = run_job(replace(job, target="tests.targets:sound", pinned=(str(tmp_path / f"{id}.json"), "gone.json")))
    assert mended.verdict is Verdict.HOLDS
    assert mended.examples >= 5
    assert targets.sound() is not None
