"""Known violations: each with its law, its target and the reason why it is expected, and where and as long as it is.

They stand in ``[[expect]]`` tables of a TOML file, ``deqverify.toml`` in the working folder where none is named, or in
a dictionary. One with a pinned counterexample is strict: that example alone is tried, and its passing is an error.
"""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from deqverify.implementations.loading import TargetError, installed, parse
from deqverify.running.counterexamples import CounterexampleError
from deqverify.running.counterexamples import read as read_counterexample
from deqverify.running.results import Job, Result, Verdict

FILE = Path("deqverify.toml")
"""The file in the working folder that is read where no other is named."""

KEYS = ("law", "target", "reason", "link", "versions", "device", "counterexample")


class ExpectationError(ValueError):
    """Expectations that cannot be read; the message names the entry and the fix."""


@dataclass(frozen=True)
class Expectation:
    """``law`` is expected to be violated by ``target``: under all ``versions`` (as "torchdeq<0.2"), on ``device``,
    "cpu" or "cuda", where they are given. ``link`` says where it is reported.

    With a ``counterexample``, a file of data, it stands for the dtype and the device of that example alone.
    """

    law: str
    target: str
    reason: str
    link: str = ""
    versions: tuple[str, ...] = ()
    device: str = ""
    counterexample: str = ""
    dtype: str | None = None

    def meets(self, job: Job) -> bool:
        """Whether a violation by ``job`` is the one that is expected."""
        if (self.law, self.target) != (job.law, job.target) or self.dtype not in (None, job.dtype):
            return False
        return self.device in ("", job.device.partition(":")[0]) and all(map(_installed, self.versions))

    @property
    def said(self) -> str:
        """The reason, and where it is reported."""
        return f"{self.reason} ({self.link})" if self.link else self.reason


def _installed(requirement: str) -> bool:
    """Whether what is installed is as ``requirement`` has it."""
    wanted = Requirement(requirement)
    try:
        found = platform.python_version() if wanted.name.lower() == "python" else version(wanted.name)
    except PackageNotFoundError:
        return False
    return wanted.specifier.contains(found, prereleases=True)


def found_by_itself(folder: Path | None = None) -> Path | None:
    """The file ``deqverify.toml`` of the working folder, or of ``folder``, if there is one."""
    path = FILE if folder is None else folder / FILE
    return path if path.is_file() else None


