"""How often the comparison of commits is wrong: ``python -m tools.quiet_against 20``.

So many comparisons of this checkout with itself must raise nothing. Then each named benchmark in turn is slowed
by half in head, and must be caught. Prints the verdicts and exits 1 on any false one.
"""

from __future__ import annotations

import math
import sys
from collections import Counter

from deqverify.benchmarking.against import NAMED, compare, repository


def main(runs: int) -> int:
    tree, names = repository(), tuple(NAMED)
    quiet: Counter[str] = Counter()
    caught: Counter[str] = Counter()
    worst = 0.0
    for run in range(runs):
        for one in compare(tree, tree, names):
            quiet[one.verdict] += 1
            worst = max(worst, one.effect / one.threshold)
        print(f"{run + 1} without a change: {dict(quiet)}, worst effect/threshold {worst:.2f}", flush=True)
    for name in names:
        (one,) = compare(tree, tree, (name,), planted={name: 1.5})
        caught[one.verdict] += 1
        print(
            f"1.5 planted in {name}: {one.verdict}, {math.exp(one.effect):.2f} > {math.exp(one.threshold):.2f}",
            flush=True,
        )
    return int(quiet["SLOWER"] > 0 or caught["SLOWER"] < len(names))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
