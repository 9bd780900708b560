"""Whether a violation says something of its own, or only repeats one of a law that it rests on.

A law rests on others (``Law.rests_on``): what it states of a gradient is stated of gradients at equilibria. Where its
counterexample violates one of those as well, it is tried again on problems where all of them hold. Found there, it is a
cause of its own, and that is the counterexample shown; not found, it follows.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deqverify.clock import Interrupted, alarm
from deqverify.comparison import Measurement
from deqverify.errors.judge import judge
from deqverify.implementations.subject import Question, Reported, Subject, TargetFailure
from deqverify.losses import Squared
from deqverify.problem import Problem, SoftmaxProblem
from deqverify.properties.calls import other_input, other_weights
from deqverify.registry import Law, cells_of, laws, premises
from deqverify.trial import Effort, Evidence, Failure, run_trial

EXAMPLES, SECONDS = 40, 3.0
"""What a law is tried with again at the most."""

ONE = 5.0
"""What one question, or one example of that trial, may take: a worker's hard limit leaves room for it."""

BLOCKED = 12
"""After so many examples of which none has premises that hold there is no use in going on."""

QUESTIONS = 12
"""So many of the questions that a counterexample asks are put to the premises."""

APART = 64.0
"""A violation is one of its own where it exceeds its bound by this factor more than its premises come near theirs. An
equilibrium that is just within its bound may have a gradient just beyond its own, by the roughness of the two bounds
and one derivative more; those are factors of a dozen. A gradient of another kind is wrong by its whole size."""

REMEMBERED = ("history", "deterministic")
"""The laws of what a violation follows from that a fresh implementation does not show."""

_ABOUT_CALLS = ("state", "modes")
"""Families of laws about several calls, which a fresh implementation is expected to violate as well."""


@dataclass(frozen=True)
class Blame:
    """``follows``: the laws that a violation may follow from, the most basic first; without any it is a cause of its
    own. ``failure`` is the counterexample to show. ``convicts`` is the most basic law that it was seen to violate too,
    and the arguments with which, where those stand for themselves."""

    follows: tuple[str, ...]
    failure: Failure
    convicts: tuple[str, dict[str, Any]] | None = None


Fresh = Callable[[], Subject]
"""Makes a subject that nobody has asked anything yet."""


def blame(law: Law, subject: Subject, fresh: Fresh, failure: Failure, effort: Effort, retried: bool = True) -> Blame:
    """Who is to blame for ``failure`` of ``law`` on ``subject``. Unless ``retried`` what may follow is taken to follow.

    Violations that end in a crash or a hang rest on the law ``answers`` alone, and that on what is remembered where a
    fresh implementation answers.
    """
    try:
        with alarm(min(ONE, effort.example_seconds)):
            if failure.kind != "wrong":
                return Blame(_of_crash(law, fresh, failure), failure)
            return _blame(law, subject, fresh, failure, effort, retried)
    except Interrupted:  # too slow to be asked again: then it is left to what the run says of those that it rests on
        return Blame(tuple(premise.id for premise in premises(law)), failure)
    except Exception as error:  # nothing here may take the verdict away
        failure.notes += (f"what it rests on could not be tried: {type(error).__name__}: {error}",)
        return Blame((), failure)


def _of_crash(law: Law, fresh: Fresh, failure: Failure) -> tuple[str, ...]:
    """The laws that a crash or a hang may follow from."""
    if failure.kind == "hang":
        return () if law.id == "answers" else ("answers",)
    if law.id == "answers":
        return () if weight(law, fresh(), failure.arguments, crashes=True).ratio > 1.0 else REMEMBERED
    arguments = arguments_of(laws()["answers"], Question(failure.arguments["problem"]))
    plain = arguments is None or weight(laws()["answers"], fresh(), arguments, crashes=True).ratio > 1.0
    return ("answers",) if plain or law.family not in _ABOUT_CALLS else law.rests_on


def _blame(law: Law, subject: Subject, fresh: Fresh, failure: Failure, effort: Effort, retried: bool) -> Blame:
    asked = fresh().recording()
    excess = weight(law, asked, failure.arguments).ratio
    if not excess > 1.0 and law.family not in _ABOUT_CALLS:
        return Blame(REMEMBERED, failure)
    # What laws about several calls ask must not be remembered where single calls are judged.
    judged = fresh if law.family in _ABOUT_CALLS else lambda: subject
    able = _able(law, subject)
    questions = _some(asked.questions or [])
    if law.family in _ABOUT_BATCHES:
        questions = [alone for question in questions for alone in _points(question)]
    elif (among := _among_others(law, subject, failure.arguments)) is not None:
        return Blame(among, failure)
    weights = {premise.id: [w for q in questions if (w := weigh(premise, judged, q))] for premise in able}
    suspected = [premise for premise in able if any(w.explains(excess) for w in weights[premise.id])]
    # What cannot be asked of one problem is left to what the run says of that law.
    others = [premise.id for premise in able if not weights[premise.id]]
    if not suspected:
        return Blame(tuple(others), failure)
    found = _alone(law, able, suspected, subject, judged, effort) if retried else None
    if found:
        return Blame((), found)
    seen = ((p.id, w.arguments) for p in suspected for w in weights[p.id] if w.ratio > 1.0 and w.arguments)
    return Blame((*(p.id for p in suspected), *others), failure, next(seen, None))


