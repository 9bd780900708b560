"""What a soak has seen so far, in a folder: one JSON file, written anew after every round, and a file for each find."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deqverify.running.installed import fingerprint
from deqverify.running.results import Result
from deqverify.running.tally import Tally

STATE = "state.json"
FINDS = "finds"


class SoakError(ValueError):
    """A folder that cannot be used; the message says why and what to do."""


@dataclass
class Entry:
    """One law on one target in one dtype.

    ``drawn`` tallies the rounds that draw freely, a fair sample; ``pushed`` those that climb towards the bound. Round
    k draws with the seed ``State.seed + k``; ``rounds`` of them have begun.
    """

    law: str
    target: str
    dtype: str
    rounds: int = 0
    drawn: Tally = field(default_factory=Tally)
    pushed: Tally = field(default_factory=Tally)
    finds: list[str] = field(default_factory=list)
    trouble: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.law, self.target, self.dtype

    @property
    def all(self) -> Tally:
        """Both tallies together."""
        together = Tally.of(self.drawn.document())
        together.merge(self.pushed)
        return together


@dataclass
class State:
    """Every entry of a folder. ``sources`` is :func:`fingerprint` of the suite that measured them."""

    seed: int
    sources: str
    entries: dict[tuple[str, str, str], Entry] = field(default_factory=dict)

    def entry(self, law: str, target: str, dtype: str) -> Entry:
        return self.entries.setdefault((law, target, dtype), Entry(law, target, dtype))

    @property
    def examples(self) -> int:
        return sum(entry.drawn.examples + entry.pushed.examples for entry in self.entries.values())


def resume(folder: Path, seed: int | None = None, fresh: bool = False) -> tuple[State, str]:
    """The state kept in ``folder``, or a new one, and a sentence that says which.

    What another version of the suite measured is put aside, since its bounds may be others; so is everything when
    ``fresh``. ``seed`` is that of a new state, drawn if None. SoakError for a file that cannot be read.
    """
    path = folder / STATE
    if path.exists():
        kept = _read(path)
        if kept.sources == fingerprint() and not fresh:
            return kept, f"going on after {kept.examples} examples, seed {kept.seed}"
        aside = folder / f"state-{kept.sources}-{secrets.token_hex(3)}.json"
        path.rename(aside)
        why = "as asked" if fresh else "the suite has changed since"
        said = f"starting afresh, {why}; what was measured before is in {aside.name}"
    else:
        said = "starting afresh"
    state = State(secrets.randbelow(2**31) if seed is None else seed, fingerprint())
    return state, f"{said}; seed {state.seed}"


def _read(path: Path) -> State:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        entries = [
            Entry(**raw | {"drawn": Tally.of(raw["drawn"]), "pushed": Tally.of(raw["pushed"])})
            for raw in document["entries"]
        ]
        return State(document["seed"], document["sources"], {entry.key: entry for entry in entries})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SoakError(f"{path}: cannot be read ({error}); move it away, or name another --folder") from error


def save(state: State, folder: Path) -> None:
    """Writes the state beside the old one, then in its place: an interruption leaves one or the other, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    for entry in state.entries.values():
        tallies = {"drawn": entry.drawn.document(), "pushed": entry.pushed.document()}
        entries.append(vars(entry) | tallies)
    document = {"seed": state.seed, "sources": state.sources, "entries": entries}
    written = folder / f"{STATE}.new"
    written.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    os.replace(written, folder / STATE)


def keep(result: Result, entry: Entry, folder: Path) -> Path:
    """Writes the violation of ``result`` as a Python file that shows it again; the same one twice is one file."""
    assert result.violation
    violation, job = result.violation, result.job
    digest = hashlib.sha256(violation.snippet.encode()).hexdigest()[:8]
    name = re.sub(r"[^\w.\-]+", "_", f"{job.law}-{job.target}-{job.dtype}-{digest}") + ".py"
    head = f"{job.law} × {job.column}: {violation.anomaly}; seed {job.seed}\n{violation.description}"
    comment = "\n".join(f"# {line}".rstrip() for line in head.splitlines())
    path = folder / FINDS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{comment}\n\n{violation.snippet}\n", encoding="utf-8")
    if name not in entry.finds:
        entry.finds.append(name)
    return path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second soak out of ``folder``, whose counts it would overwrite; SoakError if one is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows: nobody is kept out
        yield
        return
    with (folder / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, however it ends
        except OSError:
            raise SoakError(f"{folder}: another soak is running in it; wait, or name another --folder") from None
        yield
