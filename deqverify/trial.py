"""One law tried on one implementation: a fresh Hypothesis test, its evidence and its smallest failure."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings, target
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from deqverify import clock
from deqverify.clock import Hang, Interrupted, alarm
from deqverify.comparison import Fact, Measurement
from deqverify.database import opened
from deqverify.implementations.failures import Reported, TargetFailure
from deqverify.seeding import without_local_constants

Evidence = Measurement | Fact
Body = Callable[..., Iterable[Evidence]]


LEAST_SHARE = 0.2
"""Below this share of informative examples a law without a failure is inconclusive."""

EASY = 0.9
"""Up to this γ problems are well-conditioned: where most of them are reported as failed, "holds" would say too much."""

TIME_LIMIT = "time limit"
"""Why a trial stopped before it had all its examples."""

SHRINKING = 4
"""Shrinking may take this part of the time that a trial has."""

REPLAYS = 5
"""So often a counterexample is tried again, to see whether it fails each time."""

_SURVEY_EXAMPLES = 50
_SURVEY_SECONDS = 0.5


Brief = Literal["", "main", "others"]
"""Which part of a law's examples a brief trial asks for; all of them without."""


@dataclass(frozen=True)
class Effort:
    """How hard to try: examples, seconds (soft, checked before each example), seed, and where failures are kept.

    An example that takes ``example_seconds`` is a hang (in the main thread; elsewhere there is no such clock), where
    compiling in JAX and waiting for a processor do not count (:mod:`deqverify.clock`).

    Without a seed each run draws anew. Hypothesis's own ``derandomize`` is not used: it depends on the test function
    alone, so that all laws would see the same problems.

    With ``push`` half of the examples climb towards a larger measured/allowed (``hypothesis.target``): better at
    finding what a bound forgets, and no fair sample of anything. A ``brief`` trial asks for a part of a law's examples:
    those on its "main" cell, or the "others": the cells that share its examples, and what is large. What is
    ``expected`` to fail is neither shrunk nor weighed: it was, when it was written down. After ``allotted`` seconds
    in which nothing failed, those of compiling included, nothing more is tried.
    """

    examples: int = 100
    seconds: float = 60.0
    example_seconds: float = 20.0
    seed: int | None = None
    database: str | None = None
    push: bool = False
    brief: Brief = ""
    expected: bool = False
    allotted: float | None = None


@dataclass(frozen=True)
class Example:
    """One example that held, or was left undecided: ``ratio`` is its largest measured/allowed, None where nothing was
    measured against a bound; ``finds`` the smallest of its measurements'."""

    arguments: dict[str, Any]
    informative: bool
    ratio: float | None
    finds: float = math.inf


@dataclass
class Failure:
    """The smallest counterexample found: what was seen, and the drawn arguments. ``kind`` is "wrong", "crash" or
    "hang"; ``notes`` say what else was noticed on the way. ``severity`` is how bad it gets elsewhere."""

    kind: str
    seen: Evidence | None
    message: str
    arguments: dict[str, Any]
    details: str = ""
    notes: tuple[str, ...] = ()
    severity: Severity | None = None
    wavers: bool = False
    """Whether the same arguments do not fail each time."""


@dataclass
class Severity:
    """How often fresh examples fail too, and the failing one with the largest relative error, of all that were seen.

    ``relative_error`` is measured over the size of what was compared, NaN where no failure measured anything;
    ``arguments`` are those that gave it.
    """

    failing: int = 0
    examples: int = 0
    relative_error: float = math.nan
    arguments: dict[str, Any] = field(default_factory=dict)

    def see(self, seen: Evidence | None, arguments: dict[str, Any]) -> None:
        """Counts a failure in: the worse one is kept."""
        error = seen.relative_error if isinstance(seen, Measurement) else math.nan
        if error > self.relative_error or (math.isnan(self.relative_error) and not math.isnan(error)):
            self.relative_error, self.arguments = error, arguments