def _able(law: Law, subject: Subject) -> list[Law]:
    """What ``law`` rests on and ``subject`` is judged by. Where something is not judged, as an adjoint that a whole
    layer does not show, the earlier laws that rest on it as well stand for it."""
    earlier = premises(law)
    hidden = {premise.id for premise in earlier if premise.missing(subject) is not None}
    order = list(laws().values())
    others = [other for other in order[: order.index(law)] if hidden & {*other.rests_on}]
    found = dict.fromkeys([*earlier, *others])
    return [premise for premise in found if premise is not law and premise.missing(subject) is None]


_ABOUT_BATCHES = ("batching",)
"""Families of laws about data points beside each other, whose premises speak of each alone."""

COUPLED = ("batch", "poisoned-point")
"""The laws of what a violation follows from that no data point alone shows."""


def _points(question: Question) -> list[Question]:
    """The question of each data point alone, a few of them."""
    return [
        replace(
            question,
            problem=question.problem.chosen([k]),
            cotangent=None if question.cotangent is None else question.cotangent[[k]],
            start=None,
        )
        for k in _spread(question.problem.n)
    ]


def _spread(count: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, QUESTIONS).astype(int)).tolist() if count else []


def _among_others(law: Law, subject: Subject, arguments: dict[str, Any]) -> tuple[str, ...] | None:
    """The laws to blame where every data point of a problem of several is right alone; None where one is not, or where
    that can't be told."""
    problem = arguments.get("problem")
    if not isinstance(problem, Problem) or problem.n < 2 or not subject.is_layer or not subject.claims.separable:
        return None
    if any(name not in (*_OF_EACH, *_OF_ALL, "point") for name in arguments):
        return None
    informative = False
    for k in _spread(problem.n) if "point" not in arguments else [arguments["point"]]:
        found = weight(law, subject, {name: _of_point(name, value, k) for name, value in arguments.items()})
        if found.ratio > 1.0:
            return None
        informative = informative or found.informative
    return COUPLED if informative else None


_OF_EACH, _OF_ALL = ("problem", "cotangent", "start", "other"), ("weights", "shift", "order")
"""Arguments of laws that hold a part for each data point, and those that are the same for all of them; "point" is the
place of the one that a law is about."""


def _of_point(name: str, value: Any, k: int) -> Any:
    """An argument of a law for data point k alone, which is the first one then."""
    if name == "problem":
        return value.chosen([k])
    if name == "point":
        return 0
    return value if name in _OF_ALL else value[[k]]


def _some(questions: Sequence[Question]) -> list[Question]:
    """A few of them, spread: a training run asks sixty times much the same."""
    pulled = [q for q in questions if q.cotangent is not None] or list(questions)
    also = [q for q in questions if q.layer is not None or q.start is not None]
    chosen = [*also, *pulled]
    places = np.unique(np.linspace(0, len(chosen) - 1, QUESTIONS).astype(int)) if chosen else ()
    return [chosen[k] for k in places]


@dataclass(frozen=True)
class Weight:
    """How near a law comes to its bound on one example: the largest measured/allowed, infinite for a fact that fails,
    and whether the bound could have told. ``arguments`` are those of the example, where no layer and no start but the
    implementation's own took part."""

    ratio: float = 0.0
    informative: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)

    def explains(self, excess: float) -> bool:
        """Whether a premise of this weight may be why a law exceeds its own bound by ``excess``."""
        return self.ratio > 1.0 or excess < APART * self.ratio


def weigh(premise: Law, made: Fresh, question: Question) -> Weight | None:
    """How near ``premise`` comes to its bound on what was asked; None where it says nothing of that."""
    subject = made()
    if question.problem.cell.name not in cells_of(premise.about, subject):
        return None
    if question.layer is not None and premise.id == "existence":
        return None  # of a layer that is kept from working on purpose nobody expects an equilibrium
    question = replace(question, problem=subject.rounded(question.problem))  # a law may ask for A off a claimed grid
    arguments = arguments_of(premise, _posed(premise, question, subject))
    if arguments is None:
        return None
    plain = question.layer is None and question.start is None
    found = weight(premise, subject.posed(question), arguments)
    if plain:
        found = replace(found, arguments=arguments)
    if premise.id in _NEARBY and not found.ratio > 1.0:
        # A derivative says something of the neighbourhood: a right answer at one degenerate point, as A = 0, is none.
        beside = replace(question, problem=other_weights(subject, other_input(question.problem)))
        arguments = arguments_of(premise, beside) or {}
        near = weight(premise, made().posed(question), arguments)
        return replace(near, arguments=arguments if plain else {}) if near.ratio > 1.0 else found
    return found


_NEARBY = ("existence", "adjoint-certificate")
"""The laws whose derivatives are what others speak of: equilibria by gradients, gradients by second derivatives."""


