"""Head against base, fairly: fresh processes in rounds, pairs in turns, and noise measured beside the difference.

Each round starts three processes: base, head, and base again. Benchmarks are asked of the three one after the other, in
rotating order, several times; each answer is the fastest of some calls, in processor time. A round's *effect* is the
median of ``log(head/base)`` over its turns, base being the mean of both copies; its *noise* the median of
``log(base′/base)``, which would be zero on a quiet machine, plus the standard error of the turns. A benchmark is slower
where the median effect over the rounds exceeds the threshold: 15 %, or three times the noise (root mean square over the
rounds) where that is more; and only if all rounds agree on the direction. While the threshold is too high to see a
slowdown by half, or the effect is near it, more rounds follow.

A worker is this file run as ``python -P against.py TREE``, so that nothing of deqverify is imported at its top: the
library is TREE's, the benchmarks are those beside this file, in every worker the same, so that only what is measured
differs. The worker answers requests on stdin, a line each: a JSON object with ``name``, ``budget`` (seconds) and
``slower``, a planted slowdown: each call then takes so many times as long. The answer is the fastest of the calls made
within the budget, in seconds, or ``{"error": …}``. Seconds are the process's own, on the processor: every benchmark
computes in one thread and waits for nothing, and what other processes do to the clock on the wall is not what is asked.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEAST = math.log(1.15)
SEEN = math.log(1.4)
"""A threshold above this could miss a slowdown by half."""

ROUNDS, MOST_ROUNDS, TURNS = 3, 7, 5
_STEADY = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",  # or times are bimodal, by what malloc gives back
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
}


class CompareError(RuntimeError):
    """No comparison: not a checkout, no such commit, or a worker that died."""


@dataclass
class Comparison:
    """The evidence about one benchmark, natural logarithms, one entry a round."""

    name: str
    effects: list[float] = field(default_factory=list)
    noises: list[float] = field(default_factory=list)
    seconds: tuple[float, float] = (math.nan, math.nan)
    error: str = ""

    @property
    def effect(self) -> float:
        return statistics.median(self.effects) if self.effects else 0.0

    @property
    def threshold(self) -> float:
        noise = math.sqrt(statistics.fmean(x * x for x in self.noises)) if self.noises else math.inf
        return max(LEAST, 3 * noise)

    @property
    def slower(self) -> bool:
        return self.effect > self.threshold and min(self.effects) > 0

    @property
    def faster(self) -> bool:
        return -self.effect > self.threshold and max(self.effects) < 0

    @property
    def undecided(self) -> bool:
        """More rounds could change the verdict, or the noise would hide a slowdown by half."""
        near = self.threshold / 2 < abs(self.effect) < 2 * self.threshold
        return not self.error and (self.threshold > SEEN or near)

    @property
    def verdict(self) -> str:
        if self.error:
            return f"not compared: {self.error}"
        if self.slower:
            return "SLOWER"
        if self.threshold > SEEN:
            return "too noisy to tell"
        return "faster" if self.faster else "unchanged"


Call = Callable[[], Any]


def _pass(name: str, which: str, m: int, n: int) -> Callable[[], Call]:
    def prepare() -> Call:
        from deqverify.benchmarking.problems import FixedProblem
        from deqverify.benchmarking.targets import timed_target

        call: Call = getattr(timed_target(name).prepare(FixedProblem(m, n, 0.9).problem(), "float64"), which)
        return call

    return prepare


def _law(id: str, examples: int) -> Callable[[], Call]:
    def prepare() -> Call:
        from deqverify.implementations.loading import load
        from deqverify.implementations.subject import Subject
        from deqverify.registry import laws
        from deqverify.trial import Effort

        subject = Subject(load("reference"))
        return lambda: laws()[id].trial(subject, Effort(examples, seed=0))

    return prepare


def _oracle() -> Call:
    from deqverify.benchmarking.problems import FixedProblem
    from deqverify.oracle import Oracle

    problem: Any = FixedProblem(8, 4, 0.9).problem()
    return lambda: Oracle(problem).equilibrium()


def _bounds() -> Call:
    from deqverify.benchmarking.problems import FixedProblem
    from deqverify.bounds import Budget
    from deqverify.claims import Claims
    from deqverify.theory.closed_form import ClosedForm

    problem: Any = FixedProblem(32, 32, 0.9).problem()
    return lambda: Budget(ClosedForm(problem), Claims(), "float64").bound(lambda e: e.gradient["A"])


NAMED: dict[str, Callable[[], Call]] = {
    "forward reference m=64 n=256": _pass("reference", "forward", 64, 256),
    "gradient reference m=64 n=256": _pass("reference", "gradient", 64, 256),
    "gradient reference[numpy] m=16 n=32": _pass("reference[numpy]", "gradient", 16, 32),
    "step reference[mass] m=64 n=32": _pass("reference[mass]", "step", 64, 32),
    "law mass, 10 examples": _law("mass", 10),
    "law gradient-theta, 5 examples": _law("gradient-theta", 5),
    "oracle m=8 n=4": _oracle,
    "bounds m=32 n=32": _bounds,
}
"""The benchmarks that two commits are compared on: a few hundred microseconds to some milliseconds each. Each is a
function that prepares and returns a call. They use only what the library has had for long (targets, problems, laws, the
oracle, bounds), so that an older base can run them too."""


def compare(
    base: Path,
    head: Path,
    names: tuple[str, ...] = tuple(NAMED),
    planted: Mapping[str, float] | None = None,
    budget: float = 0.03,
    say: Callable[[str], None] = lambda _: None,
) -> list[Comparison]:
    """Compares two trees of the source. ``planted`` slows benchmarks of head by a factor, for tests of this module."""
    found = {name: Comparison(name) for name in names}
    for round_ in range(MOST_ROUNDS):
        left = [c for c in found.values() if not c.error and (round_ < ROUNDS or c.undecided)]
        if not left:
            break
        say(f"round {round_ + 1}: {len(left)} benchmarks")
        with ExitStack() as stack:
            asks = [stack.enter_context(_worker(tree)) for tree in (base, head, base)]
            for comparison in left:
                _one_round(comparison, asks, (planted or {}).get(comparison.name, 1.0), budget)
    return list(found.values())


def exit_code(found: list[Comparison]) -> int:
    """1 where something is slower, 2 where nothing could be compared, 0 otherwise."""
    if any(comparison.slower for comparison in found):
        return 1
    return 0 if any(comparison.effects and comparison.threshold <= SEEN for comparison in found) else 2


def _one_round(comparison: Comparison, asks: list[Callable[..., Any]], slower: float, budget: float) -> None:
    times: list[list[float]] = []
    for turn in range(TURNS + 1):
        answers: list[Any] = [None] * 3
        for place in range(3):
            who = (place + turn) % 3
            answers[who] = asks[who](comparison.name, budget, slower if who == 1 else 1.0)
            if isinstance(answers[who], dict):
                comparison.error = answers[who]["error"]
                return
        if turn:  # the first turn warms up
            times.append(answers)
    effects = [math.log(h) - (math.log(b) + math.log(c)) / 2 for b, h, c in times]
    noises = [math.log(c) - math.log(b) for b, _, c in times]
    scatter = statistics.stdev(effects) / math.sqrt(len(effects))
    comparison.effects.append(statistics.median(effects))
    comparison.noises.append(math.hypot(statistics.median(noises), scatter))
    comparison.seconds = (min(min(b, c) for b, _, c in times), min(h for _, h, _ in times))


@contextmanager
def _worker(tree: Path) -> Iterator[Callable[..., Any]]:
    command = [sys.executable, "-P", __file__, str(tree)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | _STEADY
    ) as process:
        assert process.stdin
        assert process.stdout

        def ask(name: str, budget: float, slower: float) -> Any:
            process.stdin.write(json.dumps({"name": name, "budget": budget, "slower": slower}) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            line = process.stdout.readline()  # type: ignore[union-attr]
            if not line:
                raise CompareError(f"the worker for {tree} ended while it ran {name!r}; its error stands above")
            return json.loads(line)

        try:
            yield ask
        finally:
            process.stdin.close()
            process.wait()


@contextmanager
def checked_out(commit: str, repository: Path) -> Iterator[Path]:
    """``commit`` in a work tree of its own, removed afterwards. CompareError for an unknown commit."""
    with tempfile.TemporaryDirectory(prefix="deqverify-base-") as folder:
        tree = Path(folder) / "tree"
        _git(repository, "worktree", "add", "--detach", "--quiet", str(tree), commit)
        try:
            yield tree
        finally:
            _git(repository, "worktree", "remove", "--force", str(tree))


def repository() -> Path:
    """The checkout that this package is run from; CompareError where it is installed elsewhere."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        raise CompareError(f"--against needs a git checkout of deqverify; {root} is none")
    return root


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise CompareError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _graft(name: str, folder: Path) -> None:
    """Makes ``import name`` find the package in ``folder``, whatever is installed."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no package {name} in {folder}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(importlib.import_module(parent), child, module)


def _fastest(call: Callable[[], Any], budget: float, slower: float) -> float:
    """Seconds of the fastest of at least three calls."""
    best, spent, count = float("inf"), 0.0, 0
    while count < 3 or spent < budget:
        started = time.process_time()
        call()
        ended = time.process_time()
        until = ended + (slower - 1.0) * (ended - started)
        while ended < until:
            ended = time.process_time()
        best, spent, count = min(best, ended - started), spent + ended - started, count + 1
    return best


def _work(tree: Path) -> None:
    """Answers requests until stdin ends."""
    _graft("deqverify", tree / "deqverify")
    if (tree / "properties").is_dir():
        _graft("deqverify.properties", tree / "properties")
    _graft("deqverify.benchmarking", Path(__file__).parent)
    ready: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if asked["name"] not in ready:
                ready[asked["name"]] = NAMED[asked["name"]]()
                ready[asked["name"]]()
            answer: Any = _fastest(ready[asked["name"]], asked["budget"], asked["slower"])
        except Exception as error:  # an older base may lack what a benchmark needs
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _work(Path(sys.argv[1]).resolve())
