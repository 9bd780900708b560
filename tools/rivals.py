"""What people use today, asked of the same corpus: ``python -m tools.rivals run`` asks each baseline of every fault and
of every correct implementation, and keeps what it says in docs/compared.json; interrupted, it goes on.
``python -m tools.rivals ours KILLS.json`` reads what ``deqverify faults --report KILLS.json`` wrote into it, and
``python -m tools.rivals page`` writes docs/compared.md.

Each baseline is written again in the manner of the repository that it is named after, with its sizes, steps and
tolerances, on the cells of this suite. "killed" is an assertion that failed or an error that was raised; what a
baseline has no way to ask (an equilibrium of a whole model, a gradient that is not claimed) "cannot" be asked. Seconds
are those of the processor, since the machine is shared.
"""

from __future__ import annotations

import json
import platform
import random
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.test_util import check_grads as jax_check_grads
from torch.testing._comparison import get_tolerances

from deqverify.cells import cells
from deqverify.clock import alarm
from deqverify.correct import implementations
from deqverify.faults import faults
from deqverify.frameworks import framework
from deqverify.implementations.jax_base import JaxLayer
from deqverify.implementations.protocol import Solution
from deqverify.implementations.subject import claimed_cells
from deqverify.implementations.torch_base import TorchLayer
from deqverify.losses import Squared
from deqverify.problem import SoftmaxProblem
from deqverify.reference.newton import NewtonLayer
from deqverify.running.files import write_whole

KEPT = Path("docs/compared.json")
MOST_SECONDS = 300.0
RATE = 0.5
"""Of the instances: the libraries' own tests stay where an iteration is fast (jaxopt: a spectral radius below ½)."""


class CannotAsk(Exception):
    """A baseline has no way to ask this."""


class Instance:
    """A cell, its parameters and its inputs, float64; ``z`` and ``pull`` of a layer on it, in a dtype, as NumPy."""

    def __init__(self, name: str, m: int, n: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.cell: Any = cells()[name]
        if name == "linear-softmax":
            self.theta, self.x = (
                {"A": rng.standard_normal((m, m)), "gamma": np.array(RATE)},
                rng.standard_normal((n, m)),
            )
        elif name == "tanh":
            W = rng.standard_normal((m, m))
            self.theta = {"W": RATE * W / np.linalg.norm(W, 2), "U": rng.standard_normal((m, 2)), "b": np.ones(m) / 4}
            self.x = rng.standard_normal((n, 2))
        else:
            self.theta, self.x = drawn(name)
        self.names = tuple(self.theta)

    @property
    def values(self) -> list[Any]:
        return [*self.theta.values(), self.x]

    def vjp(self, deq: Any, values: Any, dtype: str) -> tuple[Any, Callable[[Any], list[Any]]]:
        """z for parameters and inputs ``values``, and its pull, which may be called again where that is claimed."""
        bridge = framework(deq.framework)

        def native(value: Any) -> Any:
            return bridge.native(np.asarray(value, dtype=np.float64), dtype, "cpu")

        *parts, x = (native(value) for value in values)
        with torch.enable_grad(), bridge.computing(dtype):
            solution, pull = deq.vjp(self.cell, dict(zip(self.names, parts, strict=True)), x)

        def pulled(cotangent: Any) -> list[Any]:
            again = bridge.keeping_graph() if deq.claims.repeated_pulls else nullcontext()
            with torch.enable_grad(), bridge.computing(dtype), again:
                found = pull(native(cotangent))
            return [bridge.to_numpy(g) for g in (*(found.theta[name] for name in self.names), found.x)]

        return bridge.to_numpy(solution.z), pulled

    def residual(self, z: Any, values: Any = None) -> Any:
        *parts, x = self.values if values is None else values
        return self.cell.step(dict(zip(self.names, parts, strict=True)), x)(z) - z


@cache
def drawn(name: str) -> tuple[dict[str, Any], Any]:
    """A drawn instance of a cell, of two entries at least; of a rate that an iteration likes, where it has one."""
    from tests.cell_examples import sample

    for theta, x in sample(name, 30):
        certificate = cells()[name].certificate(theta)
        if np.prod(cells()[name].state(theta, x.shape[1:])) >= 2 and (certificate is None or certificate.rate <= 0.9):
            return dict(theta), x
    raise LookupError(name)


# The layer as a function of one framework, as a user has it.


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ask: Any, *given: Any) -> Any:
        value, ctx.pull = ask([t.detach().numpy() for t in given])
        ctx.like = given
        return torch.as_tensor(value, dtype=given[-1].dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, cotangent: Any) -> Any:
        found = ctx.pull(cotangent.numpy())
        return None, *(torch.as_tensor(g, dtype=t.dtype).reshape(t.shape) for g, t in zip(found, ctx.like, strict=True))


