"""Whether a violation says something of its own, or only repeats one of a law that it rests on.

A law rests on others (``Law.rests_on``): what it states of a gradient is stated of gradients at equilibria. Where its
counterexample violates one of those as well, it is tried again on problems where all of them hold. Found there, it is a
cause of its own, and that is the counterexample shown; not found, it follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deqverify.clock import Interrupted, alarm
from deqverify.implementations.subject import Question, Subject
from deqverify.problem import Problem
from deqverify.properties.calls import operations_on, other_input, other_weights, repeated_calls, usual_cotangent
from deqverify.registry import Law, laws, premises
from deqverify.running.weighing import Fresh, Weight, arguments_of, ratio, weigh, weight
from deqverify.trial import Effort, Evidence, Failure, run_trial

EXAMPLES, SECONDS = 40, 3.0
"""What a law is tried with again at the most."""

ONE = 5.0
"""What one question, or one example of that trial, may take: a worker's hard limit leaves room for it."""

BLOCKED = 12
"""After so many examples of which none has premises that hold there is no use in going on."""

QUESTIONS = 12
"""So many of the questions that a counterexample asks are put to the premises."""

CALLS = 8
"""So many times one implementation is asked whether it answers alike: each is three calls."""

WANDERING = 8.0
"""What is wrong by no more than this factor beyond the differences from call to call may follow from them: a few calls
show a part of the range of answers, and a law may amplify what they differ by."""

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


def blame(law: Law, subject: Subject, fresh: Fresh, failure: Failure, effort: Effort, retried: bool = True) -> Blame:
    """Who is to blame for ``failure`` of ``law`` on ``subject``. Unless ``retried`` what may follow is taken to follow.

    Violations that end in a crash or a hang rest on the law ``answers`` alone, and that on what is remembered where a
    fresh implementation answers.
    """
    found = _of_whom(law, subject, fresh, failure, effort, retried)
    follows = law.id in REMEMBERED or "deterministic" in found.follows
    if not follows and (found.failure.wavers or (not found.follows and _wanders(law, fresh, found.failure, effort))):
        found = replace(found, follows=(*found.follows, "deterministic"))
    if law.id in REMEMBERED and failure.kind == "wrong" and _settles(fresh, failure, effort):
        left = tuple(id for id in found.follows if id != "deterministic")
        found = replace(found, follows=("history",) if law.id == "deterministic" else left)
    if found.follows in (REMEMBERED, COUPLED) and not effort.expected:
        with suppress(Interrupted, Exception), alarm(min(ONE, effort.example_seconds)):  # what follows stays so
            return replace(found, convicts=_convicted(found.follows, fresh, failure))
    return found


def _settles(fresh: Fresh, failure: Failure, effort: Effort) -> bool:
    """Whether answers are alike in the end where the same is asked again and again: then they mind what was asked
    before, as with what is remembered, and nothing is at random."""
    asked, deq = _call_of(failure), fresh()
    if asked is None:
        return False
    with suppress(Interrupted, Exception), alarm(min(ONE, effort.example_seconds)):
        seen = [weight(laws()["deterministic"], deq, asked).ratio for _ in range(2 * CALLS)]
        return all(each <= 1.0 for each in seen[CALLS:])
    return False


def _call_of(failure: Failure) -> dict[str, Any] | None:
    """The problem and the cotangent of a single call like those of ``failure``; None without data points."""
    problem, given = failure.arguments.get("problem"), failure.arguments.get("cotangent")
    if not isinstance(problem, Problem) or not problem.n:
        return None
    return {"problem": problem, "cotangent": usual_cotangent(problem) if given is None else given}


def _wanders(law: Law, fresh: Fresh, failure: Failure, effort: Effort) -> bool:
    """Whether answers to the same call differ by more than is claimed, and by not far less than ``law`` finds
    wrong: then nothing else need be wrong with them."""
    asked, deq = _call_of(failure), fresh()
    if failure.kind != "wrong" or law.family in _ABOUT_CALLS or asked is None:
        return False
    if laws()["deterministic"].missing(deq) is not None:
        return False
    # What cannot be asked explains nothing.
    with suppress(Interrupted, Exception), alarm(min(ONE, effort.example_seconds)):
        seen = max((ratio(each) for each in repeated_calls(deq, **asked, claims=deq.claims)), default=0.0)
        return 1.0 < seen < math.inf and weight(law, fresh(), failure.arguments).ratio <= WANDERING * seen
    return False


