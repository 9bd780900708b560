"""Verification from Python: ``check_deq`` for a report, ``parametrize_with_laws`` for tests of one's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from deqverify.cells import check_cells
from deqverify.implementations.candidates import as_implementation
from deqverify.implementations.loading import forget
from deqverify.implementations.subject import Subject
from deqverify.registry import laws as all_laws
from deqverify.running.expectations import apply, marked, stale
from deqverify.running.expectations import read as read_expectations
from deqverify.running.jobs import ask, run_job
from deqverify.running.plan import Report, in_order, in_rounds, make_jobs, select, untried
from deqverify.running.profiles import profile as known_profile
from deqverify.running.results import Result, Verdict
from deqverify.running.snippets import finding_object


def check_deq(
    deq: Any,
    *,
    profile: str = "quick",
    laws: Sequence[str] = (),
    cells: Sequence[str] = (),
    dtype: str | None = None,
    device: str = "cpu",
    seed: int | None = None,
    expect: str | Path | None = None,
    progress: bool = True,
) -> Report:
    """Verifies ``deq`` in this process and returns the report: ``report.ok``, ``report.results``, ``print(report)``.

    ``deq`` is a layer or a model (:mod:`deqverify.implementations.protocol`), a function ``solve(step, z0) -> z`` on
    PyTorch tensors, or the name of a target. ``laws`` are ids or families, all by default; ``cells`` the
    names of those to judge on, by default all that are claimed; ``expect`` is a TOML file
    of known violations. Raises TypeError for what is not a DEQ, ValueError for a profile, law, dtype or device that
    is not known or not claimed. For a hard limit on hangs in C code use the command line, whose laws run in worker
    processes.
    """
    chosen = known_profile(profile)
    if seed is not None:
        chosen = dataclasses.replace(chosen, seed=seed)
    known = read_expectations(Path(expect)) if expect else []
    law_ids = select(laws)
    check_cells(cells)
    if isinstance(deq, str):
        forget()  # what failed to be imported before may have been mended since
        asked = {deq: ask(deq)}
        jobs = make_jobs(
            [deq], law_ids, chosen, [dtype] if dtype else [], device, database=None, asked=asked, only=cells
        )
        if isinstance(reason := asked[deq], str):
            return Report([Result(job, Verdict.COULD_NOT_RUN, reason) for job in jobs], stale(known, all_laws()))
        found = in_rounds(marked(jobs, known), lambda some: map(run_job, some))
        results = [apply(result, known) for result in _shown(found, len(jobs), progress)]
        return Report(in_order(results, jobs), stale(known, all_laws()), untried(jobs, law_ids, asked))
    subject = Subject(
        deq, dtype, device, only=cells
    )  # what is not claimed is the caller's mistake, said before anything runs
    dtypes = [dtype] if dtype else subject.claims.dtypes
    asked = {subject.name: subject.claims}
    jobs = make_jobs([subject.name], law_ids, chosen, dtypes, device, database=None, asked=asked, only=cells)
    jobs = [dataclasses.replace(job, in_hand=True, found=tuple(finding_object(deq))) for job in jobs]
    found = in_rounds(marked(jobs, known), lambda some: (run_job(job, deq) for job in some))
    results = [apply(result, known) for result in _shown(found, len(jobs), progress)]
    return Report(in_order(results, jobs), stale(known, all_laws()), untried(jobs, law_ids, asked))


def _shown(results: Iterable[Result], total: int, progress: bool) -> Iterable[Result]:
    if not progress:
        return results
    from rich.console import Console
    from rich.progress import track

    return track(results, total=total, description="verifying", console=Console(stderr=True), transient=True)


def parametrize_with_laws(
    implementations: Sequence[Any], *, laws: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Parametrises a pytest test over laws and implementations; the test takes ``law`` and ``deq`` and calls
    ``law(deq)``.

    ``laws`` are ids or families, all by default. What an implementation does not claim is skipped, with the reason.
    ValueError for an unknown law, TypeError for what is not a DEQ.
    """
    import pytest

    chosen = [all_laws()[id] for id in select(laws)]
    pairs = [(law, as_implementation(deq)) for deq in implementations for law in chosen]
    return pytest.mark.parametrize(("law", "deq"), pairs, ids=[f"{law.id}-{deq.name}" for law, deq in pairs])