def model_asked(deq: Any) -> tuple[Callable[[Any], tuple[Any, Callable[[Any], list[Any]]]], list[Any]]:
    """A whole model as its loss and gradient in A, γ, B and x, and values of these."""
    rng = np.random.default_rng(0)
    problem = SoftmaxProblem(
        *(rng.standard_normal(shape) for shape in ((3, 3), (1, 3), (3, 2), (1, 2))), gamma=RATE, loss=Squared()
    )
    names = ("A", "gamma", "B", "x")

    def ask(values: Any) -> tuple[Any, Callable[[Any], list[Any]]]:
        A, gamma, B, x = values
        value, found = deq.value_and_grad(problem.with_blocks(A=A, gamma=float(gamma), B=B, x=x))
        return np.float64(value), lambda cotangent: [cotangent * np.asarray(found[name]) for name in names]

    return ask, [problem.A, np.array(problem.gamma), problem.B, problem.x]


def has_graph(deq: Any) -> bool:
    """Whether PyTorch's own graph is what the layer pulls back through."""
    return isinstance(deq, TorchLayer) and type(deq).vjp is TorchLayer.vjp


def in_torch(deq: Any, where: Instance) -> tuple[Callable[..., Any], list[Any]]:
    """As a function of float64 tensors, by the layer's own graph where it has one, and the tensors."""
    if not hasattr(deq, "vjp"):
        ask, values = model_asked(deq)
        return lambda *given: _Through.apply(ask, *given), [torch.tensor(v, requires_grad=True) for v in values]
    if deq.claims.backward is None:
        raise CannotAsk("no exact gradient is claimed")
    tensors = [torch.tensor(value, requires_grad=True) for value in where.values]
    if has_graph(deq):

        def own(*given: Any) -> Any:
            answer = deq.equilibrium(where.cell, dict(zip(where.names, given[:-1], strict=True)), given[-1], None)
            return answer.z if isinstance(answer, Solution) else answer

        return own, tensors
    return lambda *given: _Through.apply(lambda values: where.vjp(deq, values, "float64"), *given), tensors


def in_jax(deq: Any, where: Instance, dtype: str) -> Callable[..., Any]:
    """As a function of JAX's arrays: a layer in JAX itself, any other behind a callback with its own pull."""
    if hasattr(deq, "vjp") and deq.claims.backward is None:
        raise CannotAsk("no exact gradient is claimed")
    if hasattr(deq, "vjp") and dtype not in deq.claims.dtypes:
        raise CannotAsk(f"{dtype} is not claimed")
    if isinstance(deq, JaxLayer):

        def own(*given: Any) -> Any:
            theta, x = dict(zip(where.names, given[:-1], strict=True)), given[-1]
            z0 = jnp.zeros((len(x), *where.cell.state(theta, x.shape[1:])), x.dtype)
            answer = deq.solve(where.cell, theta, x, z0)
            return answer[0] if isinstance(answer, tuple) else getattr(answer, "z", answer)

        return own
    if getattr(deq, "framework", "") == "jax":
        raise CannotAsk("a callback of JAX must not call JAX")
    ask = (lambda values: where.vjp(deq, values, dtype)) if hasattr(deq, "vjp") else model_asked(deq)[0]
    shape: Any = ()
    if hasattr(deq, "vjp"):
        shape = (len(where.x), *where.cell.state(where.theta, where.x.shape[1:]))

    @jax.custom_vjp
    def through(*given: Any) -> Any:
        out = jax.ShapeDtypeStruct(shape, given[-1].dtype)
        return jax.pure_callback(lambda *v: np.asarray(ask([np.asarray(a) for a in v])[0], out.dtype), out, *given)

    def pulled(given: Any, cotangent: Any) -> Any:
        def host(cotangent: Any, *values: Any) -> Any:
            found = ask([np.asarray(value) for value in values])[1](np.asarray(cotangent))
            return tuple(np.asarray(g, v.dtype).reshape(v.shape) for g, v in zip(found, given, strict=True))

        return jax.pure_callback(host, tuple(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in given), cotangent, *given)

    through.defvjp(lambda *given: (through(*given), given), pulled)
    return through


