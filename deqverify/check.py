"""Verification from Python: ``check_deq`` for a report, ``parametrize_with_laws`` for tests of one's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from deqverify.implementations.candidates import as_implementation
from deqverify.implementations.subject import Subject
from deqverify.registry import Law
from deqverify.registry import laws as all_laws
from deqverify.reporting.progress import Following
from deqverify.running import counterexamples
from deqverify.running.events import Event, JobFinished
from deqverify.running.executors import ThisProcess
from deqverify.running.expectations import Expectation, expectations, found_by_itself, meeting
from deqverify.running.plan import Report, select
from deqverify.running.request import Request
from deqverify.running.results import Job, Result, Verdict
from deqverify.running.run import Run

Expect = Mapping[str, Any] | str | Path | None
"""Known violations: a dictionary from a law's id to the reason, or to a table as in a file, or a TOML file. With None
the file is ``deqverify.toml`` in the working folder, if there is one."""


class VerificationError(AssertionError):
    """Something is wrong with an implementation, or could not be tried; ``report`` is the whole of it."""

    def __init__(self, report: Report):
        super().__init__(str(report))
        self.report = report


class VerificationWarning(UserWarning):
    """One thing that is wrong with an implementation, or could not be tried."""


def check_deq(
    deq: Any,
    *,
    profile: str = "quick",
    laws: Sequence[str] = (),
    cells: Sequence[str] = (),
    dtype: str | None = None,
    device: str = "cpu",
    seed: int | None = None,
    expect: Expect = None,
    on_fail: Literal["raise", "warn"] | None = None,
    callback: Callable[[Result], None] | None = None,
    progress: bool = True,
) -> Report:
    """Verifies ``deq`` in this process and returns the report: ``report.ok``, ``report.results``, ``print(report)``.

    ``deq`` is a layer or a model (:mod:`deqverify.implementations.protocol`), a function ``solve(step, z0) -> z`` on
    PyTorch tensors, or the name of a target. ``laws`` are ids or families, all by default; ``cells`` the
    names of those to judge on, by default all that are claimed; ``expect`` are known violations, a dictionary as
    ``{"gradient-x": "the phantom gradient"}`` or a TOML file, by default ``deqverify.toml`` where that is here.
    ``callback`` is called with each result as it arrives; what follows from another is settled in the report only.
    ``on_fail`` says what is done at the end where the report is not ok: "raise" a :class:`VerificationError`,
    "warn" (:class:`VerificationWarning`) of each cause, or nothing.

    Raises TypeError for what is not a DEQ, ValueError for a profile, law, dtype or device that is not known or not
    claimed, and for expectations that cannot be read. For a hard limit on hangs in C code use the command line, whose
    laws run in worker processes.
    """
    if on_fail not in (None, "raise", "warn"):
        raise ValueError(f'on_fail: is "raise" or "warn" or None, got {on_fail!r}')
    if isinstance(deq, str):
        name, executor = deq, ThisProcess()
    else:  # what is not claimed is the caller's mistake, said before anything runs
        subject = Subject(deq, dtype, device, only=cells)
        name, executor = subject.name, ThisProcess(deq, subject.claims)
    request = Request(
        [name],
        laws,
        cells,
        [dtype] if dtype else (),
        device,
        profile,
        seed=seed,
        expectations=expectations(expect, [name]),
        database=None,
        counterexamples=None,
        in_hand=not isinstance(deq, str),
    )

    def tell(event: Event) -> None:
        if callback and isinstance(event, JobFinished):
            callback(event.result)

    console = Console(stderr=True, quiet=not progress)
    if expect is None and (path := found_by_itself()):
        console.print(f"expected violations: {len(request.expectations)} in {path}, found here", highlight=False)
    with Following(console) as following:
        report = Run(request, executor, [following, tell]).report()
    if on_fail == "raise" and not report.ok:
        raise VerificationError(report)
    for said in _faults(report) if on_fail == "warn" else ():
        warnings.warn(said, VerificationWarning, stacklevel=2)
    return report


def _faults(report: Report) -> list[str]:
    """A sentence for each thing that keeps ``report`` from being ok."""
    found = [
        f"{cause.target}: {violation.diagnosis or violation.anomaly} ({cause.law})\n{violation.description}"
        for cause in report.causes
        if not cause.expected and (violation := cause.first.violation)
    ]
    could_not = dict.fromkeys(result.reason for result in report.of(Verdict.COULD_NOT_RUN))
    return [*found, *report.stale, *(f"could not run: {reason}" for reason in could_not)]


def parametrize_with_laws(
    implementations: Sequence[Any], *, laws: Sequence[str] = (), expect: Expect = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Parametrises a pytest test over laws and implementations; the test takes ``law`` and ``deq`` and calls
    ``law(deq)``.

    ``laws`` are ids or families, all by default. What an implementation does not claim is skipped, with the reason.
    Violations that ``expect`` names, as in :func:`check_deq`, are marked xfail with their reason; a pinned one tries
    its counterexample alone, and fails where that passes. ValueError for an unknown law or expectations that cannot be
    read, TypeError for what is not a DEQ.
    """
    import pytest

    chosen = [all_laws()[id] for id in select(laws)]
    made = [as_implementation(deq) for deq in implementations]
    known = expectations(expect, [deq.name for deq in made])

    def case(law: Law, deq: Any) -> Any:
        job = Job(law.id, deq.name, deq.claims.dtypes[0], "cpu", 0, 0.0, 0.0)
        met = meeting(job, known)
        pinned = [expected for expected in met if expected.counterexample]
        marks = [pytest.mark.xfail(reason=met[0].said, raises=AssertionError, strict=bool(pinned))] if met else []
        return pytest.param(PinnedLaw(law, pinned) if pinned else law, deq, marks=marks, id=f"{law.id}-{deq.name}")

    return pytest.mark.parametrize(("law", "deq"), [case(law, deq) for deq in made for law in chosen])


class PinnedLaw:
    """A law that is asked on pinned counterexamples alone: AssertionError where each violates it."""

    def __init__(self, law: Law, pinned: Sequence[Expectation]):
        self.id, self._law, self._pinned = law.id, law, pinned

    def __call__(self, deq: Any) -> None:
        failing = None
        for expected in self._pinned:
            known = counterexamples.read(Path(expected.counterexample))
            try:
                self._law.replay(deq, known.dtype, known.device, **known.arguments)
            except AssertionError as error:
                failing = error
            else:
                return  # it passes, which strict xfail calls an error
        if failing:
            raise failing
