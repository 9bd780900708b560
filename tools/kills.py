"""Kills runs and soaks at random moments: ``python -m tools.kills [KILLS [SEED]]`` starts the same run again and again,
each time to go on with what the one before left, ends it with SIGKILL at a random moment, and looks at what is there:
every verdict that stood stands, each once, and a last one, left alone, reports what a run that nobody killed reports.
Then a soak likewise: what was counted stays counted, and every round once. Half of the kills each; AssertionError where
that is not so. Each is a process of its own, forked, since importing would take most of its life."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deqverify.running.executors import ThisProcess
from deqverify.running.journal import journal, name_of, read
from deqverify.running.plan import Report
from deqverify.running.request import Request
from deqverify.running.results import Result
from deqverify.running.run import Run
from deqverify.running.soak import Soak, entries_of
from deqverify.running.soak_state import State, locked, resume

REQUEST = Request(
    ["reference[numpy]"],
    ["equilibrium", "symmetry", "linear"],
    dtypes=["float64"],
    examples=5,
    seconds=600.0,
    seed=0,
    database=None,
    counterexamples=None,
)
SOAKED = ("permutation", "column-shift")
EXAMPLES = 10
"""Examples of a round: these laws try exactly as many as they are told."""

Seen = dict[tuple[str, str], Any]


def seen(results: list[Result]) -> Seen:
    """What matters of each: verdict, reason and examples."""
    return {r.job.key: (r.verdict, r.reason, r.examples) for r in results}


def run(folder: Path) -> Report:
    with journal(REQUEST, True, folder) as written:
        return Run(REQUEST, ThisProcess(), [written], dict(written.done)).report()


def soak(folder: Path) -> None:
    with locked(folder):
        state, _ = resume(folder, seed=1)
        entries = entries_of(state, list(REQUEST.targets), SOAKED, REQUEST.dtypes)
        for _ in Soak(state, folder, entries, 3600.0, EXAMPLES).results(ThisProcess()):
            pass


def killed(action: Callable[[Path], Any], folder: Path, seconds: float) -> bool:
    """Whether a process that does this had to be killed after ``seconds``; else it had ended by itself."""
    pid = os.fork()
    if pid == 0:
        try:
            action(folder)
            os._exit(0)
        finally:
            os._exit(1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert status == 0, "it failed"
            return False
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def kill_runs(kills: int, chance: random.Random, folder: Path) -> str:
    """Kills so many runs; a sentence of what was seen."""
    run(folder / "warm")  # the first imports more
    begun = time.monotonic()
    whole = seen(run(folder / "whole").results)
    life = time.monotonic() - begun
    done = runs = 0
    while done < kills:
        here = folder / f"run-{runs}"
        runs += 1
        before: Seen = {}
        while done < kills and killed(run, here, chance.uniform(0.0, life)):
            done += 1
            file = here / f"{name_of(REQUEST)}.jsonl"
            now = seen(list(read(file)[0].values())) if file.exists() else {}
            assert before.items() <= now.items() <= whole.items(), (before, now)
            print(f"kill {done}: {len(now)} of {len(whole)} verdicts stand", flush=True)
            before = now
        report = run(here)
        assert seen(report.results) == whole
        assert len(report.results) == len(whole), "a job has two results"
    return f"{kills} kills of {runs} runs: each reported the {len(whole)} verdicts of one that was left alone"


def counted(state: State) -> dict[Any, int]:
    """Rounds by entry, each of which has its examples."""
    rounds = {key: entry.rounds - len(entry.under_way) for key, entry in state.entries.items()}
    for key, entry in state.entries.items():
        assert entry.all.examples == EXAMPLES * rounds[key], (key, entry)
    return rounds


def kill_soaks(kills: int, chance: random.Random, folder: Path, life: float) -> str:
    """The same of a soak, which only a kill ends."""
    before: dict[Any, int] = {}
    for number in range(kills):
        assert killed(soak, folder, chance.uniform(0.0, life))
        now = counted(resume(folder)[0])
        assert all(now[key] >= rounds for key, rounds in before.items()), (before, now)
        before = now
        print(f"kill {number + 1}: {sum(now.values())} rounds are counted", flush=True)
    return f"{kills} kills of one soak: {sum(before.values())} rounds counted, each once, none lost"


def main(kills: int, seed: int) -> int:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        print(kill_runs(kills // 2, chance, Path(name)), flush=True)
        print(kill_soaks(kills - kills // 2, chance, Path(name) / "soak", 20.0), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 50, int(sys.argv[2]) if sys.argv[2:] else 0))
