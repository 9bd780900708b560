"""What a green run means, measured: ``python -m tools.power measure [SEEDS]`` plants errors in a correct implementation
and looks for the smallest and the rarest that each law finds in the default profile; ``python -m tools.power write``
writes ``docs/power.md`` and its picture anew from what was measured, ``docs/power.json``.

The implementation is the reference in NumPy on the linear-softmax cell in float64, claiming to be exact or to keep
1e-6. Measured are the laws that see such an error at all: one that compares an implementation with itself does not. A
law sees the problems that it would draw for it in a run with that seed, so many as are float64's share.
**Size**: one quantity is off by a relative size on the problems near a γ and nowhere else; the smallest size at which
the law is violated is bisected, seed by seed. **Rarity**: the quantity is off by its own size on a share of a regime's
problems, chosen at random; where N different problems of the regime are drawn on which the law sees that, a share f is
found with probability 1 − (1 − f)^N, which is averaged over the seeds.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from deqverify.benchmarking.results import machine
from deqverify.claims import DIRECT, Accuracy
from deqverify.implementations.protocol import Cotangents, Pull, Solution
from deqverify.implementations.subject import Subject
from deqverify.problem import SoftmaxProblem
from deqverify.reference.numpy_direct import NumpyDirect
from deqverify.registry import laws
from deqverify.running.files import write_whole
from deqverify.running.plan import make_jobs
from deqverify.running.profiles import profile
from deqverify.trial import look_at, replay

FOLDER = Path(__file__).parent.parent / "docs"
MEASURED, PAGE, PICTURE = FOLDER / "power.json", FOLDER / "power.md", FOLDER / "power.svg"

QUANTITIES = {"z": "the equilibrium", "dtheta": "the gradient in θ", "dx": "the gradient in x, the adjoint"}
TRIED = 12
"""Examples of its first seed on which a law is tried for each quantity; it measures those that it sees on half."""

CLAIMS = {"exact": DIRECT, "1e-6": Accuracy(1e-6)}
RATES = (0.5, 0.9, 0.99)
NEAR = 1.5
"""A problem is near a rate where its 1 − γ is within this factor: the three do not overlap."""

SMALLEST, LARGEST = 1e-17, 1.0
"""Sizes between which is bisected; 1e-17 is less than rounding, 1 is an error as large as the quantity."""
HALVINGS = 7
"""17 decades, halved so often: to a factor of 1.4."""

REGIMES: dict[str, Callable[[SoftmaxProblem], bool]] = {
    "every problem": lambda problem: True,
    "γ ≥ 0.99": lambda problem: problem.gamma >= 0.99,
    "one state": lambda problem: problem.m == 1,
    "one data point": lambda problem: problem.n == 1,
    "features above 1e6 or below 1e-6": lambda problem: not 1e-6 < float(np.abs(problem.x).max(initial=1e-300)) < 1e6,
}

Arguments = dict[str, Any]


class Planted(NumpyDirect):
    """The reference in NumPy, but ``quantity`` is off by ``size`` times itself on every problem that it is asked."""

    def __init__(self, quantity: str, size: float, accuracy: Accuracy = DIRECT):
        if quantity not in QUANTITIES:
            raise ValueError(f"quantity: {quantity!r} is not one of {', '.join(QUANTITIES)}")
        self.factors = {name: 1.0 + size * (name == quantity) for name in QUANTITIES}
        only = ("linear-softmax",)
        self.claims = replace(NumpyDirect.claims, forward=accuracy, backward=accuracy, cells=only)

    def vjp(self, cell: Any, theta: Any, x: Any, z0: Any = None) -> tuple[Solution, Pull]:
        solution, pull = super().vjp(cell, theta, x, z0)

        def wrong(cotangent: Any) -> Cotangents:
            found = pull(cotangent)
            moved = {name: value * self.factors["dtheta"] for name, value in found.theta.items()}
            return replace(found, theta=moved, x=found.x * self.factors["dx"])

        return replace(solution, z=solution.z * self.factors["z"]), wrong


def examples_of(law_id: str) -> int:
    """How many examples the law has in float64 in the default profile, of a target that claims float32 too."""
    (job,) = (
        job
        for job in make_jobs(["reference[numpy]"], [law_id], profile("default"), database=None)
        if job.dtype == "float64"
    )
    return max(1, -(-job.examples // laws()[law_id].cost))


def drawn(law_id: str, seed: int) -> list[Arguments]:
    """What the law draws with this seed on the linear-softmax cell, each problem once; large ones left out."""
    found: dict[str, Arguments] = {}
    subject = Subject(Planted("z", 0.0), "float64")
    own = zlib.crc32(f"{seed} {law_id} float64".encode())
    look_at(laws()[law_id].drawn(subject), lambda each: found.update({repr(each): each}), examples_of(law_id), own)
    return list(found.values())


def seen(law_id: str, quantity: str, size: float, claim: str, arguments: Arguments) -> bool:
    """Whether the law finds the quantity off by ``size`` on this example."""
    subject = Subject(Planted(quantity, size, CLAIMS[claim]), "float64")
    return replay(laws()[law_id].body, subject, arguments).failure is not None


def measurable(law_id: str) -> bool:
    """Whether the law can be asked of what is planted, on problems of its cell."""
    if laws()[law_id].missing(Subject(Planted("z", 0.0), "float64")):
        return False
    return all(isinstance(each.get("problem"), SoftmaxProblem) for each in drawn(law_id, 0)[:TRIED])


def sees(law_id: str, examples: Sequence[Arguments]) -> list[str]:
    """The quantities that a law measures: off by their own size, they are seen on half of these examples; the one that
    is seen on most comes first."""
    counts = {name: sum(seen(law_id, name, LARGEST, "exact", each) for each in examples) for name in QUANTITIES}
    return sorted((name for name in counts if 2 * counts[name] >= len(examples)), key=lambda name: -counts[name])


def near(problem: SoftmaxProblem, rate: float) -> bool:
    return 1.0 / NEAR <= (1.0 - problem.gamma) / (1.0 - rate) <= NEAR


def smallest(found: Callable[[float], bool]) -> float:
    """The smallest size that is ``found``, bisected on a logarithmic scale and rounded up; infinity where none is."""
    if not found(LARGEST):
        return math.inf
    low, high = math.log10(SMALLEST), math.log10(LARGEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if found(10.0**middle) else (middle, high)
    return 10.0**high


@dataclass(frozen=True)
class Size:
    """The smallest relative errors of one quantity near a rate that a law finds, a number a seed; infinity where the
    law found none, for lack of such problems (``without``, so many seeds) or for a wide bound."""

    law: str
    quantity: str
    claim: str
    rate: float
    smallest: tuple[float, ...]
    without: int

    def at(self, share: float) -> float:
        """The size that is found with this probability where such a problem is drawn; infinity where none was."""
        able = sorted(self.smallest)[: len(self.smallest) - self.without]  # infinities last
        return able[math.ceil(share * len(able)) - 1] if able else math.inf


@dataclass(frozen=True)
class Rarity:
    """Of one law and regime, for each seed the number of different problems drawn on which the law finds the quantity
    that it sees best off by its own size; ``share`` of all that were drawn lie in the regime."""

    law: str
    regime: str
    share: float
    telling: tuple[int, ...]

    def probability(self, frequency: float) -> float:
        """That a defect on this share of the regime's problems is found."""
        return float(np.mean([1.0 - (1.0 - frequency) ** count for count in self.telling]))

    def at(self, probability: float) -> float:
        """The smallest frequency that is found with ``probability``; infinity where none is."""
        if self.probability(1.0) < probability:
            return math.inf
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if self.probability(middle) >= probability else (middle, high)
        return high