@dataclass
class Trial:
    """The evidence of one trial. ``error`` is a defect of the suite itself, never of the implementation.

    ``easy`` examples have γ ≤ 0.9; ``not_finite`` counts answers that were reported as not converged and hold NaN or
    infinity, though the problem is finite. ``failed_at`` is the place of the first example that failed, from 1; 0
    where none did; ``failed_after`` the processor's seconds until then. ``seconds`` are those that count against the
    limit of a law, ``busy`` the processor's, ``spent`` those that count against what it was allotted.
    """

    examples: int = 0
    informative: int = 0
    reported: int = 0
    crashed: int = 0
    easy: int = 0
    easy_reported: int = 0
    not_finite: int = 0
    failed_at: int = 0
    failed_after: float = 0.0
    busy: float = 0.0
    worst: float = 0.0
    seconds: float = 0.0
    spent: float = 0.0
    failure: Failure | None = None
    stopped: str | None = None
    error: str | None = None

    def add(self, other: Trial) -> None:
        """Adds the evidence of another trial of the same law on the same implementation."""
        if other.failed_at and not self.failed_at:
            self.failed_at = self.examples + other.failed_at
            self.failed_after = self.busy + other.failed_after
        for name in (
            "examples",
            "informative",
            "reported",
            "crashed",
            "easy",
            "easy_reported",
            "not_finite",
            "seconds",
            "busy",
            "spent",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.worst = max(self.worst, other.worst)
        self.failure, self.stopped, self.error = other.failure, other.stopped, other.error

    @property
    def share(self) -> float:
        """Informative examples among all."""
        return self.informative / self.examples if self.examples else 0.0

    @property
    def decisive(self) -> bool:
        """Whether enough examples were informative, and enough easy ones answered, for "holds" to mean something."""
        return self.share >= LEAST_SHARE and 2 * self.easy_reported <= self.easy

    @property
    def undecided(self) -> str:
        """Why the evidence does not decide, as a sentence."""
        parts = [f"{self.informative} of {self.examples} examples could have told"]
        if 2 * self.easy_reported > self.easy:
            parts.append(f"{self.easy_reported} of {self.easy} with γ ≤ {EASY} reported as not converged")
        elif self.reported:
            parts.append(f"{self.reported} reported as not converged")
        if self.stopped:
            parts.append(f"stopped: {self.stopped}")
        return "; ".join(parts)


class _ViolatedError(AssertionError):
    pass


def run_trial(
    body: Body,
    strategy: SearchStrategy[dict[str, Any]],
    subject: Any,
    effort: Effort,
    crashes_fail: bool = False,
    announce: Callable[[dict[str, Any]], None] | None = None,
    observe: Callable[[Example], None] | None = None,
) -> Trial:
    """Draws up to ``effort.examples`` argument dictionaries and judges each; shrinks the first failure found.

    The body yields evidence; the first that does not hold ends the example as a failure. The implementation's own
    report of non-convergence ends it undecided, and so does a crash unless ``crashes_fail``: one root cause is one
    violation, and a rare crash must not hide a wrong answer. ``announce`` is called with each example before it is
    tried, ``observe`` with what was seen of each that did not fail.
    """
    trial = Trial()
    severity = Severity()
    started, begun, since = clock.now(), time.process_time(), time.monotonic()
    enough = effort.seconds

    def spent() -> float:
        """Seconds of whatever kind: asleep, or computing, in several threads for no more than the wall's."""
        return max(clock.now() - started, min(time.process_time() - begun, time.monotonic() - since))

    def example(arguments: dict[str, Any]) -> None:
        nonlocal enough
        over = effort.allotted is not None and trial.failure is None and spent() > effort.allotted
        if over or clock.now() - started > enough:
            raise Interrupted(TIME_LIMIT)
        if announce:
            announce(arguments)
        try:
            with alarm(effort.example_seconds):
                failure, held = _judge(trial, body, subject, arguments, crashes_fail)
        except Hang:
            if not trial.failed_at:
                trial.failed_at, trial.failed_after = trial.examples, time.process_time() - begun
            trial.failure = Failure("hang", None, f"no answer within {effort.example_seconds:g} s", arguments)
            raise
        if failure:
            if trial.failure is None:
                trial.failed_at, trial.failed_after = trial.examples, time.process_time() - begun
                enough = min(effort.seconds, clock.now() - started + effort.seconds / SHRINKING)
            trial.failure = failure
            severity.see(failure.seen, arguments)
            raise _ViolatedError(failure.message)
        if observe:
            observe(held)
        if effort.push and held.ratio and math.isfinite(held.ratio):
            target(math.log10(held.ratio), label="log10 of measured/allowed")

    test = given(arguments=strategy)(example)
    if effort.seed is not None:
        test = seed(effort.seed)(test)
    # A seed promises the same problems each time; Hypothesis alone draws constants of whatever modules are loaded.
    drawing = without_local_constants() if effort.seed is not None else nullcontext()
    try:
        with drawing:
            _configured(test, effort, _PHASES[:-1] if effort.expected else _PHASES)()
    except (_ViolatedError, Flaky):  # flaky: what fails now and then is a failure, and the replays count how often
        pass
    except Interrupted as limit:
        trial.stopped = str(limit)
    except Exception as error:
        if trial.failure is None:
            trial.error = "".join(traceback.format_exception(error)[-8:])
    if trial.failure and trial.failure.kind != "hang" and not effort.expected:
        _weigh(trial.failure, severity, body, strategy, subject, effort, crashes_fail)
    trial.seconds, trial.busy, trial.spent = clock.now() - started, time.process_time() - begun, spent()
    return trial


def _weigh(
    failure: Failure,
    severity: Severity,
    body: Body,
    strategy: SearchStrategy[dict[str, Any]],
    subject: Any,
    effort: Effort,
    crashes_fail: bool,
) -> None:
    """Adds to ``failure`` whether it fails each time, and how bad fresh examples are; half a second."""

    def judged(arguments: dict[str, Any]) -> Failure | None:
        with alarm(effort.example_seconds):
            return _judge(Trial(), body, subject, arguments, crashes_fail)[0]

    started = time.monotonic()
    outcomes: list[Failure | None] = []

    def survey(arguments: dict[str, Any]) -> None:
        if time.monotonic() - started > _SURVEY_SECONDS:
            raise Interrupted("enough")
        severity.examples += 1
        if found := judged(arguments):
            severity.failing += 1
            severity.see(found.seen, arguments)

    try:
        while len(outcomes) < REPLAYS and time.monotonic() - started < _SURVEY_SECONDS:
            outcomes.append(judged(failure.arguments))
        examples = min(effort.examples, _SURVEY_EXAMPLES)
        look_at(strategy, survey, examples, 0 if effort.seed is None else effort.seed + 1)
    except Interrupted:
        pass
    except Exception as error:  # nothing here may take the verdict away
        failure.notes += (f"weighing it failed: {type(error).__name__}: {error}",)
    failing = sum(outcome is not None for outcome in outcomes)
    failure.wavers = failing < len(outcomes)
    if failure.wavers:
        failure.notes += (f"fails {failing} of {len(outcomes)}: not deterministic, or it minds what was asked before",)
    failure.severity = severity


def look_at(
    strategy: SearchStrategy[dict[str, Any]], look: Callable[[dict[str, Any]], None], examples: int, seed_: int
) -> None:
    """Calls ``look`` with fresh examples, as many as asked for at the most; what it raises comes through."""

    def example(arguments: dict[str, Any]) -> None:
        look(arguments)

    test = seed(seed_)(given(arguments=strategy)(example))
    with without_local_constants():
        _configured(test, Effort(examples), (Phase.generate,))()


_PHASES = (Phase.reuse, Phase.generate, Phase.target, Phase.shrink)


def _configured(test: Any, effort: Effort, phases: tuple[Phase, ...] = _PHASES) -> Any:
    return settings(
        max_examples=effort.examples,
        database=opened(effort.database) if effort.database else None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        print_blob=False,
    )(test)


def replay(body: Body, subject: Any, arguments: dict[str, Any]) -> Trial:
    """Judges one given example: what the snippet of a violation calls."""
    trial = Trial()
    trial.failure, _ = _judge(trial, body, subject, arguments, crashes_fail=True)
    return trial


def _judge(
    trial: Trial, body: Body, subject: Any, arguments: dict[str, Any], crashes_fail: bool
) -> tuple[Failure | None, Example]:
    trial.examples += 1
    easy = getattr(arguments.get("problem"), "rate", 1.0) <= EASY
    trial.easy += easy
    informative, ratio, finds = False, None, math.inf
    undecided = Example(arguments, False, None)
    notes: list[str] = getattr(subject, "notes", [])
    notes.clear()
    try:
        for seen in body(subject, **arguments):
            if not seen.holds:
                trial.informative += 1
                return Failure("wrong", seen, seen.what, arguments, notes=tuple(notes)), undecided
            trial.worst = max(trial.worst, seen.ratio)
            informative = informative or seen.informative
            if isinstance(seen, Measurement):
                ratio, finds = max(ratio or 0.0, seen.ratio), min(finds, seen.finds)
    except Reported as report:
        trial.reported += 1
        trial.easy_reported += easy
        trial.not_finite += report.not_finite
        return None, undecided
    except TargetFailure as crash:
        trial.crashed += 1
        own = (crash.where,) if crash.where else ()
        failure = Failure("crash", None, str(crash), arguments, crash.details, own) if crashes_fail else None
        return failure, undecided
    trial.informative += informative
    return None, Example(arguments, informative, ratio, finds)
