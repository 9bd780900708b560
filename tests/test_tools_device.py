"""What tools measure of functions and of devices."""

from __future__ import annotations

import numpy as np
import pytest

from deqverify.implementations.loading import load
from deqverify.registry import laws
from tools import functions, quiet_device


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_square_root_is_rounded_to_nearest_and_a_planted_error_is_seen(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IEEE arithmetic rounds it correctly: at most one unit of rounding, on any processor. Ten more are seen as ten
    more, but for the one that adding them rounds by."""
    error, _ = functions.worst("numpy", "sqrt", dtype, "cpu", 2000)
    assert 0.5 < error <= 1.0 + 1e-6  # a float32 is compared with float64, which is off by 10⁻⁸ of its unit
    eps = np.finfo(dtype).eps
    monkeypatch.setattr(functions, "_of", lambda name, function: lambda x: np.sqrt(x) * x.dtype.type(1 + 5 * eps))
    planted, _ = functions.worst("numpy", "sqrt", dtype, "cpu", 2000)
    assert 10.0 <= planted <= 12.0 + 1e-3


def test_all_that_claim_a_gpu_are_tried_on_it() -> None:
    found = quiet_device.targets("cuda")
    assert {"reference", "reference[newton]", "correct[per-point]"} <= set(found)
    assert all("cuda" in load(name).claims.devices for name in found)
    assert "correct[qr]" not in found  # NumPy


def test_a_campaign_counts_examples_and_tells_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet_device, "targets", lambda device: ["fault[no-softmax]"])
    monkeypatch.setattr(quiet_device, "laws", lambda: {"existence": laws()["existence"]})
    seen, alarms = quiet_device.campaign("cpu", 0, 0.02)
    assert seen["all"] > 0
    assert alarms
    assert "existence × fault[no-softmax]" in alarms[0]
