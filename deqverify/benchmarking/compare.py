"""Head against base, fairly: fresh processes in rounds, pairs in turns, and noise measured beside the difference.

Each round starts three processes: base, head, and base again. Benchmarks are asked of the three one after the other, in
rotating order, several times; each answer is the fastest of some calls, in processor time. A round's *effect* is the
median of ``log(head/base)`` over its turns, base being the mean of both copies; its *noise* the median of
``log(base′/base)``, which would be zero on a quiet machine, plus the standard error of the turns. A benchmark is slower
where the median effect over the rounds exceeds the threshold: 15 %, or three times the noise (root mean square over the
rounds) where that is more; and only if all rounds agree on the direction. While the threshold is too high to see a
slowdown by half, or the effect is near it, more rounds follow.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deqverify.benchmarking.named import NAMED

LEAST = math.log(1.15)
SEEN = math.log(1.4)
"""A threshold above this could miss a slowdown by half."""

ROUNDS, MOST_ROUNDS, TURNS = 3, 7, 5
WORKER = Path(__file__).parent / "worker.py"
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
    command = [sys.executable, "-P", str(WORKER), str(tree)]
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
