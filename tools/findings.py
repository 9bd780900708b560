"""``python -m tools.findings``: verifies the libraries, measures their gradients, and writes docs/findings.md.

``run [--only LIBRARY] [--law LAW]`` verifies (minutes a library), ``table [--only LIBRARY]`` measures, ``page`` writes
the page from what is kept in docs/findings: a JSON file and scripts for each library. What is kept of the others stays.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from deqverify import SoftmaxProblem, losses
from deqverify.clock import Interrupted, alarm
from deqverify.errors.judge import judge
from deqverify.implementations.failures import TargetFailure
from deqverify.implementations.loading import TargetError, load
from deqverify.implementations.subject import Subject
from deqverify.running.counterexamples import CounterexampleError, read
from deqverify.running.installed import versions
from deqverify.running.standalone import NoScriptError, standalone
from tools.findings_page import GAMMAS, REPEATS, SETTINGS, SLOW, text, words_of

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "docs" / "findings"
PAGE = ROOT / "docs" / "findings.md"
OPTIONS = ("--profile", "quick", "--max-examples", "12", "--dtype", "float64", "--seed", "0", "--workers", "1")

TARGETS: dict[str, list[str]] = {
    "torchdeq": [
        "torchdeq", "torchdeq[ift]", "torchdeq[ift,anderson]", "torchdeq[ift,broyden]", "torchdeq[ift,claim=relative]",
        "torchdeq[ift,anderson,b_max_iter=2]",
    ],
    "xitorch": ["xitorch", "xitorch[anderson]", "xitorch[broyden2]", "xitorch[tight]", "xitorch[claim=relative]"],
    "jaxopt": ["jaxopt", "jaxopt[gmres,vmap,tight]", "jaxopt[claim=relative]"],
    "optimistix": ["optimistix", "optimistix[newton]", "optimistix[claim=relative]"],
    "torchopt": ["torchopt", "torchopt[inv,tight]"],
    "deepinv": ["deepinv", "deepinv[tight]"],
    "scipy": [
        "scipy", "scipy[krylov]", "scipy[newton_krylov]", "scipy[del2]", "scipy[iteration]", "scipy[gmres]",
        "scipy[claim=relative]",
    ],
}  # fmt: skip
"""By library, what is verified: its defaults, its best settings, and its tolerances judged as relative. One that needs
an environment of its own is left alone unless the interpreter of that one runs this, with ``--only``."""

ELSEWHERE = ("deepinv",)
"""Libraries that need an environment of their own."""


@click.group()
def main() -> None:
    """What is found in the libraries, as a page."""


def _chosen(only: tuple[str, ...]) -> list[str]:
    if unknown := [name for name in only if name not in SETTINGS]:
        raise click.UsageError(f"--only: {unknown[0]!r} is none of {', '.join(SETTINGS)}")
    return [name for name in SETTINGS if not only or name in only]


only_option = click.option("--only", multiple=True, metavar="LIBRARY", help="Only this library (repeatable).")


@main.command()
@only_option
@click.option("--law", "law_ids", multiple=True, metavar="LAW", help="Only this law; what was found by others stays.")
@click.option("--results", type=click.Path(path_type=Path, exists=True), multiple=True,
              help="Take results of `deqverify run --report x.json` instead of running (repeatable).")  # fmt: skip
@click.option("--command", "commands", multiple=True, help="What made these results, as the page says it (repeatable).")
def run(only: tuple[str, ...], law_ids: tuple[str, ...], results: tuple[Path, ...], commands: tuple[str, ...]) -> None:
    """Verifies and writes the page."""
    if results and not commands:
        raise click.UsageError("--results: say with --command what made them")
    for library in _chosen(only):
        if library in TARGETS and (library in only or library not in ELSEWHERE):
            found = _verified(library, law_ids, results)
            _keep(library, **found | {"commands": list(commands) or [shlex.join(command(library, law_ids))]})
    _write()


@main.command()
@only_option
def table(only: tuple[str, ...]) -> None:
    """Measures the gradients and their cost again, and writes the page."""
    for library in _chosen(only):
        _keep(library, **_measured(library))
    _write()


@main.command()
def page() -> None:
    """Writes the page from what is kept."""
    _write()


def _keep(library: str, **found: Any) -> None:
    KEPT.mkdir(exist_ok=True)
    path = KEPT / f"{library}.json"
    path.write_text(json.dumps(_kept(library) | found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _kept(library: str) -> dict[str, Any]:
    path = KEPT / f"{library}.json"
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return known


def _today() -> dict[str, Any]:
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    return {"date": datetime.date.today().isoformat(), "machine": machine, "versions": versions()}


def command(library: str, law_ids: tuple[str, ...]) -> list[str]:
    """``deqverify run`` as a person would type it."""
    return ["deqverify", "run", *TARGETS[library], *(word for law in law_ids for word in ("--law", law)), *OPTIONS]


def _verified(library: str, law_ids: tuple[str, ...], results: tuple[Path, ...]) -> dict[str, Any]:
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in results]
    if not documents:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "results.json"
            click.echo(shlex.join(command(library, law_ids)))
            words = [sys.executable, "-m", "deqverify", *command(library, law_ids)[1:], "--report", str(out)]
            subprocess.run(words, check=False, stdout=subprocess.DEVNULL)  # its exit code says that there is news
            documents.append(json.loads(out.read_text(encoding="utf-8")))
    own = [r for document in documents for r in document["results"] if r["job"]["target"] in TARGETS[library]]
    own = _without_hangs(own)
    known = _kept(library).get("found", [])
    before = [entry for entry in known if law_ids and entry["law"] not in law_ids]
    for old in KEPT.glob(f"{library}-*.py"):
        if old.name not in [entry["script"] for entry in before]:
            old.unlink()
    found = _found(library, [result for result in own if result["verdict"] in ("violated", "expected", "follows")])
    asked = _kept(library).get("asked", {}) if law_ids else {}
    return {"verified": _today(), "asked": asked | _asked(own), "found": before + found}


def _without_hangs(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what took too long, which may be a busy machine's fault; what would follow from it stands by itself."""
    slow = [r for r in results if r["violation"] and r["violation"]["kind"] == "hang"]
    for result in slow:
        click.echo(f"left out, since it hung: {result['job']['law']} × {result['job']['target']}")
    blamed = {(result["job"]["law"], result["job"]["target"]) for result in slow}
    kept = [result for result in results if result not in slow]
    alone = [r["verdict"] == "follows" and (r["cause"], r["job"]["target"]) in blamed for r in kept]
    return [r | {"verdict": "violated", "cause": ""} if own else r for r, own in zip(kept, alone, strict=True)]


