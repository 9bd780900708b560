"""A soak resumes, keeps what it finds, survives interruption, and pushes towards the bounds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import strategies as st

from deqverify.bounds import Bound
from deqverify.cli import main
from deqverify.comparison import Measurement, compare
from deqverify.reporting import calibration
from deqverify.running import soak_state
from deqverify.running.events import JobFinished, JobStarted
from deqverify.running.executors import ThisProcess
from deqverify.running.jobs import run_job
from deqverify.running.results import Job
from deqverify.running.soak import Soak, entries_of
from deqverify.running.soak_state import SoakError, State, locked, resume, save
from deqverify.running.tally import Tally
from deqverify.trial import Effort, Example, run_trial

BROKEN = "fault[row-softmax]"


class Interrupted(ThisProcess):
    """After ``rounds`` results Ctrl-C is pressed; ``seen`` are the jobs until then."""

    def __init__(self, rounds: int):
        super().__init__()
        self.rounds, self.seen = rounds, list[Job]()

    def follow(self, jobs: Iterable[Job]) -> Iterator[JobStarted | JobFinished]:
        for job in jobs:
            self.seen.append(job)
            if len(self.seen) > self.rounds:
                raise KeyboardInterrupt
            yield JobFinished(run_job(job))


@pytest.fixture
def soaked(tmp_path: Path) -> Any:
    """Soaks some rounds in ``tmp_path`` and returns the state on disk."""

    def soak(targets: list[str], laws: list[str], rounds: int, dtypes: tuple[str, ...] = ("float64",)) -> State:
        state, _ = resume(tmp_path, seed=7)
        run = Soak(state, tmp_path, entries_of(state, targets, laws, dtypes), seconds=600.0, examples=10)
        with pytest.raises(KeyboardInterrupt):
            list(run.results(Interrupted(rounds)))
        return resume(tmp_path)[0]

    return soak


def test_a_soak_goes_on_where_it_was_interrupted(soaked: Any) -> None:
    first = soaked(["reference"], ["permutation", "column-shift"], 3)
    counts = {entry.law: (entry.drawn.examples, entry.pushed.examples) for entry in first.entries.values()}
    assert counts == {"permutation": (10, 10), "column-shift": (10, 0)}
    again = soaked(["reference"], ["permutation", "column-shift"], 3)
    assert again.seed == first.seed == 7
    assert again.examples == 60
    assert {entry.rounds for entry in again.entries.values()} == {3}


def test_every_round_draws_afresh_and_every_second_one_pushes(tmp_path: Path) -> None:
    executor = Interrupted(3)
    state, _ = resume(tmp_path, seed=7)
    entries = entries_of(state, ["reference"], ["mass"], ["float64"])
    with pytest.raises(KeyboardInterrupt):
        list(Soak(state, tmp_path, entries, 600.0, 10).results(executor))
    assert [(job.seed, job.push) for job in executor.seen] == [(7, False), (8, True), (9, False), (10, True)]


class TwoAtATime(ThisProcess):
    """Takes a job before the one before it has ended; after ``rounds`` results Ctrl-C is pressed, and one is under way.
    ``ended`` are those that have."""

    def __init__(self, rounds: int):
        super().__init__()
        self.rounds, self.ended = rounds, list[tuple[str, int | None]]()

    def follow(self, jobs: Iterable[Job]) -> Iterator[JobStarted | JobFinished]:
        coming = iter(jobs)
        under_way = [next(coming), next(coming)]
        for _ in range(self.rounds):
            job = under_way.pop(0)
            self.ended.append((job.law, job.seed))
            yield JobFinished(run_job(job))
            under_way.append(next(coming))
        raise KeyboardInterrupt


def test_a_round_that_was_under_way_when_a_soak_was_killed_is_tried_again_and_counted_once(tmp_path: Path) -> None:
    def soaked(rounds: int) -> tuple[list[tuple[str, int | None]], State]:
        executor, state = TwoAtATime(rounds), resume(tmp_path, seed=7)[0]
        entries = entries_of(state, ["reference"], ["column-shift", "permutation"], ["float64"])
        with pytest.raises(KeyboardInterrupt):
            list(Soak(state, tmp_path, entries, 600.0, 10).results(executor))
        return executor.ended, resume(tmp_path)[0]

    assert soaked(3)[0] == [("column-shift", 7), ("permutation", 7), ("column-shift", 8)]
    ended, state = soaked(2)
    assert ended == [("permutation", 8), ("column-shift", 9)]
    assert sum(entry.all.examples for entry in state.entries.values()) == 50
    for entry in state.entries.values():
        assert entry.all.examples == 10 * (entry.rounds - len(entry.under_way))


def test_all_claimed_dtypes_are_soaked(tmp_path: Path) -> None:
    entries = entries_of(resume(tmp_path)[0], ["reference"], ["mass"])
    assert [entry.dtype for entry in entries] == ["float64", "float32", "float16", "bfloat16"]
    with pytest.raises(ValueError, match="claims float64, float32"):
        entries_of(resume(tmp_path)[0], ["reference[numpy]"], ["mass"], ["float16"])


def test_a_violation_is_kept_as_a_file_that_shows_it_again_and_the_other_laws_go_on(
    soaked: Any, tmp_path: Path
) -> None:
    state = soaked([BROKEN], ["mass", "answers"], 4)
    mass, answers = (state.entries[law, BROKEN, "float64"] for law in ("mass", "answers"))
    assert (mass.rounds, answers.rounds) == (1, 3)
    assert answers.all.examples == 30
    (name,) = mass.finds
    with pytest.raises(AssertionError, match="mass"):
        exec((tmp_path / soak_state.FINDS / name).read_text(), {})
    assert calibration.exit_code([mass, answers]) == 1
    assert calibration.exit_code([answers]) == 0
    assert soaked([BROKEN], ["mass", "answers"], 2).entries[mass.key].rounds == 2, "the next soak tries it again"


def test_a_law_that_could_not_run_rests_with_its_reason(
    soaked: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from deqverify.oracle import Oracle, OracleError

    def refuse(self: Oracle, *arguments: Any) -> None:
        raise OracleError("no enclosure")

    monkeypatch.setattr(Oracle, "error", refuse)
    state = soaked(["reference"], ["enclosure", "answers"], 3)
    entry = state.entries["enclosure", "reference", "float64"]
    assert "no enclosure" in entry.trouble
    assert entry.rounds == 1
    assert calibration.exit_code(list(state.entries.values())) == 2


def test_what_is_not_claimed_leaves_the_table(soaked: Any) -> None:
    state = soaked(["reference"], ["uniqueness", "answers"], 3)
    assert [key[0] for key in state.entries] == ["answers"]


def test_a_write_that_was_cut_off_harms_nothing(soaked: Any, tmp_path: Path) -> None:
    before = soaked(["reference"], ["permutation"], 2)
    (tmp_path / ".state.json.1.part").write_text('{"seed": 7, "entr')
    assert resume(tmp_path)[0].examples == before.examples
    assert soaked(["reference"], ["permutation"], 1).examples == before.examples + 10


def test_a_state_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"seed": 7, "entr')
    with pytest.raises(SoakError, match="move it away"):
        resume(tmp_path)
    assert (tmp_path / "state.json").exists()


def test_what_another_version_measured_is_put_aside(soaked: Any, tmp_path: Path) -> None:
    soaked(["reference"], ["mass"], 1)
    document = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(document | {"sources": "older"}))
    state, said = resume(tmp_path)
    assert state.examples == 0
    assert "the suite has changed" in said
    assert list(tmp_path.glob("state-older-*.json"))
    save(state, tmp_path)
    assert "as asked" in resume(tmp_path, fresh=True)[1]


def test_a_second_soak_is_kept_out(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(SoakError, match="another soak"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_pushing_raises_measured_over_allowed() -> None:
    """A ratio with one narrow peak: drawn freely it is missed, climbing finds it."""

    def body(subject: Any, x: int, y: int) -> Iterator[Measurement]:
        ratio = math.exp(-(abs(x - 123_456) + abs(y - 654_321)) / 3e4)
        yield compare("height", ratio, Bound({"peak": np.asarray(1.0)}), 10.0)

    numbers = st.integers(0, 10**6)
    strategy = st.fixed_dictionaries({"x": numbers, "y": numbers})

    def worst(push: bool, seed: int) -> float:
        return run_trial(body, strategy, None, Effort(400, seed=seed, push=push)).worst

    free, pushed = (sorted(worst(push, seed) for seed in range(5)) for push in (False, True))
    assert pushed[2] > 1.5 * free[2], (free, pushed)  # medians
    assert pushed[0] > free[0]


@pytest.mark.parametrize("ratio", [0.0, math.inf, math.nan])
def test_what_has_no_logarithm_pushes_nothing(ratio: float) -> None:
    class Odd(Measurement):
        holds = True  # type: ignore[assignment]

        @property
        def ratio(self) -> float:
            return ratio

    def body(subject: Any, x: int) -> Iterator[Measurement]:
        yield Odd("odd", 0.0, 1.0, {}, 1.0)

    tally = Tally()
    trial = run_trial(
        body, st.fixed_dictionaries({"x": st.integers(0, 9)}), None, Effort(20, push=True), False, None, tally.add
    )
    assert trial.error is None
    assert trial.failure is None
    assert tally.bounded == tally.examples > 0


def test_a_tally_counts_sorts_and_survives_the_file() -> None:
    tally, other = Tally(), Tally()
    for ratio in (None, 0.0, math.nan, 0.5, 0.05, 1e-5):
        tally.add(Example({"problem": None}, ratio == 0.5, ratio, finds=2e-12 if ratio == 0.5 else math.inf))
    assert (tally.examples, tally.informative, tally.bounded, tally.exact) == (6, 1, 5, 2)
    assert tally.bins == {-2: 1, -6: 1, -20: 1}  # quarters of decades
    assert tally.finds == {-46: 1}
    assert tally.worst == 0.5
    assert not tally.loose
    other.add(Example({"x": 3}, True, 0.9))
    tally.merge(other)
    assert (tally.worst, tally.arguments, tally.examples, tally.bins[-1]) == (0.9, "x=3", 7, 1)
    assert Tally.of(json.loads(json.dumps(tally.document()))) == tally


def test_the_command_resumes_shows_a_table_and_draws(tmp_path: Path) -> None:
    picture = tmp_path / "soak.svg"
    arguments = ["soak", "--law", "mass", "--dtype", "float64", "--examples", "10", "--folder", str(tmp_path)]
    result = CliRunner().invoke(main, [*arguments, "--minutes", "0.05", "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "starting afresh" in " ".join(result.output.split())
    again = CliRunner().invoke(main, [*arguments, "--minutes", "0", "--picture", str(picture)])
    assert again.exit_code == 0, again.output
    assert "going on after" in " ".join(again.output.split())  # the console wraps lines
    assert "mass" in again.output
    assert "0 violations kept" in again.output
    assert picture.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "not installed"),
        (("--law", "mas"), "did you mean"),
        (("--dtype", "float8"), "float8"),
        (("--picture", "soak.doc"), "must end in"),
        (("--picture", "/no/such/folder/soak.svg"), "no folder"),
    ],
)
def test_bad_input_exits_2_and_says_what_to_do(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["soak", "--minutes", "0", "--folder", str(tmp_path), *arguments])
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())
    assert "Traceback" not in result.output
