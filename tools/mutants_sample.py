"""A random sample of all mutants: ``python -m tools.mutants sample N [SEED]`` tries N of them and prints a table.

The mutants are shuffled by the seed and tried in that order, so that a run which is interrupted after n has tried the
sample of n, and goes on from there when it is called again. mutmut itself would try the fastest first.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from pathlib import Path

from scipy.stats import binomtest


def drawn(names: list[str], seed: int) -> list[str]:
    """All names in the order in which they are tried."""
    shuffled = sorted(names)
    random.Random(seed).shuffle(shuffled)
    return shuffled


def home(path: Path) -> str:
    """The row of a table that ``path``, relative to ``deqverify/``, belongs to: its folder, or the module itself."""
    return path.name if path.parent == Path(".") else f"{path.parent}/"


def results(mutants: Path) -> dict[str, tuple[str, int | None]]:
    """Of every mutant by its name: the row it belongs to, and its exit code (``None`` before it was tried)."""
    found = {}
    for path in sorted(mutants.rglob("*.py.meta")):
        row = home(path.with_suffix("").relative_to(mutants))
        found.update({name: (row, code) for name, code in json.loads(path.read_text())["exit_code_by_key"].items()})
    return found


def interval(killed: int, tried: int) -> str:
    """The share of ``killed`` and its 95 % confidence interval after Clopper and Pearson, in per cent."""
    low, high = binomtest(killed, tried).proportion_ci(0.95, method="exact")
    return f"{killed / tried:.1%} ({low:.1%} to {high:.1%})"


def table(rows: dict[str, Counter[str]], sizes: Counter[str]) -> str:
    """Markdown: of every row how many mutants there are (``sizes``), and those tried by their status.

    A mutant whose tests ran out of time counts as killed, and stands in a column of its own too.
    """
    lines = [
        "| module | mutants | tried | killed | by timeout | no test | survived | killed, 95 % interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    sizes = sizes + Counter(all=sizes.total())
    for name, counts in [*sorted(rows.items()), ("all", sum(rows.values(), Counter()))]:
        tried, timeouts, unreached = counts.total(), counts["timeout"], counts["no tests"]
        killed = counts["killed"] + timeouts
        numbers = (sizes[name], tried, killed, timeouts, unreached, tried - killed - unreached)
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} | {interval(killed, tried)} |")
    return "\n".join(lines)


def report(found: dict[str, tuple[str, int | None]], sample: list[str]) -> str:
    """The table of what has been tried of ``sample``, and what of it was not killed."""
    from mutmut.stats import status_by_exit_code

    rows: dict[str, Counter[str]] = defaultdict(Counter)
    alive = []
    for name in sample:
        row, code = found[name]
        if code is None:
            continue
        status = status_by_exit_code[code]
        rows[row][status] += 1
        if status != "killed":
            alive.append(f"{name}: {status}")
    return "\n".join([table(rows, Counter(row for row, _ in found.values())), "", *alive])


def run(copy: Path, number: int, seed: int, changed: bool) -> int:
    """Tries the first ``number`` mutants in the seed's order that have no result yet, and prints the table of all."""
    os.chdir(copy)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(copy / ".hypothesis")
    from mutmut import __main__ as mutmut
    from mutmut.workers.isolation import ForkRunner

    mutants = copy / "mutants" / "deqverify"
    if changed:
        # Which tests reach which functions is then asked anew, by running all tests once without a mutant. They pass
        # there or mutmut ends, which makes its second run of all tests, before the mutants, superfluous.
        (copy / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    ForkRunner.run_clean_tests = lambda self, tests: 0
    mutants.mkdir(parents=True, exist_ok=True)
    with mutmut.CatchOutput(spinner_title="Generating mutants"):
        mutmut.copy_src_dir()
        mutmut.copy_also_copy_files()
        mutmut.create_mutants(1)
    found = results(mutants)
    sample = drawn(list(found), seed)[:number]
    todo = [name for name in sample if found[name][1] is None]
    place = {name: i for i, name in enumerate(todo)}
    mutmut.estimated_worst_case_time = place.__getitem__  # what mutmut sorts by
    try:
        if todo:
            mutmut._run(todo, 1)
    finally:
        tried = results(mutants)
        print(report(tried, sample) if any(tried[name][1] is not None for name in sample) else "no mutant was tried")
    return 0
