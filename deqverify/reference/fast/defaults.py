"""Coefficients for machines that nobody measured; ``models.use(calibrate())`` puts better ones in their place.

Seconds for each of :func:`~deqverify.reference.fast.cost.features`: 1, m, m², m³, mn, m²n.
"""

from deqverify.reference.fast.cost import CostModel

CPU: dict[str, dict[str, tuple[float, ...]]] = {
    "float64": {
        "lu": (5.0e-05, 0.0, 7.8e-09, 2.5e-11, 1.6e-09, 1.5e-10),
        "mass": (1.5e-03, 0.0, 2.3e-09, 8.6e-12, 9.2e-08, 7.7e-11),
        "turn mass": (4.0e-06, 3.6e-08, 5.5e-10, 0.0, 0.0, 4.0e-11),
        "mixed": (9.7e-04, 0.0, 6.4e-09, 4.8e-12, 0.0, 4.9e-11),
        "turn mixed": (2.0e-04, 2.8e-07, 1.9e-09, 0.0, 3.7e-08, 3.3e-11),
        "mixedlu": (1.5e-04, 2.4e-06, 1.5e-08, 2.9e-12, 3.0e-08, 0.0),
        "turn mixedlu": (1.9e-04, 4.6e-07, 0.0, 2.2e-12, 2.5e-08, 4.9e-11),
    },
    "float32": {
        "lu": (5.0e-05, 0.0, 7.8e-09, 6.6e-12, 4.3e-09, 7.9e-11),
        "mass": (1.4e-03, 3.1e-06, 0.0, 1.8e-12, 6.6e-08, 1.7e-12),
        "turn mass": (2.1e-05, 0.0, 0.0, 6.1e-13, 1.7e-10, 2.3e-11),
        "mixed": (0.0, 0.0, 0.0, 7.4e-12, 1.3e-08, 1.3e-11),
        "turn mixed": (4.0e-04, 1.6e-06, 0.0, 0.0, 2.8e-08, 0.0),
    },
}
"""Written by ``calibrate`` on two cores of a Xeon with AMX (Sapphire Rapids), one thread, PyTorch 2.13, MKL 2024.2."""

CUDA: dict[str, dict[str, tuple[float, ...]]] = {
    "float64": {
        "lu": (1.7e-04, 2.3e-06, 4.8e-10, 1.2e-14, 1.5e-09, 1.1e-13),
        "mass": (3.9e-03, 0.0, 0.0, 7.3e-14, 0.0, 0.0),
        "turn mass": (1.0e-04, 4.2e-08, 8.3e-11, 0.0, 0.0, 2.3e-14),
        "mixed": (5.9e-04, 0.0, 0.0, 9.3e-14, 0.0, 0.0),
        "turn mixed": (9.5e-04, 0.0, 1.4e-10, 0.0, 0.0, 9.8e-14),
        "mixedlu": (1.1e-03, 0.0, 1.1e-09, 2.7e-14, 0.0, 3.9e-13),
        "turn mixedlu": (7.4e-04, 0.0, 1.4e-10, 0.0, 0.0, 2.4e-13),
    },
    "float32": {
        "lu": (1.6e-04, 2.0e-06, 3.9e-10, 0.0, 6.5e-10, 3.5e-13),
        "mass": (4.3e-03, 0.0, 4.4e-10, 3.9e-14, 0.0, 2.8e-13),
        "turn mass": (1.1e-04, 0.0, 9.7e-11, 0.0, 0.0, 0.0),
        "mixed": (1.0e-03, 0.0, 9.0e-10, 5.0e-14, 0.0, 3.5e-13),
        "turn mixed": (8.1e-04, 0.0, 0.0, 0.0, 0.0, 0.0),
    },
}
"""Written by ``calibrate`` on an NVIDIA H200, PyTorch 2.11, CUDA 13.0: launches cost so much that the LU wins nearly
everywhere."""

DEFAULTS = {("cpu", dtype): CostModel(values, {"dtype": dtype, "device": "cpu"}) for dtype, values in CPU.items()}
DEFAULTS |= {("cuda", dtype): CostModel(values, {"dtype": dtype, "device": "cuda"}) for dtype, values in CUDA.items()}
