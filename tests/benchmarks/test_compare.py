"""Two trees of the source compared: a slowdown in the source is caught, and only where it lies."""

from __future__ import annotations

import shutil
from pathlib import Path

from deqverify.benchmarking.against import compare

ROOT = Path(__file__).parents[2]
SLOWER = """

def _slowed(vjp):
    import time

    def slow(self, *args, **kwargs):
        started = time.process_time()
        found = vjp(self, *args, **kwargs)
        took = time.process_time() - started
        while time.process_time() < started + 30 * took:  # a gradient takes ten times as long: more than any noise
            pass
        return found

    return slow


NumpyDirect.vjp = _slowed(NumpyDirect.vjp)
"""


def test_a_slowdown_in_the_source_is_caught_where_it_lies(tmp_path: Path) -> None:
    for folder in ("deqverify", "properties"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    planted = tmp_path / "deqverify" / "reference" / "numpy_direct.py"
    planted.write_text(planted.read_text() + SLOWER)
    hit, spared, unknown = compare(
        ROOT, tmp_path, ("gradient reference[numpy] m=16 n=32", "oracle m=8 n=4", "gone"), budget=0.02
    )
    assert hit.slower, hit
    assert not spared.slower, spared  # how noisy the machine is decides what else can be said
    assert "KeyError" in unknown.verdict
