"""Known violations, each with its law, its target and the reason why it is expected."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from deqverify.implementations.loading import TargetError, installed, parse
from deqverify.running.results import Job, Result, Verdict


class ExpectationError(ValueError):
    """A file of expectations that cannot be read; the message names the entry and the fix."""


@dataclass(frozen=True)
class Expectation:
    """``law`` is expected to be violated by ``target``."""

    law: str
    target: str
    reason: str


def read(path: Path) -> list[Expectation]:
    """The ``[[expect]]`` tables of a TOML file: ``law`` (an id or a list of ids), ``target`` (likewise) and ``reason``.

    ExpectationError for anything else.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExpectationError(f"expect: cannot read {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ExpectationError(f"expect: {path} is not TOML: {error}") from error
    found = []
    for number, entry in enumerate(document.get("expect", []), start=1):
        if not isinstance(entry, dict) or set(entry) != {"law", "target", "reason"} or not str(entry["reason"]).strip():
            raise ExpectationError(f"expect: entry {number} of {path} needs exactly law, target and a reason")
        for law in _listed(entry["law"]):
            for target in _listed(entry["target"]):
                found.append(Expectation(law, target, str(entry["reason"])))
    return found


def _listed(value: object) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def stale(expectations: Collection[Expectation], known_laws: Collection[str]) -> list[str]:
    """A sentence for each expectation whose law or target does not exist. (One that was not met this time is not
    stale.)"""
    sentences = []
    for expected in expectations:
        if expected.law not in known_laws:
            sentences.append(f"there is no law {expected.law!r} (expected for {expected.target})")
        try:
            name = parse(expected.target).name
        except TargetError as error:
            sentences.append(str(error))
            continue
        if ":" not in name and name not in installed():
            sentences.append(f"there is no target {expected.target!r} (expected to violate {expected.law})")
    return sentences


def meets(job: Job, expectations: Collection[Expectation]) -> Expectation | None:
    """The expectation that a violation by ``job`` would meet."""
    return next((e for e in expectations if (e.law, e.target) == (job.law, job.target)), None)


def marked(jobs: Iterable[Job], expectations: Collection[Expectation]) -> list[Job]:
    """``jobs``, those whose violation is expected marked so: no time is spent on one that is known."""
    return [replace(job, expected=meets(job, expectations) is not None) for job in jobs]


def apply(result: Result, expectations: Collection[Expectation]) -> Result:
    """``result`` with a violation that is expected marked so, its reason beside it."""
    if result.verdict is not Verdict.VIOLATED:
        return result
    met = meets(result.job, expectations)
    return replace(result, verdict=Verdict.EXPECTED, reason=met.reason) if met else result
