"""What people use today, asked of the same corpus: ``python -m tools.rivals run`` asks each baseline of every fault and
of every correct implementation, and keeps what it says in docs/compared.json; interrupted, it goes on.
``python -m tools.rivals ours KILLS.json`` reads what ``deqverify faults --report KILLS.json`` wrote into it, and
``python -m tools.rivals page`` writes docs/compared.md.

The baselines stand in tools/rivals_baselines.py. "killed" is an assertion that failed or an error that was raised;
what a baseline has no way to ask (an equilibrium of a whole model, a gradient that is not claimed) "cannot" be asked.
Seconds are those of the processor, since the machine is shared.
"""

from __future__ import annotations

import json
import random
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from deqverify.benchmarking.results import processor
from deqverify.clock import alarm
from deqverify.correct import implementations
from deqverify.faults import faults
from deqverify.implementations.subject import claimed_cells
from deqverify.running.files import write_whole
from tools.rivals_baselines import BASELINES
from tools.rivals_instances import CannotAsk

KEPT = Path("docs/compared.json")
MOST_SECONDS = 300.0


def asked_on(deq: Any, shows: tuple[str, ...]) -> list[str]:
    """The cells to ask on: the linear-softmax one and tanh where they are claimed, and one on which alone it shows."""
    if not hasattr(deq, "vjp"):
        return ["linear-softmax"]
    claimed = claimed_cells(deq.claims)
    chosen = [name for name in ("linear-softmax", "tanh") if name in claimed] + list(shows[:1])
    return list(dict.fromkeys(chosen or claimed[:1]))


def ask(name: str, make: Callable[[], Any], shows: tuple[str, ...] = ()) -> dict[str, Any]:
    """The verdict of one baseline, the processor's seconds, and what it said: the worst over the cells."""
    verdicts, said, begun = [], "", time.process_time()
    for cell in asked_on(make(), shows):
        torch.manual_seed(0)
        np.random.seed(0)
        try:
            with alarm(MOST_SECONDS):
                BASELINES[name](make(), cell)
            verdicts.append("survived")
        except CannotAsk as error:
            verdicts.append("cannot")
            said = said or str(error)
        except Exception as error:
            said = f"{cell}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:150]}"
            verdicts.append("killed")
            break
    verdict = next(word for word in ("killed", "survived", "cannot") if word in verdicts)
    return {"verdict": verdict, "seconds": round(time.process_time() - begun, 4), "said": said}


def machine() -> str:
    return f"{processor()}, one thread, PyTorch {torch.__version__}, JAX {jax.__version__}"


def kept() -> dict[str, Any]:
    return json.loads(KEPT.read_text()) if KEPT.exists() else {"asked": {}, "ours": {}}


def run() -> None:
    torch.set_num_threads(1)
    document = kept() | {"machine": machine(), "date": date.today().isoformat()}
    everyone: list[Any] = [*faults().values(), *implementations().values()]
    random.Random(0).shuffle(everyone)  # what was asked when it is interrupted is a fair sample
    for each in everyone:
        seen = document["asked"].setdefault(each.target, {})
        for name in BASELINES:
            if name not in seen:
                seen[name] = ask(name, each.make, getattr(each, "cells", ()))
        write_whole(KEPT, json.dumps(document, ensure_ascii=False, indent=1) + "\n")
        words = "  ".join(f"{name}: {found['verdict']}" for name, found in seen.items())
        print(f"{each.target:36} {words}", flush=True)


def ours(report: Path) -> None:
    """The first law that killed each fault, and after how many of the processor's seconds, from a report of
    ``deqverify faults --report kills.json``."""
    document = kept()
    for each in json.loads(report.read_text(encoding="utf-8"))["faults"]:
        if not each["error"]:
            first = each["first"]
            document["ours"][f"fault[{each['fault']}]"] = {
                "verdict": "killed" if first else "survived",
                "seconds": first["seconds"] if first else each["seconds"],
                "said": first["law"] if first else "",
            }
    write_whole(KEPT, json.dumps(document, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    match sys.argv[1:]:
        case ["run"]:
            run()
        case ["ours", report]:
            ours(Path(report))
        case ["page"]:
            from tools.rivals_page import page

            write_whole(Path("docs/compared.md"), page(kept()))
        case _:
            sys.exit("usage: python -m tools.rivals run | ours KILLS.json | page")