def _of_whom(law: Law, subject: Subject, fresh: Fresh, failure: Failure, effort: Effort, retried: bool) -> Blame:
    try:
        with alarm(min(ONE, effort.example_seconds)):
            if failure.kind != "wrong":
                return _of_crash(law, fresh, failure)
            return _blame(law, subject, fresh, failure, effort, retried)
    except Interrupted:  # too slow to be asked again: then it is left to what the run says of those that it rests on
        return Blame(tuple(premise.id for premise in premises(law)), failure)
    except Exception as error:  # nothing here may take the verdict away
        failure.notes += (f"what it rests on could not be tried: {type(error).__name__}: {error}",)
        return Blame((), failure)


def _of_crash(law: Law, fresh: Fresh, failure: Failure) -> Blame:
    """Who is to blame for a crash or a hang; where there are answers, what it rests on in its own family may be too, as
    an array that is written to."""
    answers = laws()["answers"]
    if failure.kind == "hang":
        return Blame(() if law is answers else (answers.id,), failure)
    if law is answers:
        if weight(law, fresh(), failure.arguments, crashes=True).ratio > 1.0:
            return Blame((), failure)
        return Blame(REMEMBERED, failure)
    question = Question(failure.arguments["problem"])
    arguments = arguments_of(answers, question)
    if arguments is None:
        return Blame((answers.id,), failure)
    if weight(answers, fresh(), arguments, crashes=True).ratio > 1.0:
        return Blame((answers.id,), failure, (answers.id, arguments))
    if law.family in _ABOUT_CALLS:
        return Blame(law.rests_on, failure)
    own = [premise for premise in map(laws().__getitem__, law.rests_on) if premise.family == law.family]
    wrong = [premise.id for premise in own if (found := weigh(premise, fresh, question)) and found.ratio > 1.0]
    return Blame((answers.id, *wrong), failure)


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
        among = None
    else:
        among = _among_others(law, subject, failure.arguments)
    weighed = {
        premise.id: [(w, q) for q in questions if (w := _weigh_repeatedly(premise, judged, q))] for premise in able
    }
    weights = {id: [w for w, _ in pairs] for id, pairs in weighed.items()}
    if among is not None:  # what it rests on may be wrong among others too, and is what is wrong then
        wrong = [premise.id for premise in able if any(w.ratio > 1.0 for w in weights[premise.id])]
        return Blame((*wrong, *among), failure, _seen(wrong, weights))
    suspected = [premise for premise in able if any(w.explains(excess) for w in weights[premise.id])]
    # What cannot be asked of one problem is left to what the run says of that law.
    others = [premise.id for premise in able if not weights[premise.id]]
    if not suspected:
        return Blame(tuple(others), failure)
    if law.family not in _ABOUT_CALLS and _in_later_calls({p: weighed[p.id] for p in suspected}, fresh):
        return Blame(REMEMBERED, failure)
    found = _alone(law, able, suspected, subject, judged, effort) if retried else None
    if found:
        return Blame((), found)
    ids = [premise.id for premise in suspected]
    return Blame((*ids, *others), failure, _seen(ids, weights))


def _in_later_calls(weighed: Mapping[Law, Sequence[tuple[Weight, Question]]], fresh: Fresh) -> bool:
    """Whether every law of ``weighed`` that the used implementation violates holds for a fresh one, asked the same."""
    worst = {premise: max(pairs, key=lambda pair: pair[0].ratio) for premise, pairs in weighed.items()}
    wrong = [(premise, question) for premise, (found, question) in worst.items() if found.ratio > 1.0]
    again = (weigh(premise, fresh, question) for premise, question in wrong)
    return bool(wrong) and all(each and not each.ratio > 1.0 for each in again)


