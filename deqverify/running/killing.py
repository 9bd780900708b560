"""What kills each fault: a run for every one of them, on the laws in the order of any run, and what is kept of it.

Each fault is run by a worker process of its own, several faults at a time, so that the seconds to the first kill are
those of a run with one worker on one core. What was run is kept, a file for each fault in a folder that belongs to the
profile, the laws, the mode and the sources of the suite: the same command goes on where it was killed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue

from deqverify.faults import Fault, faults
from deqverify.names import near
from deqverify.running import counterexamples
from deqverify.running.events import Event, JobFinished, JobPaused, JobStarted, ViolationFound
from deqverify.running.executors import Executor
from deqverify.running.files import write_whole
from deqverify.running.installed import fingerprint
from deqverify.running.plan import Report, make_jobs
from deqverify.running.profiles import Profile
from deqverify.running.request import Request
from deqverify.running.results import Result, Verdict
from deqverify.running.run import Run
from deqverify.running.workers import Workers

KILLS = (Verdict.VIOLATED.value, Verdict.FOLLOWS.value)
"""Verdicts of a law that kill."""

WORST = (Verdict.VIOLATED, Verdict.FOLLOWS, Verdict.COULD_NOT_RUN, Verdict.INCONCLUSIVE, Verdict.HOLDS)
"""Of the dtypes of a law the worst verdict counts, in this order; what is not claimed comes last."""


@dataclass(frozen=True)
class First:
    """The first violation of a fault: by which law and dtype, after how many examples of all laws and how many of the
    processor's seconds, the target loaded; after how many it was also shrunk and weighed; and the id of its
    counterexample ("" where it has none)."""

    law: str
    dtype: str
    examples: int
    seconds: float
    reported: float
    id: str = ""


@dataclass(frozen=True)
class Seen:
    """The worst verdict of one law on a fault, the law that it follows from, its counterexample's id and its words."""

    verdict: str
    cause: str = ""
    id: str = ""
    said: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a fault: its first kill, None for a survivor; the causes that the report names, each with its
    words and what follows; by law what was seen; and why something could not run, "" as a rule."""

    fault: str
    first: First | None
    causes: tuple[tuple[str, str, tuple[str, ...]], ...]
    seen: dict[str, Seen]
    seconds: float
    error: str = ""

    @property
    def killers(self) -> list[str]:
        """The laws that are violated, those included that follow."""
        return [law for law, seen in self.seen.items() if seen.verdict in KILLS]

    @property
    def cause(self) -> str:
        """The law that the report names as the cause; several where it names several."""
        return ", ".join(law for law, _, _ in self.causes)

    def right(self, fault: Fault) -> bool:
        """Whether the report names one cause, and the true one."""
        return self.cause == fault.cause

    def document(self) -> str:
        """As JSON; :meth:`read` reads it."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def read(cls, text: str) -> Outcome:
        """ValueError, TypeError or KeyError for what :meth:`document` did not write."""
        kept = json.loads(text)
        causes = tuple((law, said, tuple(followers)) for law, said, followers in kept["causes"])
        seen = {law: Seen(**each) for law, each in kept["seen"].items()}
        first = First(**kept["first"]) if kept["first"] else None
        return cls(**kept | {"causes": causes, "seen": seen, "first": first})


class _ToFirst:
    """The handler that counts examples and seconds until the first violation. A process that was killed cannot say how
    long it worked: then the clock on the wall does."""

    def __init__(self) -> None:
        self.first: First | None = None
        self.seconds = 0.0
        self._examples, self._begun = 0, time.monotonic()
        self._over: set[tuple[str, str]] = set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobStarted):
            self._begun = time.monotonic()
        elif isinstance(event, JobPaused) and event.result:
            self._add(event.result)
        elif isinstance(event, ViolationFound) and self.first is None:
            result = event.result
            count = self._examples + max(1, result.failed_at)
            id = result.violation.id if result.violation else ""
            took = self._took(result)
            times = self.seconds + (result.failed_after or took), self.seconds + took
            self.first = First(result.job.law, result.job.dtype or "", count, *times, id)
        elif isinstance(event, JobFinished) and event.result.job.key not in self._over:
            self._over.add(event.result.job.key)
            self._add(event.result)

    def _add(self, result: Result) -> None:
        self._examples += result.examples
        self.seconds += self._took(result)

    def _took(self, result: Result) -> float:
        return result.busy or time.monotonic() - self._begun


def outcome(fault: str, request: Request, executor: Executor) -> Outcome:
    """What becomes of the fault called ``fault``, the one target of ``request``."""
    to_first = _ToFirst()
    report = Run(request, executor, [to_first]).report()
    causes = tuple(
        (cause.law, _said(cause.first), tuple(cause.followers)) for cause in report.causes if not cause.expected
    )
    errors = [result.reason for result in report.of(Verdict.COULD_NOT_RUN)]
    return Outcome(fault, to_first.first, causes, _by_law(report), to_first.seconds, errors[0] if errors else "")


