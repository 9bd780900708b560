"""One tree of the source under the clock: ``python -P worker.py TREE`` answers requests on stdin, a line each.

The library is TREE's; the benchmarks are those beside this file, in every worker the same, so that only what is
measured differs. A request is a JSON object with ``name``, ``budget`` (seconds) and ``slower``; the answer is the
fastest of the calls made within the budget, in seconds, or ``{"error": …}``. ``slower`` is a planted slowdown: each
call then takes so many times as long.

Seconds are the process's own, on the processor: every benchmark computes in one thread and waits for nothing, and what
other processes do to the clock on the wall is not what is asked.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def graft(name: str, folder: Path) -> None:
    """Makes ``import name`` find the package in ``folder``, whatever is installed."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no package {name} in {folder}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(importlib.import_module(parent), child, module)


def fastest(call: Callable[[], Any], budget: float, slower: float) -> float:
    """Seconds of the fastest of at least three calls."""
    best, spent, count = float("inf"), 0.0, 0
    while count < 3 or spent < budget:
        started = time.process_time()
        call()
        ended = time.process_time()
        until = ended + (slower - 1.0) * (ended - started)
        while ended < until:
            ended = time.process_time()
        best, spent, count = min(best, ended - started), spent + ended - started, count + 1
    return best


def main(tree: Path) -> None:
    graft("deqverify", tree / "deqverify")
    if (tree / "properties").is_dir():
        graft("deqverify.properties", tree / "properties")
    graft("deqverify.benchmarking", Path(__file__).parent)
    named = importlib.import_module("deqverify.benchmarking.named").NAMED
    ready: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if asked["name"] not in ready:
                ready[asked["name"]] = named[asked["name"]]()
                ready[asked["name"]]()
            answer: Any = fastest(ready[asked["name"]], asked["budget"], asked["slower"])
        except Exception as error:  # an older base may lack what a benchmark needs
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
