"""A seed is a seed: what it draws does not depend on the modules that are loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from hypothesis.internal.conjecture import providers

DRAWING = """
import json
from hypothesis import Phase, given, seed, settings, strategies as st
from deqverify.trial import Effort, look_at, run_trial

STRATEGY = st.fixed_dictionaries({"seed": st.integers(0, 2**16 - 1)})

def by_trial():
    seen = []
    run_trial(lambda subject, seed: seen.append(seed) or (), STRATEGY, None, Effort(200, seed=0))
    return seen

def by_survey():
    seen = []
    look_at(STRATEGY, lambda drawn: seen.append(drawn["seed"]), 200, 0)
    return seen

def by_hypothesis():
    seen = []

    @seed(0)
    @settings(max_examples=200, database=None, phases=[Phase.generate])
    @given(STRATEGY)
    def collect(drawn):
        seen.append(drawn["seed"])

    collect()
    return seen

ways = (by_trial, by_survey, by_hypothesis)
before = [way() for way in ways]
import odd_constants
after = [way() for way in ways]
print(json.dumps([first == second for first, second in zip(before, after)]))
"""


def test_the_same_seed_draws_the_same_after_an_unrelated_module_was_imported(tmp_path: Path) -> None:
    constants = ", ".join(str(137 + 61 * k) for k in range(1000))
    (tmp_path / "odd_constants.py").write_text(f"ODD = [{constants}]\n", encoding="utf-8")
    (tmp_path / "drawing.py").write_text(DRAWING, encoding="utf-8")
    done = subprocess.run([sys.executable, "drawing.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trial, survey, plain = json.loads(done.stdout)
    assert trial, "deqverify run --seed promises to draw the same problems each time"
    assert survey
    assert not plain, "Hypothesis minds no module any more: deqverify/seeding.py and tests/conftest.py can go"


THREADS = """
import threading
from hypothesis.internal.conjecture import providers
from deqverify.seeding import without_local_constants

theirs = providers._get_local_constants, providers.CONSTANTS_CACHE
entered, leave = threading.Event(), threading.Event()

def other():
    with without_local_constants():
        entered.set()
        leave.wait(60)

with without_local_constants():
    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(60)
print(providers._get_local_constants is theirs[0])
leave.set()
thread.join()
print((providers._get_local_constants, providers.CONSTANTS_CACHE) == theirs)
"""


def test_the_last_thread_that_leaves_puts_things_back() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_in_these_tests_it_is_so_throughout() -> None:
    assert len(providers._get_local_constants()) == 0  # tests/conftest.py