def _posed(premise: Law, question: Question, subject: Subject) -> Question:
    """For laws of the objective's gradient, the same question with an objective whose cotangent is the one that was
    pulled back: ``‖z − (z* − c/2)‖²`` is one, up to the rounding of its targets."""
    problem, cotangent = question.problem, question.cotangent
    if cotangent is None or premise.id not in _DIRECTIONS or not subject.is_layer:
        return question
    truth = judge(problem, subject.claims, subject.dtype)
    if not truth.in_range:
        return question
    wanted = truth.z - cotangent / 2
    Y = wanted.reshape(problem.n, -1).T
    try:
        posed = replace(problem, B=np.eye(len(Y)), Y=Y, loss=Squared())  # type: ignore[type-var]
        return replace(question, problem=subject.rounded(posed))
    except ValueError:  # beyond the range of the dtype
        return question


def weight(law: Law, subject: Subject, arguments: dict[str, Any], crashes: bool = False) -> Weight:
    """How near ``law`` comes to its bound on one example; nothing where it is undecided, as by a crash unless
    ``crashes`` count."""
    largest, informative = 0.0, False
    try:
        for seen in law.body(subject, **arguments):
            largest, informative = max(largest, ratio(seen)), informative or seen.informative
            if not seen.holds:
                break
    except Reported:
        return Weight()
    except TargetFailure:
        return Weight(math.inf, True) if crashes or law.judges_crashes else Weight()
    return Weight(largest, informative)


def ratio(seen: Evidence) -> float:
    """measured/allowed; infinite for a fact that fails, and for NaN."""
    if isinstance(seen, Measurement) and not math.isnan(seen.ratio):
        return seen.ratio if seen.holds else max(seen.ratio, math.nextafter(1.0, 2.0))
    return 0.0 if seen.holds else math.inf


def arguments_of(law: Law, question: Question | None) -> dict[str, Any] | None:
    """Arguments for ``law`` on what was asked: its problem and cotangent, and directions at random where it takes some;
    None where it takes more than that."""
    if question is None:
        return None
    problem, made = question.problem, dict[str, Any]()
    draws = np.random.default_rng(0)
    for name in list(inspect.signature(law.body).parameters)[1:]:
        if name == "problem":
            made[name] = problem
        elif name == "cotangent":
            made[name] = draws.standard_normal(problem.states) if question.cotangent is None else question.cotangent
        elif name == "direction" and law.id in _DIRECTIONS:
            made[name] = _DIRECTIONS[law.id](problem, draws)
        else:
            return None
    return made


def _along(problem: Problem, names: Sequence[str], draws: np.random.Generator) -> dict[str, Any]:
    return {name: draws.standard_normal(np.shape(problem.block(name))) for name in names}


def _moved(problem: Problem) -> Sequence[str]:
    """The blocks that ``taylor`` moves."""
    return ("A", "B", "x") if isinstance(problem, SoftmaxProblem) else problem.blocks


_DIRECTIONS: dict[str, Callable[[Problem, np.random.Generator], Any]] = {
    "gradient-theta": lambda problem, draws: _along(problem, list(problem.theta), draws),
    "gradient-B": lambda problem, draws: draws.standard_normal(problem.B.shape),
    "gradient-x": lambda problem, draws: draws.standard_normal(problem.x.shape),
    "taylor": lambda problem, draws: _along(problem, _moved(problem), draws),
}


def _alone(
    law: Law, earlier: Sequence[Law], suspected: Sequence[Law], subject: Subject, judged: Fresh, effort: Effort
) -> Failure | None:
    """A failure of ``law`` where everything that it rests on holds, the smallest that a few seconds find. Those laws
    that were ``suspected`` have to be able to tell: a bound that allows everything clears nobody."""

    def clear(question: Question, excess: float) -> bool:
        weights = {premise.id: weigh(premise, judged, question) for premise in earlier}
        if any(each and each.explains(excess) for each in weights.values()):
            return False
        return all((each := weights[p.id]) is None or each.informative for p in suspected)

    blocked, passed = 0, 0

    def body(deq: Subject, **arguments: Any) -> Iterator[Evidence]:
        nonlocal blocked, passed
        problem = arguments.get("problem")
        if isinstance(problem, Problem) and not clear(Question(problem, arguments.get("cotangent")), math.inf):
            blocked += 1
            if blocked >= BLOCKED and not passed:
                raise Interrupted("what it rests on holds nowhere")
            return
        passed += 1
        asked = deq.recording()
        for seen in law.body(asked, **arguments):
            if not seen.holds and not all(clear(q, ratio(seen)) for q in _some(asked.questions or [])):
                return
            yield seen

    seconds = min(SECONDS, effort.seconds)
    one = min(ONE, effort.example_seconds)
    few = replace(effort, examples=EXAMPLES, seconds=seconds, example_seconds=one, database=None, push=False)
    found = run_trial(body, law.drawn(subject), subject, few, law.judges_crashes)
    return found.failure if found.failure and found.failure.kind == "wrong" else None
