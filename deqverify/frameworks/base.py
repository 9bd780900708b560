"""What the suite asks of a framework: arrays to and from NumPy, a readout, layouts, modes, and what is global."""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from deqverify.dtypes import Array
from deqverify.losses import Loss

dtype_name = lru_cache(str)
"""The name of a dtype of NumPy or JAX, which takes them longer than a small matrix product."""

_FROZEN = ContextVar("blocks in which no gradient is wanted", default=frozenset[str]())


def frozen() -> frozenset[str]:
    """The blocks, parameters by name and "x", in which no gradient is wanted now: a pull gives zeros there."""
    return _FROZEN.get()


@contextmanager
def freezing(blocks: Iterable[str]) -> Iterator[None]:
    """In this context no gradient is wanted in ``blocks``, as in weights that are not trained, or in data."""
    token = _FROZEN.set(frozenset(blocks))
    try:
        yield
    finally:
        _FROZEN.reset(token)


Setting = tuple[Callable[[], Any], Callable[[Any], Any]]
"""How a global setting is asked for, and how it is put back."""


@runtime_checkable
class Framework(Protocol):
    """The bridge between problems, which are float64 NumPy, and the arrays of one framework, which are called native.

    A bridge has no state. What has a body here is true of a framework where nothing is recorded and nothing compiled.
    """

    name: ClassVar[str]

    layouts: ClassVar[tuple[str, ...]]
    """The ways in which the entries of one array may lie in memory; none where a program cannot choose."""

    mutable: ClassVar[bool]
    """Whether arrays can be written into."""

    because: ClassVar[str]
    """Why arrays are not mutable or have no layouts, as a sentence; empty where they are and have."""

    without_gradient: ClassVar[Mapping[str, Callable[[], AbstractContextManager[Any]]]]
    """The modes in which no gradient is recorded, by name."""

    global_settings: ClassVar[Mapping[str, Setting]]
    """What is global and not a layer's to change, by name."""

    @abstractmethod
    def native(self, values: Any, dtype: str, device: str) -> Any:
        """A native array of ``values``, of any shape, its entries in memory row by row, as users hold their data."""

    @abstractmethod
    def like(self, values: Any, array: Any) -> Any:
        """A native array of ``values`` in the dtype and on the device of ``array``, of any shape."""

    @abstractmethod
    def to_numpy(self, array: Any) -> Array:
        """A float64 copy of a native array."""

    @abstractmethod
    def kind(self, array: Any) -> tuple[str, str]:
        """dtype and device ("cpu" or "cuda") of a native array."""

    @abstractmethod
    def readout(self, loss: Loss, z: Any, B: Any, Y: Any) -> tuple[float, Any, Any]:
        """``L = loss(F, Y)`` of the outputs ``F_:i = B vec(z_i)``, with ``∂L/∂z`` and ``∂L/∂B``, native, shaped as they
        are: states z (n, *state) of any shape, their entries row by row, B (p, s) with s the size of a state, Y (p, n).
        In float32 for the half precisions, then rounded."""

    @abstractmethod
    def laid_out(self, array: Any, layout: str) -> Any:
        """The same entries in one of ``layouts``; "broadcast" takes the first entry for all. An array without axes is
        left alone. ValueError for any other layout."""

    @abstractmethod
    def random_state(self) -> str:
        """A digest of the framework's global random state."""

    def other_random_state(self) -> AbstractContextManager[None]:
        """In this context the global random state is another, some numbers on; afterwards it is what it was."""
        return nullcontext()

    def assign(self, array: Any, values: Any) -> None:
        """Writes ``values`` into a native array, in place, as an optimiser does. TypeError where it is not mutable."""
        raise TypeError(self.because)

    def computing(self, dtype: str) -> AbstractContextManager[Any]:
        """The context in which every computation in ``dtype`` has to be done: the caller's own settings otherwise."""
        return nullcontext()

    def function_error(self, dtype: str, device: str) -> float:
        """The relative error of elementary functions in ``dtype`` on ``device``, in units of rounding, where it is more
        than is claimed anyway (``Claims.function_error``)."""
        return 0.0

    def precisely(self, dtype: str) -> AbstractContextManager[Any]:
        """As ``computing``, and products of arrays are as exact as ``dtype`` is, which a GPU's are not everywhere."""
        return self.computing(dtype)

    def keeping_graph(self) -> AbstractContextManager[None]:
        """Pulls in this context keep for another one what they would free."""
        return nullcontext()

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` of this module and its arguments (something hashable, arrays…), compiled where that is done."""
        return function

    def settings(self) -> dict[str, Any]:
        """The values of ``global_settings``."""
        return {name: get() for name, (get, _) in self.global_settings.items()}

    def restore(self, settings: dict[str, Any]) -> None:
        """Makes the settings what they were."""
        for name, value in settings.items():
            get, put = self.global_settings[name]
            if get() != value:
                put(value)


def keeps_subnormals(dtype: str) -> bool:
    """Whether products below the normal range are kept and not flushed to zero: a switch of the processor, which nobody
    can be asked for."""
    smallest = np.full(4, np.finfo(dtype).smallest_normal, dtype=dtype)
    return bool(np.all(smallest * np.asarray(0.5, dtype=dtype) > 0))


def _stop_flushing(kept: bool) -> None:
    """Makes the processor keep subnormal numbers, where PyTorch is there to do it."""
    if kept and (torch := sys.modules.get("torch")):
        torch.set_flush_denormal(False)


PROCESS_SETTINGS: dict[str, Setting] = {
    "numpy.geterr": (np.geterr, lambda value: np.seterr(**value)),
    "subnormal numbers are kept": (lambda: keeps_subnormals("float64"), _stop_flushing),
}
"""What is global in a process whatever the framework."""


def rows(z: Any) -> Any:
    """States (n, *state) as rows (n, s)."""
    return z.reshape(z.shape[0], math.prod(z.shape[1:]))


def unknown_layout(layout: str, known: tuple[str, ...]) -> ValueError:
    return ValueError(f"layout: {layout!r} is not known; use one of {', '.join(known) or 'none'}")
