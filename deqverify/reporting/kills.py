"""What kills which fault, for people and programs: tables for a terminal, a page, Markdown, JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deqverify.faults import faults
from deqverify.registry import laws
from deqverify.reporting import rendering
from deqverify.reporting.files import check_place
from deqverify.reporting.machine import plain as json_ready
from deqverify.reporting.markdown import words
from deqverify.running.files import write_whole
from deqverify.running.installed import versions
from deqverify.running.kill_shares import Share, Worth, shares, unkept, worths
from deqverify.running.killing import KILLS, Outcome
from deqverify.running.profiles import Profile
from deqverify.running.results import Verdict

SIGNS = {
    Verdict.VIOLATED: ("V", "violated", "kills, as a cause of its own"),
    Verdict.FOLLOWS: ("f", "follows", "kills, and follows from another law that does"),
    Verdict.HOLDS: ("·", "holds", "holds"),
    Verdict.INCONCLUSIVE: ("?", "unclear", "inconclusive"),
    Verdict.NOT_CLAIMED: ("–", "unclaimed", "the fault does not claim what the law needs"),
    Verdict.COULD_NOT_RUN: ("!", "error", "could not run"),
}
"""By verdict, its sign, its class in the style sheet, and what it means."""


@dataclass(frozen=True)
class Kills:
    """What is shown: outcomes, survivors first, of faults tried as hard as ``profile`` says; ``every``: by every law.
    ``missing`` faults were asked for and have no outcome, as where the campaign was interrupted."""

    outcomes: tuple[Outcome, ...]
    profile: Profile
    every: bool
    missing: int = 0

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], profile: Profile, every: bool, missing: int = 0) -> Kills:
        """Survivors first, then those that could not run, then, where every law was asked, those explained wrongly."""
        order = list(faults())

        def place(each: Outcome) -> tuple[bool, bool, bool, int]:
            wrong = every and not each.right(faults()[each.fault])
            return bool(each.first), not each.error, not wrong, order.index(each.fault)

        return cls(tuple(sorted(outcomes, key=place)), profile, every, missing)

    @property
    def survivors(self) -> list[str]:
        return [each.fault for each in self.outcomes if not each.first and not each.error]

    @property
    def exit_code(self) -> int:
        """2 if one could not run, or nothing did; else 1 for a survivor, else 0."""
        if not self.outcomes or any(each.error for each in self.outcomes):
            return 2
        return 1 if self.survivors else 0

    @property
    def said(self) -> str:
        """One sentence: what became of them."""
        killed = sum(each.first is not None for each in self.outcomes)
        parts = [f"{killed} of {len(self.outcomes)} faults killed"]
        if self.survivors:
            parts.append(f"{len(self.survivors)} survived: {', '.join(self.survivors)}")
        if errors := [each for each in self.outcomes if each.error]:
            parts.append(f"{len(errors)} could not run ({errors[0].fault}: {errors[0].error.strip().splitlines()[-1]})")
        if self.missing:
            parts.append(f"{self.missing} not tried yet")
        return "; ".join(parts) + "."

    @property
    def how(self) -> str:
        """How hard it was tried."""
        chosen = self.profile
        until = "all laws" if self.every else "until the first violation of each"
        effort = f"{chosen.examples} examples, {chosen.seconds:g} s a law, seed {chosen.seed}"
        return f"profile {chosen.name}: {effort}; {until}"


def show(kills: Kills, console: Console) -> None:
    """The faults, the shares, and what each law is good for."""
    console.print(_faults(kills))
    console.print(_shares(kills))
    for line in law_lines(kills):
        console.print(Text(line))
    console.print(Text(f"\n{kills.said}", style=("bold green", "bold red", "bold magenta")[kills.exit_code]))


def _faults(kills: Kills) -> Table:
    table = Table(header_style="bold", pad_edge=False, box=None)
    table.add_column("fault", overflow="fold", ratio=5)
    table.add_column("killed first by", overflow="fold", ratio=5)
    table.add_column("examples", justify="right", no_wrap=True)
    table.add_column("CPU s", justify="right", no_wrap=True)
    if kills.every:
        table.add_column("cause", overflow="fold", ratio=4)
    for each in kills.outcomes:
        first = each.first
        by = (
            Text(f"{first.law} {first.dtype}")
            if first
            else Text("could not run" if each.error else "SURVIVED", "bold red")
        )
        row: list[Text | str] = [
            Text(each.fault),
            by,
            str(first.examples) if first else "",
            f"{first.seconds:.1f}" if first else "",
        ]
        table.add_row(*row, *([cause_said(each)] if kills.every else []))
    return table


def cause_said(each: Outcome) -> Text:
    """The cause reported, against the true one where it is another."""
    true = faults()[each.fault]
    if each.right(true):
        return Text("right", "green")
    return Text(f"{each.cause or 'none'}, not {true.cause}", "red")


def _shares(kills: Kills) -> Table:
    table = Table(header_style="bold", pad_edge=False, box=None)
    table.add_column("\nclass")
    for heading in (
        "\nfaults",
        "\nkilled",
        *(["right\ncause"] if kills.every else []),
        "median\nCPU s",
        "95th per-\ncentile",
        "shrunk,\nmedian",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading, group in shares(kills.outcomes):
        if heading:
            table.add_row(Text(heading, "dim"))
        for share in group:
            table.add_row(*share_cells(share, kills.every))
    return table


def share_cells(share: Share, every: bool) -> list[str]:
    """The cells of one row: name, faults, killed, right cause where ``every`` law was asked, and seconds."""
    cells = [share.name, str(share.faults), percent(share.killed, share.faults)]
    cells += [percent(share.right, share.faults)] if every else []
    return cells + ["" if math.isnan(value) else f"{value:.2g}" for value in (share.median, share.late, share.told)]


def percent(some: int, of: int) -> str:
    return f"{100 * some / of:.0f} %" if of else ""


def law_lines(kills: Kills) -> list[str]:
    """What each law is good for, in lines: which kill first; with every law, which kill nothing alone."""
    found = worths(kills.outcomes)
    first = sorted((w for w in found if w.first), key=lambda w: -w.first)
    lines = ["killed first by: " + ", ".join(f"{w.law} {w.first}" for w in first)] if first else []
    if not kills.every:
        return [*lines, "Causes, and laws that kill nothing alone, are told where every law is tried (--all)."]
    idle = idle_laws(found)
    if idle:
        lines.append("kill nothing alone (how many they kill): " + ", ".join(f"{w.law} {w.kills}" for w in idle))
    missed = unkept(kills.outcomes)
    lines += [f"{fault} is not killed by {', '.join(ids)}, as it says it should" for fault, ids in missed]
    return lines


def idle_laws(found: Sequence[Worth]) -> list[Worth]:
    """Laws that are the only killer of no fault, those that kill least first."""
    return sorted((worth for worth in found if not worth.alone), key=lambda worth: worth.kills)


def document(kills: Kills) -> dict[str, Any]:
    """Everything, JSON-ready."""
    known = faults()
    rows = [
        {"fault": each.fault, "wrong": known[each.fault].wrong, "defect": known[each.fault].defect}
        | {"subtlety": known[each.fault].subtlety, "origin": known[each.fault].origin, "cause": known[each.fault].cause}
        | {"right": each.right(known[each.fault]) if kills.every else None, "killers": each.killers}
        | {"first": asdict(each.first) if each.first else None, "error": each.error, "seconds": each.seconds}
        | {"causes": [{"law": law, "said": said, "follows": list(ids)} for law, said, ids in each.causes]}
        | {"laws": {law: asdict(seen) for law, seen in each.seen.items()}}
        for each in kills.outcomes
    ]
    return {
        "deqverify faults": 1,
        "versions": versions(),
        "profile": asdict(kills.profile),
        "every law": kills.every,
        "exit_code": kills.exit_code,
        "missing": kills.missing,
        "shares": [asdict(s) | {"of": heading} for heading, group in shares(kills.outcomes) for s in group],
        "laws": [asdict(worth) for worth in worths(kills.outcomes)],
        "faults": rows,
    }


def _json(kills: Kills) -> str:
    return json.dumps(json_ready(document(kills)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _filled(template: str) -> Callable[[Kills], str]:
    def text(kills: Kills) -> str:
        order = [id for id in laws() if any(id in each.seen for each in kills.outcomes)]
        filled = rendering.environment().get_template(template).render(
            kills=kills, known=faults(), laws=laws(), order=order, signs={v.value: sign for v, sign in SIGNS.items()},
            shares=shares(kills.outcomes), cells=share_cells, worths=worths(kills.outcomes),
            idle=idle_laws(worths(kills.outcomes)), unkept=unkept(kills.outcomes), versions=versions(),
            killing=KILLS, cause=lambda each: cause_said(each).plain, words=words,
        )  # fmt: skip
        return filled if template.endswith("html") else re.sub(r"\n{3,}", "\n\n", filled)

    return text


FORMATS: dict[str, tuple[str, Callable[[Kills], str]]] = {
    ".html": ("a page with the matrix of faults × laws", _filled("faults.html")),
    ".md": ("Markdown", _filled("faults.md")),
    ".json": ("everything, for programs", _json),
}
"""By the end of a file's name: what it holds, and how it is made."""


def check(path: Path) -> Path:
    """``path``, where it can be written to; ValueError otherwise."""
    return check_place(path, {suffix: what for suffix, (what, _) in FORMATS.items()})


def write(kills: Kills, path: Path) -> None:
    """Writes the report in the form that the end of ``path`` names."""
    write_whole(path, FORMATS[path.suffix.lower()][1](kills))