def _by_law(report: Report) -> dict[str, Seen]:
    found: dict[str, Result] = {}
    for result in report.results:
        known = found.get(result.job.law)
        if known is None or _badness(result) < _badness(known):
            found[result.job.law] = result
    return {
        law: Seen(r.verdict.value, r.cause, r.violation.id if r.violation else "", _said(r))
        for law, r in found.items()
    }  # fmt: skip


def _badness(result: Result) -> int:
    return WORST.index(result.verdict) if result.verdict in WORST else len(WORST)


def _said(result: Result) -> str:
    violation = result.violation
    if violation is None:
        return ""
    return ", ".join(part for part in (violation.diagnosis or violation.anomaly, violation.boundary_said) if part)


@dataclass(frozen=True)
class Campaign:
    """Faults, by name, tried on the laws ``law_ids`` as hard as ``profile`` says, which has a seed. ``every``: by every
    law, for the whole matrix; else each until its first violation. ``folder`` is where what was run is kept."""

    names: tuple[str, ...]
    law_ids: tuple[str, ...]
    profile: Profile
    folder: Path
    every: bool = False
    counterexamples: Path = field(default=counterexamples.FOLDER)

    def request(self, name: str) -> Request:
        """The run of one fault."""
        return Request(
            [faults()[name].target],
            self.law_ids,
            profile=self.profile,
            database=None,
            counterexamples=self.counterexamples,
            fail_fast=not self.every,
        )

    @property
    def place(self) -> Path:
        """The folder of what is comparable: the same profile, laws and mode, and the same sources of the suite."""
        asked = repr((self.law_ids, self.profile, self.every, fingerprint()))
        return self.folder / hashlib.sha256(asked.encode()).hexdigest()[:12]

    def kept(self) -> dict[str, Outcome]:
        """What stands there of these faults; what cannot be read is run again."""
        place, found = self.place, {}
        for name in self.names:
            try:
                found[name] = Outcome.read((place / f"{name}.json").read_text(encoding="utf-8"))
            except (OSError, ValueError, TypeError, KeyError):
                continue
        return found

    def run(
        self, names: Sequence[str], workers: int, begun: Callable[[str], None] = lambda name: None
    ) -> Generator[Outcome, None, None]:
        """Outcomes of the faults called ``names``, as they end, each kept before it is yielded, unless something could
        not run: that is tried again. ``begun`` is called, in any thread, with each that begins."""
        place, count = self.place, min(workers, len(names))
        if not names:
            return
        lanes: SimpleQueue[Workers] = SimpleQueue()

        cold = set[Workers]()

        def one(name: str) -> Outcome:
            lane = lanes.get()
            try:
                if lane in cold:
                    cold.discard(lane)
                    _warm(lane)
                begun(name)
                return outcome(name, self.request(name), lane)
            finally:
                lanes.put(lane)

        with ExitStack() as stack:
            threads = ThreadPoolExecutor(count)
            stack.callback(threads.shutdown, wait=True, cancel_futures=True)
            for _ in range(count):  # ended before the threads are waited for, which then have nothing to wait for
                lane = stack.enter_context(Workers(self.profile.hard_seconds, 1))
                cold.add(lane)
                lanes.put(lane)
            for future in as_completed([threads.submit(one, name) for name in names]):
                found = future.result()
                if not found.error:
                    write_whole(place / f"{found.fault}.json", found.document())
                yield found


def _warm(executor: Executor) -> None:
    """Has ``executor`` import what every job needs: no fault is to blame for that."""
    brief = dataclasses.replace(Profile("warm", 5, 5.0), seed=0)
    jobs = make_jobs(["reference"], ["existence"], brief, ["float64"], database=None)
    list(executor.run(jobs))


def chosen(names: Sequence[str] = (), defects: Sequence[str] = (), part: tuple[int, int] = (1, 1)) -> tuple[str, ...]:
    """Names of faults: those asked for, or all; of the classes of ``defects``, or all; of these the ``part`` (k, n),
    each n-th from the k-th. ``fault[masked]`` and ``masked`` are one name. ValueError, with near matches, for one that
    is not known."""
    known = faults()
    names = [name.removeprefix("fault[").removesuffix("]") for name in names]
    for name in names:
        if name not in known:
            raise ValueError(f"fault: there is no fault {name!r}; did you mean {', '.join(near(name, known))}?")
    classes = {each.defect for each in known.values()}
    for defect in defects:
        if defect not in classes:
            raise ValueError(f"defect: {defect!r} is not one of {', '.join(sorted(classes))}")
    few = [n for n, each in known.items() if (not names or n in names) and (not defects or each.defect in defects)]
    if not few:
        raise ValueError("faults: none is of these names and classes of defects")
    number, parts = part
    return tuple(few[number - 1 :: parts])
