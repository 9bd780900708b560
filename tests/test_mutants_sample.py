"""The sample of mutants: its order, its table, its interval."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tools import mutants_sample


def test_a_larger_sample_contains_a_smaller_one() -> None:
    names = [f"mutant {i}" for i in range(50)]
    order = mutants_sample.drawn(names, 0)
    assert sorted(order) == sorted(names)
    assert mutants_sample.drawn(names[::-1], 0) == order
    assert mutants_sample.drawn(names, 1) != order


def test_a_module_is_a_row_and_so_is_a_folder() -> None:
    paths = ("bounds.py", "cells/tanh.py", "reference/fast/api.py")
    assert [mutants_sample.home(Path(path)) for path in paths] == ["bounds.py", "cells/", "reference/fast/"]


def test_the_interval_is_clopper_and_pearsons() -> None:
    """Where all of n are killed its lower end is ``0.025 ** (1 / n)``: here .025^(1/10) = .6915."""
    assert mutants_sample.interval(10, 10) == "100.0% (69.2% to 100.0%)"


def test_a_timeout_is_a_kill_and_stands_apart() -> None:
    rows = {
        "bounds.py": Counter({"killed": 6, "timeout": 1, "survived": 1, "no tests": 1, "segfault": 1}),
        "cells/": Counter({"killed": 2}),
    }
    lines = mutants_sample.table(rows, Counter({"bounds.py": 100, "cells/": 20, "claims.py": 5})).splitlines()
    assert lines[2].startswith("| bounds.py | 100 | 10 | 7 | 1 | 1 | 2 | 70.0% (")
    assert lines[3].startswith("| cells/ | 20 | 2 | 2 | 0 | 0 | 0 | 100.0% (")
    assert lines[4].startswith("| all | 125 | 12 | 9 | 1 | 1 | 2 | 75.0% (")