# The baselines. Each raises where it finds something.


def gradcheck(deq: Any, cell: str) -> None:
    """``torch.autograd.gradcheck`` with its defaults, float64."""
    function, tensors = in_torch(deq, Instance(cell, 3, 2))
    torch.autograd.gradcheck(function, tensors)


def gradgradcheck(deq: Any, cell: str) -> None:
    """``torch.autograd.gradgradcheck`` with its defaults, of layers whose graph may be differentiated twice."""
    if not has_graph(deq):
        raise CannotAsk("what it pulls back through is no graph of PyTorch's")
    function, tensors = in_torch(deq, Instance(cell, 3, 2))
    out = function(*tensors)
    try:
        first = torch.autograd.grad(out.sum(), tensors, create_graph=True, allow_unused=True)
        torch.autograd.grad(sum(g.sum() for g in first if g is not None), tensors, allow_unused=True)
    except RuntimeError as error:
        if not deq.claims.second_order:
            raise CannotAsk("no second derivative is claimed, and none is given") from error
    torch.autograd.gradgradcheck(function, tensors)


def check_grads(deq: Any, cell: str) -> None:
    """``jax.test_util.check_grads``, first order and reverse, since a layer behind a callback has no forward mode."""
    where = Instance(cell, 3, 2)
    with jax.enable_x64(True):
        function = in_jax(deq, where, "float64")
        values = where.values if hasattr(deq, "vjp") else model_asked(deq)[1]
        jax_check_grads(function, [jnp.asarray(value) for value in values], order=1, modes=["rev"])


def residual(deq: Any, cell: str) -> None:
    """``‖f(z) − z‖ ≤ 1e-3 ‖f(z)‖`` of every data point, what a careful user asserts; eight of them, ten states."""
    where = layer_on(deq, cell, 10, 8)
    z, _ = where.vjp(deq, where.values, deq.claims.dtypes[0])
    off = where.residual(z).reshape(len(z), -1)
    size = np.linalg.norm((where.residual(z) + z).reshape(len(z), -1), axis=1)
    assert np.all(np.linalg.norm(off, axis=1) <= 1e-3 * size), np.abs(off).max()


def like_jaxopt(deq: Any, cell: str) -> None:
    """google/jaxopt, tests/fixed_point_iteration_test.py: check_grads of a solve, reverse, with a step of 1e-4, in
    float32 (JAX's default), of two entries and of 200 states at a rate of ½. Rounding of 200 states over a step of 1e-4
    comes near check_grads' tolerance: as an author would, we take data on which a sound layer passes."""
    for m, n in ((2, 1), (200, 1)):
        where = layer_on(deq, cell, m, n, seed=2)
        function = in_jax(deq, where, "float32")
        with jax.enable_x64(False):
            values = [jnp.asarray(value, jnp.float32) for value in where.values]
            jax_check_grads(function, values, order=1, modes=["rev"], eps=1e-4)


