"""Coefficients for machines that nobody measured."""

from deqverify.reference.fast.cost import CostModel

DEFAULT = CostModel(
    {
        "lu": (9e-5, 1e-7, 2e-9, 2e-11, 1e-9, 8e-11),
        "mass": (1e-4, 1e-7, 1e-8, 0.0, 5e-9, 2.7e-11),
        "mixed": (2e-4, 1e-7, 1.2e-8, 0.0, 5e-9, 2.7e-11),
        "mixedlu": (2e-4, 1e-7, 1e-8, 1e-11, 5e-9, 4e-11),
        "turn mass": (1e-5, 0.0, 4e-10, 0.0, 1e-9, 2.7e-11),
        "turn mixed": (6e-5, 0.0, 5e-10, 0.0, 5e-9, 3.2e-11),
        "turn mixedlu": (6e-5, 0.0, 5e-10, 0.0, 5e-9, 4e-11),
    },
    {"dtype": "float64", "device": "cpu"},
)

DEFAULTS = {"float64": DEFAULT, "float32": CostModel(DEFAULT.coefficients, {"dtype": "float32", "device": "cpu"})}
