"""Results: one JSON document a run, with all that its times depend on, and the comparison of two.

Two results of one machine lie apart in time. Three things tell how far a ratio of their times can be trusted: how far
the rounds of each run lie apart, and a fixed computation that no target has a part in, timed in the same rounds
(``control``). A time differs where the ratio exceeds 15 %, or three times these together where that is more. Two
commits are compared more sharply in turns (:mod:`deqverify.benchmarking.against`).
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, TypeVar

from deqverify.benchmarking.against import LEAST, SEEN
from deqverify.benchmarking.measuring import Row, Timing
from deqverify.benchmarking.problems import Achieved, FixedProblem
from deqverify.running import installed
from deqverify.running.files import write_whole

_T = TypeVar("_T")
_MACHINE = ("processor", "cores", "threads", "system", "device")


@dataclass
class Result:
    """What one run found. ``accuracy``: the achieved error that all were tuned to, None where each had its own."""

    machine: dict[str, Any]
    versions: dict[str, str]
    command: str
    accuracy: float | None = None
    rows: list[Row] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """As JSON; numbers that JSON has no word for (inf, NaN) become strings."""
        document = vars(self) | {"rows": [plain(row) for row in self.rows]}
        write_whole(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def begun(names: Iterable[str], device: str, accuracy: float | None = None) -> Result:
    """A result without rows, of a run that begins now."""
    return Result(machine(device), versions(names), shlex.join(["deqverify", *sys.argv[1:]]), accuracy)


def read(path: Path) -> Result:
    """What :meth:`Result.write` wrote; fields that this version does not know are left out. ValueError for a file that
    holds no result."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = [_row(row) for row in document["rows"]]
        found = document.get("versions", {}), document.get("command", ""), document.get("accuracy")
        return Result(document["machine"], *found, rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no result of deqverify bench ({type(error).__name__}: {error})") from error


def plain(row: Row) -> dict[str, Any]:
    """The row as JSON-ready data, the worst error with it."""
    found = asdict(row) | {"worst": row.achieved.worst if row.achieved else None}
    return json.loads(json.dumps(found), parse_constant=str)


def _row(data: dict[str, Any]) -> Row:
    achieved = {
        key: float(value) if isinstance(value, str) else value for key, value in (data["achieved"] or {}).items()
    }
    timing = data["timing"] and data["timing"] | {"rounds": tuple(data["timing"].get("rounds", ()))}
    return _known(Row, data | {
        "problem": _known(FixedProblem, data["problem"]),
        "timing": timing and _known(Timing, timing),
        "achieved": _known(Achieved, {"residual": None, "z": None} | achieved) if achieved else None,
    })  # fmt: skip


def _known(kind: type[_T], data: dict[str, Any]) -> _T:
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in data.items() if key in names})


def versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of Python, of the frameworks and libraries, and of what the targets ``names`` belong to."""
    modules = {name.partition(":")[0].partition(".")[0] for name in names if ":" in name}
    owners = packages_distributions() if modules else {}  # which reads every installed package's list of files
    theirs = {owner: version(owner) for module in sorted(modules) for owner in owners.get(module, ())}
    return installed.versions() | theirs


def machine(device: str = "cpu") -> dict[str, Any]:
    """What a time depends on beside versions: the machine, its threads and load, and the date."""
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": platform.node(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
    }
    if device == "cuda":
        import torch

        found |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return found


def processor() -> str:
    """The name of the processor, as the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


@dataclass(frozen=True)
class Pair:
    """One time in two results, natural logarithms. ``threshold`` None: noise is not known."""

    before: Row
    after: Row
    effect: float
    threshold: float | None
    verdict: str


def compared(before: Result, after: Result) -> list[Pair]:
    """Every time that both results hold. ValueError where they were tuned to different accuracies."""
    if before.accuracy != after.accuracy:
        told = ["each target's own tolerance" if a is None else f"{a:g}" for a in (before.accuracy, after.accuracy)]
        raise ValueError(
            f"the first was measured at {told[0]}, the second at {told[1]}: their times say different things"
        )
    known = {_identity(row): row for row in before.rows if row.timing}
    same = all(before.machine.get(key) == after.machine.get(key) for key in _MACHINE)
    both = [(known[_identity(row)], row) for row in after.rows if row.timing and _identity(row) in known]
    return [_pair(old, new, same) for old, new in both]


def _identity(row: Row) -> tuple[Any, ...]:
    return row.name, row.which, row.problem, row.dtype, row.device


def _pair(before: Row, after: Row, same_machine: bool) -> Pair:
    old, new = before.timing, after.timing
    assert old
    assert new
    effect, noises = math.log(new.steady / old.steady), [old.noise, new.noise]
    noises.append(math.log(after.control / before.control) if before.control and after.control else None)
    threshold = None if None in noises else max(LEAST, 3 * math.hypot(*(each for each in noises if each is not None)))
    verdict = _verdict(effect, threshold) if same_machine else "other machines"
    return Pair(before, after, effect, threshold, verdict + _worse(before, after))


def _verdict(effect: float, threshold: float | None) -> str:
    if threshold is None:
        return "noise not known"
    if abs(effect) > threshold:
        return "SLOWER" if effect > 0 else "faster"
    return "unchanged" if threshold <= SEEN else "too noisy to tell"


def _worse(before: Row, after: Row) -> str:
    """A faster answer is none where it is a worse one: said from ten times the error on, which a tolerance gives."""
    if not before.achieved or not after.achieved:
        return ""
    old, new = before.achieved.worst, after.achieved.worst
    return f", and less accurate: {old:.0e} became {new:.0e}" if new > 10 * old else ""


def exit_code(pairs: list[Pair]) -> int:
    """1 where something is slower, 2 where nothing could be said, 0 otherwise."""
    if any(pair.verdict.startswith("SLOWER") for pair in pairs):
        return 1
    return 0 if any(pair.verdict.startswith(("faster", "unchanged")) for pair in pairs) else 2


def differences(before: Result, after: Result) -> str:
    """What else the times of two results may depend on: the machine, its load, and versions, a line each."""
    lines = []
    for old, new in ((before.machine, after.machine), (before.versions, after.versions)):
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key) and key != "date":
                lines.append(f"{key}: {old.get(key, 'none')} before, {new.get(key, 'none')} after")
    return "\n".join(lines)