def like_optimistix(deq: Any, cell: str) -> None:
    """patrick-kidger/optimistix, tests/test_fixed_point.py and tests/helpers.py: f(z) and z agree to 1e-4, and a
    derivative along normal directions agrees to 1e-3 with a one-sided difference of step √ε × the largest entry.
    Where the layer has no derivative along a tangent, its pull of a normal cotangent is held against it."""
    where, rng = layer_on(deq, cell, 5, 2), np.random.default_rng(1)
    if deq.claims.backward is None:
        raise CannotAsk("no exact gradient is claimed")
    if "float64" not in deq.claims.dtypes:
        raise CannotAsk("float64 is not claimed")
    values = where.values
    z, pull = where.vjp(deq, values, "float64")
    np.testing.assert_allclose(where.residual(z) + z, z, rtol=1e-4, atol=1e-4)
    along = [rng.standard_normal(np.shape(value)) for value in values]
    step = np.sqrt(np.finfo(np.float64).eps) * max(1.0, *(np.abs(value).max() for value in values))
    moved, _ = where.vjp(deq, [v + step * d for v, d in zip(values, along, strict=True)], "float64")
    slope, cotangent = (moved - z) / step, rng.standard_normal(z.shape)
    found = sum(float(np.sum(g * d)) for g, d in zip(pull(cotangent), along, strict=True))
    np.testing.assert_allclose(found, np.sum(cotangent * slope), rtol=1e-3, atol=1e-3)


def like_deep_equilibrium_networks(deq: Any, cell: str) -> None:
    """SciML/DeepEquilibriumNetworks.jl, test/layers_tests.jl: of 14 data points of two features in float32, z has its
    shape and is finite, no entry of the residual exceeds 1e-3, and gradients are finite; they are compared with
    nothing."""
    where = layer_on(deq, cell, 2, 14)
    z, pull = where.vjp(deq, where.values, "float32" if "float32" in deq.claims.dtypes else "float64")
    assert z.shape == (len(where.x), *where.cell.state(where.theta, where.x.shape[1:]))
    assert np.isfinite(z).all()
    assert np.abs(where.residual(z)).max() <= 1e-3
    if deq.claims.backward is not None:
        assert all(np.isfinite(g).all() for g in pull(2.0 * z))  # of the sum of squares


def like_torchopt(deq: Any, cell: str) -> None:
    """metaopt/torchopt, tests/test_implicit.py and tests/helpers.py: three steps of gradient descent at 1e-3 on a mean,
    of 8 data points and ten states, and the parameters compared with those that another implementation leads to, at 25
    times the tolerances of torch.testing. The other one here is a dense Newton method."""
    where = layer_on(deq, cell, 10, 8)
    if deq.claims.backward is None:
        raise CannotAsk("no exact gradient is claimed")
    dtype = deq.claims.dtypes[0]
    ends = []
    for layer in (deq, NewtonLayer("numpy")):
        values = where.values
        for _ in range(3):
            z, pull = where.vjp(layer, values, dtype)
            *parts, x = values
            values = [v - 1e-3 * g for v, g in zip(parts, pull(np.full_like(z, 1.0 / z.size)), strict=False)] + [x]
        ends.append(values[:-1])
    like = torch.zeros(1, dtype=getattr(torch, dtype))
    rtol, atol = (25.0 * tolerance for tolerance in get_tolerances(like, like, rtol=None, atol=None))
    for found, expected in zip(*ends, strict=True):
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def layer_on(deq: Any, cell: str, m: int, n: int, seed: int = 0) -> Instance:
    if not hasattr(deq, "vjp"):
        raise CannotAsk("a whole model shows no equilibrium")
    return Instance(cell, m, n, seed)


BASELINES: dict[str, Callable[[Any, str], None]] = {
    "gradcheck": gradcheck,
    "gradgradcheck": gradgradcheck,
    "check_grads": check_grads,
    "residual 1e-3": residual,
    "like jaxopt": like_jaxopt,
    "like optimistix": like_optimistix,
    "like DEQs.jl": like_deep_equilibrium_networks,
    "like torchopt": like_torchopt,
}


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
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    return f"{model}, one thread, PyTorch {torch.__version__}, JAX {jax.__version__}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


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
