"""Reports of results that never ran: many, and with what a hostile target could print."""

from __future__ import annotations

import random

from deqverify.registry import laws
from deqverify.running.plan import Report
from deqverify.running.results import Job, Result, Verdict, Violation
from deqverify.running.sketches import ALLOWED, MEASURED, THEORY, Curve, Sketch

HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> \x1b[31mred\x1b[0m "
    "\x1b]0;title\x07 ]]> \x00\x0b\x9b2J & \"q\" 's' \ud800 \u202e `tick` ```\n~~~ | @someone #1 $x$ {{ 7 * 7 }} "
    "\r\n::error::forged\n</pre></details></svg><!-- --> %0A"
)
"""Markup, escape sequences, the ends of what text may stand in, halves of characters, and commands of a CI."""


def violation(law: str, number: int, said: str = "", characters: int = 0) -> Violation:
    """Of a made-up comparison; ``characters`` make its script longer."""
    line = {"coordinate": "γ", "values": [0.1, 0.5, 0.9, 0.99], "ratios": [0.01, 0.1, 3.0, float("inf")]}
    line |= {"right": 0.5, "wrong": 0.9, "rest": "m = 4, n = 2", "undecided": [0.999], "said": "wrong from γ = 0.9 on"}
    arguments = {"problem": {"problem": "linear-softmax", "A": {"array": [0.0], "shape": [1, 1]}, "gamma": 0.5}}
    arguments["problem"]["loss"] = {"name": "Squared"}
    return Violation(
        "wrong",
        "wrong gradient",
        "Every gradient is built on this.",
        f"|x − y|: measured 4, allowed 0.00801\n    6.6e-14  rounding\n    0.008  claimed accuracy\n{said}",
        f'from deqverify import laws\n\nlaws()["{law}"].replay("x", number={number}){"#" * characters}',
        4.0,
        0.00801,
        {"rounding": 6.6e-14, "claimed accuracy": 0.008},
        where="γ = 0.5, m = 1",
        diagnosis=f"stops early {said}" if number % 2 else "",
        id=f"{number:08x}",
        counterexample={"arguments": arguments},
        boundary=[line],
        boundary_said="wrong from γ = 0.9 on",
        boundary_drawn="γ 0.1 ·▁▂█ 0.99",
    )


def sketch(about: str, target: str, note: str = "") -> Sketch:
    made = Sketch(about, target, "float64", "m = 4, n = 2", note=note)
    second = ALLOWED if about in ("conditioning", "adjoint") else THEORY
    times = [0.0, 1.0, 2.0] if about == "path" else []
    made.curves = [
        Curve(name, role, [(float(k), 10.0**-k * share) for k in (1, 2, 3)], times)
        for name, role, share in ((f"seen {note}", MEASURED, 1.0), ("promised", second, 2.0))
    ]
    made.minimum, made.hessian = [0.0, 0.0], [[2.0, 0.5], [0.5, 1.0]]
    return made


def report(results: int, wrong: float = 0.15, said: str = "", seed: int = 0, pictures: bool = False) -> Report:
    """``results`` of all laws on as many targets as it takes, in two dtypes; ``said`` is what the targets say."""
    draws, made = random.Random(seed), []
    targets = 1 + results // (2 * len(laws()))
    names = [f"library{k}:deq{said}" for k in range(targets)]
    for number in range(results):
        column, law = divmod(number, len(laws()))
        job = Job(list(laws())[law], names[column // 2], ("float64", "float32")[column % 2], "cpu", 50, 20.0, 20.0, 0)
        kind = draws.random()
        if kind < wrong or job.law == "existence":
            found = violation(job.law, number, said, 40_000 if number % 40 == 0 else 0)
            follows = ("existence",) if job.law != "existence" and draws.random() < 0.7 else ()
            made.append(Result(job, Verdict.VIOLATED, "m", 50, 40, violation=found, output=said, follows=follows))
        elif kind < wrong + 0.05:
            made.append(Result(job, Verdict.NOT_CLAIMED, f"it takes no start {said}"))
        elif kind < wrong + 0.06:
            made.append(Result(job, Verdict.COULD_NOT_RUN, f"no module {said}", output=said))
        else:
            made.append(Result(job, Verdict.HOLDS, "", 50, draws.choice([30, 50]), seconds=0.5))
    some = names[:1] if pictures else []
    about = ("conditioning", "adjoint", "trace", "decay", "path")
    sketches = [sketch(each, name, said) for name in some for each in about]
    return Report(made, [f"gone: {said}"] if said else [], [f"cuda {said}"], sketches)