def read(path: Path) -> list[Expectation]:
    """The ``[[expect]]`` tables of a TOML file; their keys are those of :class:`Expectation` but for ``dtype``, ``law``
    and ``target`` may be lists, and a ``counterexample`` is a file beside this one.

    ExpectationError for anything else.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExpectationError(f"expect: cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExpectationError(f"expect: {path} is not TOML: {error}") from error
    entries = document.get("expect", [])
    if set(document) - {"expect"} or not isinstance(entries, list):
        raise ExpectationError(f"expect: {path} holds tables [[expect]] and nothing else, got {', '.join(document)}")
    return [
        expected
        for number, entry in enumerate(entries, start=1)
        for expected in _entry(entry, f"expect: entry {number} of {path}", path.parent)
    ]


def given(expect: Mapping[str, Any], targets: Sequence[str]) -> list[Expectation]:
    """Expectations from a dictionary: from the id of a law to the reason, or to a table as in a file, whose ``target``
    is each of ``targets`` where none is named."""
    found = []
    for law, value in expect.items():
        table = {"reason": value} if isinstance(value, str) else value
        if isinstance(table, Mapping):
            table = {"law": law, "target": list(targets), **table}
        found += _entry(table, f"expect: {law!r}", Path())
    return found


def expectations(expect: Mapping[str, Any] | str | Path | None, targets: Sequence[str]) -> list[Expectation]:
    """Those of a file or of a dictionary; with None those of ``deqverify.toml`` in the working folder, if there is
    one."""
    if isinstance(expect, Mapping):
        return given(expect, targets)
    path = found_by_itself() if expect is None else Path(expect)
    return read(path) if path else []


def _entry(entry: Any, place: str, folder: Path) -> list[Expectation]:
    if not isinstance(entry, Mapping):
        raise ExpectationError(f"{place} is a {type(entry).__name__}; expected a table with law, target and reason")
    if unknown := [key for key in entry if key not in KEYS]:
        raise ExpectationError(f"{place}: there is no key {unknown[0]!r}; known are {', '.join(KEYS)}")
    if missing := [key for key in ("law", "target", "reason") if not entry.get(key)]:
        raise ExpectationError(f"{place} needs a {missing[0]}")
    laws, targets, versions = (_texts(entry.get(key, []), f"{place}: {key}") for key in ("law", "target", "versions"))
    reason, link, device = (_text(entry.get(key, ""), f"{place}: {key}") for key in ("reason", "link", "device"))
    if not reason.strip():
        raise ExpectationError(f"{place} needs a reason")
    if device not in ("", "cpu", "cuda"):
        raise ExpectationError(f"{place}: device is cpu or cuda, got {device!r}")
    for requirement in versions:
        try:
            Requirement(requirement)
        except InvalidRequirement as error:
            raise ExpectationError(f"{place}: versions are written as torchdeq<0.2, got {requirement!r}") from error
    made = [Expectation(law, target, reason, link, tuple(versions), device) for law in laws for target in targets]
    pinned = _text(entry.get("counterexample", ""), f"{place}: counterexample")
    return [_pinned(each, folder / pinned, place) for each in made] if pinned else made


def _pinned(expected: Expectation, path: Path, place: str) -> Expectation:
    try:
        known = read_counterexample(path)
    except CounterexampleError as error:
        raise ExpectationError(f"{place}: counterexample: {error}") from error
    if known.law != expected.law:
        raise ExpectationError(f"{place}: {path} violates the law {known.law}, not {expected.law}")
    device = known.device.partition(":")[0]
    if expected.device not in ("", device):
        raise ExpectationError(f"{place}: {path} was found on {device}, not on {expected.device}")
    return replace(expected, counterexample=str(path), dtype=known.dtype, device=device)


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str | Path):
        raise ExpectationError(f"{place} is text, got {value!r:.60}")
    return str(value)


def _texts(value: Any, place: str) -> list[str]:
    return [_text(each, place) for each in (value if isinstance(value, list | tuple) else [value])]


def stale(
    expectations: Collection[Expectation], known_laws: Collection[str], in_hand: Collection[str] = ()
) -> list[str]:
    """A sentence for each expectation whose law or target does not exist, ``in_hand`` being the names of objects. (One
    that was not met this time is not stale, unless it is pinned: then its result says so.)"""
    sentences = []
    for expected in expectations:
        if expected.law not in known_laws:
            sentences.append(f"there is no law {expected.law!r} (expected for {expected.target})")
        if expected.target in in_hand:
            continue
        try:
            name = parse(expected.target).name
        except TargetError as error:
            sentences.append(str(error))
            continue
        if ":" not in name and name not in installed():
            sentences.append(f"there is no target {expected.target!r} (expected to violate {expected.law})")
    return sentences


def meeting(job: Job, expectations: Iterable[Expectation]) -> list[Expectation]:
    """The expectations that a violation by ``job`` would meet, those that are pinned first."""
    return sorted((e for e in expectations if e.meets(job)), key=lambda e: not e.counterexample)


def marked(jobs: Iterable[Job], expectations: Collection[Expectation]) -> list[Job]:
    """``jobs``, those whose violation is expected marked so: no time is spent on one that is known. Where it is pinned
    its counterexamples are all that is tried."""
    return [_marked(job, meeting(job, expectations)) for job in jobs]


def _marked(job: Job, met: Sequence[Expectation]) -> Job:
    pinned = tuple(e.counterexample for e in met if e.counterexample)
    return replace(job, expected=bool(met), pinned=pinned or job.pinned, pinned_only=bool(pinned) or job.pinned_only)


def apply(result: Result, expectations: Collection[Expectation]) -> Result:
    """``result`` with a violation that is expected marked so, its reason beside it."""
    if result.verdict is not Verdict.VIOLATED:
        return result
    met = meeting(result.job, expectations)
    return replace(result, verdict=Verdict.EXPECTED, reason=met[0].said) if met else result