def measured(law_ids: Sequence[str], seeds: Sequence[int]) -> Iterator[Size | Rarity]:
    """Both measurements of each law, as they arrive."""
    for law_id in law_ids:
        quantities = sees(law_id, drawn(law_id, seeds[0])[:TRIED])
        if not quantities:
            continue
        draws = [drawn(law_id, seed) for seed in seeds]
        telling = [[seen(law_id, quantities[0], LARGEST, "exact", each) for each in some] for some in draws]
        for regime, inside in REGIMES.items():
            counts = [
                sum(told and inside(each["problem"]) for each, told in zip(*pair, strict=True))
                for pair in zip(draws, telling, strict=True)
            ]
            where = [inside(each["problem"]) for some in draws for each in some]
            yield Rarity(law_id, regime, float(np.mean(where)), tuple(counts))
        for quantity, claim, rate in product(quantities, CLAIMS, RATES):
            some = [[each for each in found if near(each["problem"], rate)] for found in draws]
            sizes = [smallest_of(law_id, quantity, claim, few) for few in some]
            yield Size(law_id, quantity, claim, rate, tuple(sizes), sum(not few for few in some))


def smallest_of(law_id: str, quantity: str, claim: str, some: Sequence[Arguments]) -> float:
    """The smallest size that is found on one of these examples."""
    return smallest(lambda size: any(seen(law_id, quantity, size, claim, each) for each in some))


def measure(law_ids: Sequence[str], seeds: Sequence[int], file: Path = MEASURED) -> None:
    """Measures and writes down what was found, with the machine and the day."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    begun, sizes, rarities = time.process_time(), list[dict[str, Any]](), list[dict[str, Any]]()
    document: dict[str, Any] = {
        "day": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": {name: value for name, value in machine().items() if name in ("processor", "cores", "system")},
        "examples": {},
        "seeds": len(seeds),
    }
    for found in measured(law_ids, seeds):
        row = asdict(found)
        if found.law not in document["examples"]:
            document["examples"][found.law] = examples_of(found.law)
        if isinstance(found, Size):
            row["smallest"] = [size if math.isfinite(size) else None for size in found.smallest]  # JSON has no infinity
        (sizes if isinstance(found, Size) else rarities).append(row)
        print(found, flush=True)
        document |= {"processor seconds": round(time.process_time() - begun, 1), "sizes": sizes, "rarities": rarities}
        write_whole(file, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def read(file: Path = MEASURED) -> tuple[dict[str, Any], list[Size], list[Rarity]]:
    """What :func:`measure` wrote."""
    document = json.loads(file.read_text(encoding="utf-8"))
    sizes = [
        Size(**each | {"smallest": tuple(math.inf if size is None else size for size in each["smallest"])})
        for each in document["sizes"]
    ]
    rarities = [Rarity(**each | {"telling": tuple(each["telling"])}) for each in document["rarities"]]
    return document, sizes, rarities


def main(words: list[str]) -> int:
    from tools import power_page

    if words[:1] == ["measure"]:
        measure([law_id for law_id in laws() if measurable(law_id)], range(int(words[1]) if len(words) > 1 else 10))
    elif words != ["write"]:
        print(__doc__)
        return 2
    power_page.write()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
