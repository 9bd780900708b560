"""Verification from Python: ``check_deq`` for a report, ``parametrize_with_laws`` for tests of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from deqverify.implementations.candidates import as_implementation
from deqverify.implementations.subject import Subject
from deqverify.law import laws as all_laws
from deqverify.reporting.progress import Following
from deqverify.running.executors import ThisProcess
from deqverify.running.expectations import read as read_expectations
from deqverify.running.plan import Report, select
from deqverify.running.request import Request
from deqverify.running.run import Run


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
        expectations=read_expectations(Path(expect)) if expect else (),
        database=None,
        counterexamples=None,
        in_hand=not isinstance(deq, str),
    )
    with Following(Console(stderr=True, quiet=not progress)) as following:
        return Run(request, executor, [following]).report()


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
