"""Numbers of a campaign against faults: what share is killed, how soon, how rightly explained, and by which laws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deqverify.faults import DEFECTS, SUBTLETY, Fault, faults
from deqverify.running.killing import Outcome


@dataclass(frozen=True)
class Share:
    """Of the faults of one class: how many, how many killed, how many of which the one cause reported is the true one,
    the median and the 95th percentile of the processor's seconds to the first kill, and the median of those until it
    was shrunk and told (NaN where none was killed)."""

    name: str
    faults: int
    killed: int
    right: int
    median: float
    late: float
    told: float


def shares(outcomes: Sequence[Outcome]) -> list[tuple[str, list[Share]]]:
    """All together, by class of defect and by subtlety: groups with a heading."""
    known = faults()
    return [
        ("", [_share("all", outcomes)]),
        ("class of defect", _grouped(outcomes, DEFECTS, lambda fault: fault.defect, known)),
        ("subtlety", _grouped(outcomes, list(SUBTLETY), lambda fault: fault.subtlety, known)),
    ]


def _grouped(
    outcomes: Sequence[Outcome], names: Sequence[str], of: Callable[[Fault], str], known: Mapping[str, Fault]
) -> list[Share]:
    by_name = {name: [each for each in outcomes if of(known[each.fault]) == name] for name in names}
    return [_share(name, some) for name, some in by_name.items() if some]


def _share(name: str, outcomes: Sequence[Outcome]) -> Share:
    times = [each.first.seconds for each in outcomes if each.first]
    median, late = (float(np.percentile(times, q)) for q in (50, 95)) if times else (np.nan, np.nan)
    right = sum(each.right(faults()[each.fault]) for each in outcomes)
    told = float(np.median([each.first.reported for each in outcomes if each.first])) if times else np.nan
    return Share(name, len(outcomes), len(times), right, median, late, told)


@dataclass(frozen=True)
class Worth:
    """What one law does: faults that it kills first, kills at all, kills alone, and is the cause of in the report."""

    law: str
    first: int
    kills: int
    alone: int
    cause: int


def worths(outcomes: Sequence[Outcome]) -> list[Worth]:
    """Of every law that was asked, in the order of laws."""
    first = Counter(each.first.law for each in outcomes if each.first)
    kills = Counter(law for each in outcomes for law in each.killers)
    alone = Counter(each.killers[0] for each in outcomes if len(each.killers) == 1)
    cause = Counter(law for each in outcomes for law, _, _ in each.causes)
    asked = dict.fromkeys(law for each in outcomes for law in each.seen)
    return [Worth(law, first[law], kills[law], alone[law], cause[law]) for law in asked]


def unkept(outcomes: Sequence[Outcome]) -> list[tuple[str, list[str]]]:
    """Faults whose ``killers`` were tried and did not all kill, with these laws."""
    found = []
    for each in outcomes:
        tried = [law for law in faults()[each.fault].killers if law in each.seen]
        if missed := [law for law in tried if law not in each.killers]:
            found.append((each.fault, missed))
    return found