def _asked(results: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """How many laws each target was tried on, by verdict."""
    found: dict[str, dict[str, int]] = {}
    for result in results:
        counts = found.setdefault(result["job"]["target"], {})
        counts[result["verdict"]] = counts.get(result["verdict"], 0) + 1
    return found


def _found(library: str, wrong: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each law and what is wrong with it: the targets, the numbers of the first, its script, and what
    follows from it."""
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for result in wrong:
        if result["cause"]:  # what is expected follows too
            continue
        law, target, violation = result["job"]["law"], result["job"]["target"], result["violation"]
        words = words_of(law, target, KEPT)
        key = (law, words.get("cause", target))
        follows = [r["job"]["law"] for r in wrong if r["cause"] == law and r["job"]["target"] == target]
        if key in entries:
            entries[key]["targets"].append(target)
            entries[key]["follows"] = sorted({*entries[key]["follows"], *follows})
            continue
        seen = violation["description"].splitlines()[0] if violation["description"] else result["reason"]
        entry = {"law": law, "targets": [target], "kind": violation["kind"], "seen": seen, "follows": sorted(follows)}
        entry |= {"smallest": violation["where"], "diagnosis": violation["diagnosis"]}
        entry |= {"boundary": violation["boundary_said"]}
        entries[key] = entry | _scripted(library, law, target, violation["counterexample"])
    return list(entries.values())


def _scripted(library: str, law: str, target: str, document: dict[str, Any]) -> dict[str, Any]:
    """The script, and what it prints where deqverify cannot be imported; why there is none otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        file.write_text(json.dumps(document), encoding="utf-8")
        try:
            text = standalone(read(file))
        except (NoScriptError, CounterexampleError, TargetError, TargetFailure, ArithmeticError) as error:
            return {"script": "", "why": str(error)}
    options = re.sub(r"\W+", "-", target.partition("[")[2]).strip("-")
    name = "-".join(part for part in (library, options, law) if part) + ".py"
    (KEPT / name).write_text(text + "\n", encoding="utf-8")
    printed = run_alone(KEPT / name)
    return {"script": name, "printed": printed[-2:]}


BLOCKED = (
    "import sys; sys.modules['deqverify'] = None; exec(compile(open(sys.argv[1]).read(), sys.argv[1], 'exec'), {})"
)


def run_alone(path: Path) -> list[str]:
    """The lines that a script prints where deqverify cannot be imported; what it raises as the last."""
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, "-c", BLOCKED, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=alone)
    lines = done.stdout.splitlines()
    return lines if done.returncode == 0 else [*lines, done.stderr.splitlines()[-1]]


def _measured(library: str) -> dict[str, Any]:
    rows = []
    for target in SETTINGS[library]:
        click.echo(target)
        try:
            deq = Subject(load(target), "float64")
        except TargetError as error:
            raise click.UsageError(str(error)) from error
        rows.append({"target": target, "cells": [_cell(deq, gamma) for gamma in GAMMAS], "ms": _milliseconds(deq)})
    return {"table": rows, "measured": _today()}


def problem_at(gamma: float) -> tuple[SoftmaxProblem, Any]:
    """m = 16 states, n = 32 data points and a cotangent, the same each time."""
    draws = np.random.default_rng(0)
    A, B, Phi = (draws.standard_normal(shape) for shape in ((16, 16), (1, 16), (16, 32)))
    return SoftmaxProblem(A, B, Phi, np.zeros((1, 32)), gamma, losses.Squared()), draws.standard_normal((32, 16))


def _cell(deq: Subject, gamma: float) -> dict[str, Any]:
    """Relative errors of z, ∂L/∂A and ∂L/∂Φ, and whether non-convergence was reported."""
    problem, cotangent = problem_at(gamma)
    truth = judge(problem, deq.claims, "float64", cotangent)
    try:
        with alarm(SLOW):
            answer = deq.solve(problem)
            errors, said = {"z": _off(answer.z, truth.z)}, answer.status.admits_failure
            if deq.claims.backward is not None:
                pulled, status = deq.pull_status(answer, cotangent)
                errors |= {"A": _off(pulled["A"], truth.pulled["A"]), "Φ": _off(pulled["x"], truth.pulled["x"])}
                said = said or status.admits_failure
    except Interrupted:
        return {"raises": "too slow", "said": True, "errors": {}}
    except TargetFailure:
        return {"raises": "raises", "said": True, "errors": {}}
    return {"errors": errors, "said": said}


def _off(found: Any, true: Any) -> float:
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def _milliseconds(deq: Subject) -> float:
    """Processor time of both passes at γ = 0.9, the least of some, after one that compiles. Wall-clock time would be
    the load of a shared machine as well."""
    problem, cotangent = problem_at(0.9)
    spent = []
    for _ in range(1 + REPEATS):
        before = time.process_time()
        answer = deq.solve(problem)
        if deq.claims.backward is not None:
            deq.pull_status(answer, cotangent)
        spent.append(1e3 * (time.process_time() - before))
    return min(spent[1:])


def _write() -> None:
    PAGE.write_text(text(KEPT), encoding="utf-8")
    click.echo(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