def _weigh_repeatedly(premise: Law, judged: Fresh, question: Question) -> Weight | None:
    """As :func:`weigh`; whether answers differ from call to call is asked a few times of one implementation."""
    if premise.id != "deterministic":
        return weigh(premise, judged, question)
    used = judged()
    found = (weigh(premise, lambda: used, question) for _ in range(CALLS))
    return max((each for each in found if each), key=lambda each: each.ratio, default=None)


def _seen(ids: Sequence[str], weights: Mapping[str, Sequence[Weight]]) -> tuple[str, dict[str, Any]] | None:
    """The first of the laws ``ids`` that is violated, and the arguments with which, where those stand for
    themselves."""
    wrong = ((id, w.arguments) for id in ids for w in weights[id] if w.ratio > 1.0 and w.arguments)
    return next(wrong, None)


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


def _convicted(among: Sequence[str], fresh: Fresh, failure: Failure) -> tuple[str, dict[str, Any]] | None:
    """The first of laws about several calls or data points that is violated on the problem of ``failure``, and the
    arguments with which."""
    asked = _call_of(failure)
    if asked is None:
        return None
    for law in map(laws().__getitem__, among):
        if law.missing(fresh()) is not None:
            continue
        for arguments in _SITUATIONS[law.id](fresh(), **asked):
            if weight(law, fresh(), arguments).ratio > 1.0:
                return law.id, arguments
    return None


def _histories(deq: Subject, problem: Problem, cotangent: Any) -> list[dict[str, Any]]:
    other = other_weights(deq, other_input(problem))
    return [
        {"problem": problem, "cotangent": cotangent, "operations": [name], "other": other}
        for name in operations_on(deq)
    ]


_SITUATIONS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "history": _histories,
    "deterministic": lambda deq, problem, cotangent: [{"problem": problem, "cotangent": cotangent}],
    "batch": lambda deq, problem, cotangent: [{"problem": problem, "points": [k]} for k in _spread(problem.n)],
    "poisoned-point": lambda deq, problem, cotangent: [{"problem": problem, "point": k} for k in _spread(problem.n)],
}
"""By law of :data:`REMEMBERED` and :data:`COUPLED`: arguments that may show it on a problem."""


_OF_EACH, _OF_ALL = ("problem", "cotangent", "start", "other"), ("weights", "shift", "order")
"""Arguments of laws that hold a part for each data point, and those that are the same for all of them; "point" is the
place of the one that a law is about."""


def _of_point(name: str, value: Any, k: int) -> Any:
    """An argument of a law for data point k alone, which is the first one then."""
    if name == "problem":
        return value.chosen([k])
    if name == "point":
        return 0
    # Another problem is what is asked in between, and no part of the question.
    return value if name in _OF_ALL or isinstance(value, Problem) else value[[k]]


def _some(questions: Sequence[Question]) -> list[Question]:
    """A few of them, spread: a training run asks sixty times much the same."""
    pulled = [q for q in questions if q.cotangent is not None] or list(questions)
    also = [q for q in questions if q.layer is not None or q.start is not None]
    chosen = [*also, *pulled]
    places = np.unique(np.linspace(0, len(chosen) - 1, QUESTIONS).astype(int)) if chosen else ()
    return [chosen[k] for k in places]


def _alone(
    law: Law, earlier: Sequence[Law], suspected: Sequence[Law], subject: Subject, judged: Fresh, effort: Effort
) -> Failure | None:
    """A failure of ``law`` where everything that it rests on holds, the smallest that a few seconds find. Those laws
    that were ``suspected`` have to be able to tell: a bound that allows everything clears nobody."""

    def clear(question: Question, excess: float) -> bool:
        weights = {premise.id: _weigh_repeatedly(premise, judged, question) for premise in earlier}
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
    # What a verdict is called does not depend on how much of its target's time is left.
    few = replace(
        effort, examples=EXAMPLES, seconds=seconds, allotted=None, example_seconds=one, database=None, push=False
    )
    found = run_trial(body, law.drawn(subject), subject, few, law.judges_crashes)
    return found.failure if found.failure and found.failure.kind == "wrong" else None
