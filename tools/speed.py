"""How fast the fast reference is: ``python -m tools.speed peers|near-one|batched|model|compile`` prints a table.
``python -m tools.speed calibrate --save FOLDER`` measures the coefficients of its cost model and keeps them.

Everything compared in a row is measured in one run, in turns. ``--threads 1`` (default) reads the process's CPU time,
which neighbours on a shared machine disturb less than the clock on the wall; with more threads, and with ``--wall``,
the wall's is read. Set OMP_NUM_THREADS, OPENBLAS_NUM_THREADS and MKL_NUM_THREADS to the same number: threads that wait
spend the process's time too.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deqverify.reference import solve
from deqverify.reference.fast import vjp
from deqverify.reference.fast.calibrate import calibrate
from deqverify.reference.fast.cost import METHODS
from deqverify.reference.fast.models import model_for, use
from deqverify.reference.fast.system import System

F64 = torch.float64
Runs = dict[str, Callable[[], Any]]


def medians(
    runs: Runs,
    rounds: int,
    clock: Callable[[], float],
    hopeless: float = math.inf,
    of: Callable[[list[float]], float] = statistics.median,
) -> dict[str, float]:
    """Median seconds of each (or what ``of`` makes of them), taken in turns, shuffled, after two warm-ups.

    A run that takes ``hopeless`` times the least in the warm-up is not repeated.
    """
    samples: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for round_ in range(rounds + 2):
        random.shuffle(order)  # what ran before leaves its caches behind
        for name in order:
            started = clock()
            runs[name]()
            samples[name].append(clock() - started)
        if round_ == 1:
            best = min(min(times) for times in samples.values())
            order = [name for name in order if min(samples[name]) <= hopeless * best]
            samples |= {name: [] for name in order}
    return {name: of(times) for name, times in samples.items()}


def data(m: int, n: int, *batch: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Gaussian A, x and a cotangent."""
    A, x, c = (torch.randn(*batch, *shape, dtype=F64).to(device) for shape in ((m, m), (n, m), (n, m)))
    return A, x, c


def leaves(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.detach().requires_grad_() for t in tensors)


def with_autograd(function: Callable[..., Tensor], A: Tensor, x: Tensor, gamma: float, c: Tensor) -> Callable[[], Any]:
    """A run: forward, backward, gradients in A, x and γ."""
    inputs = leaves(A, x, torch.tensor(gamma, dtype=A.dtype, device=A.device))
    return lambda: torch.autograd.grad(function(*inputs), inputs, c)


def torch_lu(A: Tensor, x: Tensor, gamma: Tensor) -> Tensor:
    """What a user of PyTorch writes."""
    U = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device) - gamma * torch.softmax(A, -2)
    return torch.linalg.solve(U, x.mT).mT


def fast_vjp(A: Tensor, x: Tensor, gamma: float, c: Tensor, **options: Any) -> Callable[[], Any]:
    def run() -> Any:
        answer, pull = vjp(A, x, gamma, **options)
        return answer, pull(c)

    return run


def jax_lu(A: Tensor, x: Tensor, gamma: float, c: Tensor) -> Callable[[], Any] | None:
    """The same in JAX, compiled; None where JAX is not installed, and beside a GPU, which it may not see."""
    if A.device.type != "cpu":
        return None
    try:
        import jax
    except ImportError:
        return None
    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy

    def forward(A: Any, x: Any, gamma: Any) -> Any:
        return jnp.linalg.solve(jnp.eye(A.shape[0]) - gamma * jax.nn.softmax(A, 0), x.T).T

    def both(A: Any, x: Any, gamma: Any, c: Any) -> Any:
        z, pull = jax.vjp(forward, A, x, gamma)
        return z, pull(c)

    compiled, arrays = jax.jit(both), [jnp.asarray(a) for a in (A.numpy(), x.numpy(), gamma, c.numpy())]
    return lambda: jax.block_until_ready(compiled(*arrays))


def floor_runs(m: int, n: int, device: str) -> Runs:
    """What the floor is made of, at this size: a product, the library's own factorisation in place, a pass over
    memory."""
    A, x, _ = data(m, n, device=device)
    U = (A + 2 * m * torch.eye(m, device=device)).contiguous()
    buffer, other, z = torch.empty_like(A), A.clone(), torch.empty_like(x)
    pivots, info = (torch.empty(shape, dtype=torch.int32, device=device) for shape in (m, ()))

    def factorise() -> None:
        buffer.copy_(U)
        torch.linalg.lu_factor_ex(buffer.mT, out=(buffer.mT, pivots, info))

    return {"product": lambda: torch.addmm(x, x, A, out=z), "copy+lu": factorise, "copy": lambda: other.copy_(A)}


def floor(m: int, n: int, parts: dict[str, float]) -> float:
    """Seconds of LU, two solves and one outer product at the measured rates, and of the memory that must move.

    Words: A in, S out and in, U out, S and ∂A for the pull-back (6m²); x, z, c, λ written or read about twice (8nm).
    """
    word = parts["copy"] / (2 * m * m)
    return (parts["copy+lu"] - parts["copy"]) + 3 * parts["product"] + (6 * m * m + 8 * n * m) * word


def synchronised() -> float:
    """The clock on the wall, when the GPU has done what it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def peers(options: Any, clock: Callable[[], float]) -> None:
    print("forward and backward, float64, γ = .9, accuracy 1e-6, ms; floor: the LU's flops and bytes at measured rates")
    print(f"{'m':>5}{'n':>5} {'fast':>9}{'fast,vjp':>9}{'fast,lu':>9}{'torch LU':>9}{'jax LU':>9}{'floor':>9}"
          f" {'/jax':>6}{'/torch':>7}{'lu/floor':>9}{'lu/getrf':>9}  used")  # fmt: skip
    for m, n in options.sizes or [(16, 256), (64, 256), (256, 256), (1024, 256), (2048, 256)]:
        A, x, c = data(m, n, device=options.device)
        runs: Runs = {
            "fast": with_autograd(lambda *t: solve(*t, accuracy=1e-6), A, x, 0.9, c),
            "vjp": fast_vjp(A, x, 0.9, c, accuracy=1e-6),
            "lu": fast_vjp(A, x, 0.9, c, accuracy=1e-6, method="lu"),
            "torch": with_autograd(torch_lu, A, x, 0.9, c),
        }
        jax_run = jax_lu(A, x, 0.9, c)
        found = medians(
            runs | ({"jax": jax_run} if jax_run else {}) | floor_runs(m, n, options.device),
            options.rounds or rounds(m, n),
            clock,
        )
        least, jax_time = floor(m, n, found), found.get("jax", math.nan)
        row = [found["fast"], found["vjp"], found["lu"], found["torch"], jax_time, least]
        print(f"{m:5}{n:5} " + "".join(f"{t * 1e3:9.3f}" for t in row) + f" {found['vjp'] / jax_time:6.2f}"
              f"{found['vjp'] / found['torch']:7.2f}{found['lu'] / least:9.2f}"
              f"{found['lu'] / (found['copy+lu'] - found['copy']):9.2f}  {runs['vjp']()[0].used}")  # fmt: skip


def rounds(m: int, n: int) -> int:
    return max(7, min(300, int(3e9 / (m**3 + 3 * m * m * n + 1e6))))


def near_one(options: Any, clock: Callable[[], float]) -> None:
    gamma = 1 - 1e-6
    print("γ = 1 − 1e-6, n = 16, Gaussian logits, float64, accuracy 1e-10: ms, and the certified relative errors")
    for m in [m for m, _ in options.sizes] if options.sizes else [1024, 2048]:
        A, x, c = data(m, 16, device=options.device)
        runs: Runs = {"torch LU": with_autograd(torch_lu, A, x, gamma, c)}
        runs["  forward torch LU"] = partial(torch_lu, A, x, A.new_tensor(gamma))
        for method in (None, *METHODS):
            runs[f"fast,{method or 'auto'}"] = fast_vjp(A, x, gamma, c, accuracy=1e-10, method=method)
            runs[f"  forward {method or 'auto'}"] = partial(vjp, A, x, gamma, accuracy=1e-10, method=method)
        found = medians(runs, options.rounds or 7, clock)
        for name, seconds in found.items():
            base = found["  forward torch LU" if name.startswith(" ") else "torch LU"]
            certified = ""
            if name.startswith("fast"):
                answer, gradients = runs[name]()
                bounds = [b for b in (answer.bound, gradients.bound) if b is not None]
                certified = f"  {answer.used}, certified " + ", ".join(f"{float(b.max()):.1e}" for b in bounds)
            print(f"m = {m} {name:20} {seconds * 1e3:9.2f} ms   torch LU / this {base / seconds:5.2f}{certified}")


def batched(options: Any, clock: Callable[[], float]) -> None:
    k, m, n = options.problems, 16, 1
    A, x, c = data(m, n, k, device=options.device)
    loops = leaves(A, x)

    def loop() -> None:
        gamma = A.new_tensor(0.9).requires_grad_()
        for a, b, d in zip(*loops, c, strict=True):
            torch.autograd.grad(torch_lu(a, b, gamma), (a, b, gamma), d)

    runs: Runs = {
        "fast": with_autograd(solve, A, x, 0.9, c),
        "torch, batched": with_autograd(torch_lu, A, x, 0.9, c),
        "python loop": loop,
    }
    found = medians(runs, options.rounds or 5, clock, hopeless=100.0)
    print(f"{k} problems, m = {m}, n = {n}, γ = .9, forward and backward, {torch.get_num_threads()} threads")
    for name, seconds in found.items():
        print(f"{name:16} {seconds * 1e3:9.1f} ms   this / fast {seconds / found['fast']:6.2f}")


def model(options: Any, clock: Callable[[], float]) -> None:
    """The cost model's choice, looks and hand-overs included, against the best method in hindsight.

    The least of several times stands for each: neighbours only ever add.
    """
    started = time.perf_counter()
    use(calibrate(seconds=options.seconds, device=options.device))
    where = model_for(torch.zeros(1, dtype=F64, device=options.device)).where
    print(f"calibrated in {time.perf_counter() - started:.0f} s: {where}")
    rng = np.random.default_rng(options.seed)
    losses, chosen, best_of = [], dict.fromkeys(METHODS, 0), dict.fromkeys(METHODS, 0)
    for case in range(options.cases):
        A, x, c, gamma, accuracy, kind = draw(rng, 10.3 if options.device == "cpu" else 12.3)
        A, x, c = (t.to(options.device) for t in (A, x, c))
        m, n = A.shape[0], x.shape[0]

        def once(method: Any) -> Callable[[], Any]:
            return fast_vjp(A, x, gamma, c, accuracy=accuracy, method=method)  # noqa: B023

        found = medians(
            {str(method): once(method) for method in (None, *METHODS)}, 3 if m > 500 else 5 if m > 200 else 21, clock
        )
        best = min(METHODS, key=lambda method: found[method])
        answer, _ = once(None)()
        loss = found["None"] / found[best]
        losses.append(loss)
        chosen[answer.used] += 1
        best_of[best] += 1
        if options.verbose or loss > 1.2:
            print(f"{case:4} m={m} n={n} γ={gamma:.6f} {accuracy:.0e} {kind} took {answer.used}, best {best}: "
                  f"{loss:.2f}  " + " ".join(f"{k} {v * 1e3:.2f}" for k, v in found.items()))  # fmt: skip
    within = float(np.mean(np.asarray(losses) <= 1.2))
    print(f"{len(losses)} cases: within 1.2 × best in {within:.1%}, worst {max(losses):.2f}, median "
          f"{statistics.median(losses):.2f}; taken {chosen}; best {best_of}")  # fmt: skip


def calibrated(options: Any, clock: Callable[[], float]) -> None:
    """The cost model's coefficients for both dtypes, kept as ``costs-DTYPE.json`` in the folder that is named."""
    for dtype in (torch.float64, torch.float32):
        found = calibrate(dtype, options.device, options.seconds)
        print(*(f"{key} {value}" for key, value in found.where.items()), sep=", ")
        print("seconds of".ljust(12) + "".join(f"{term:>11}" for term in ("1", "m", "m²", "m³", "mn", "m²n")))
        for part, coefficients in found.coefficients.items():
            print(f"{part:12}" + "".join(f"{coefficient:11.2e}" for coefficient in coefficients))
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
            found.save(options.save / f"costs-{found.where['dtype']}.json")


def draw(rng: np.random.Generator, widest: float = 10.3) -> tuple[Tensor, Tensor, Tensor, float, float, str]:
    """A case of the grid: widths 16 to 2**widest, 1 to 384 points, easy and hard matrices, γ from .5 to 1 − 1e-6."""
    m, n = int(2 ** rng.uniform(4, widest)), int(2 ** rng.uniform(0, math.log2(384)))
    gamma, accuracy = rng.choice([0.5, 0.9, 0.99, 1 - 1e-4, 1 - 1e-6]), rng.choice([1e-4, 1e-6, 1e-8, 1e-10])
    kind = str(rng.choice(["gauss .3", "gauss 1", "gauss 1", "gauss 3", "identity", "permutation", "blocks"]))
    A, x, c = (torch.from_numpy(rng.normal(size=shape)) for shape in ((m, m), (n, m), (n, m)))
    if kind.startswith("gauss"):
        A *= float(kind.split()[1])
    else:
        pattern = {"identity": torch.eye(m), "permutation": torch.eye(m).roll(1, 0)}.get(kind)
        half = (torch.arange(m) < m // 2).double()
        A += 20.0 * (torch.outer(half, half) + torch.outer(1 - half, 1 - half) if pattern is None else pattern)
    return A, x, c, float(gamma), float(accuracy), kind


def compiled(options: Any, clock: Callable[[], float]) -> None:
    """Where torch.compile would pay: the softmax and the pull-back's passes, fused, against the operations written."""
    print("torch.compile of the passes over (m, m), ms: written / compiled")
    for m in (64, 256, 1024, 2048):
        A, _, _ = data(m, 1, device=options.device)
        system, P = System(A, 0.9), torch.randn_like(A)
        E, T, d = torch.empty_like(A), torch.empty_like(A), system.columns
        runs: Runs = {
            "softmax": partial(written_softmax, A, E),
            "softmax compiled": partial(torch.compile(plain_softmax), A),
            "pull-back": partial(written_pull, P, system.E, d, T),
            "pull-back compiled": partial(torch.compile(plain_pull), P, system.E, d),
        }
        found = medians(runs, options.rounds or 15, clock)
        print(f"m = {m:5}  " + "   ".join(f"{name} {seconds * 1e3:8.3f}" for name, seconds in found.items()))


def written_softmax(A: Tensor, E: Tensor) -> Tensor:
    torch.sub(A, A.amax(0), out=E).exp_()
    return E.sum(0).reciprocal_()


def plain_softmax(A: Tensor) -> tuple[Tensor, Tensor]:
    E = torch.exp(A - A.amax(0))
    return E, 1.0 / E.sum(0)


def written_pull(P: Tensor, E: Tensor, d: Tensor, T: Tensor) -> Tensor:
    torch.mul(P, E, out=T)
    return T.addcmul_(E, T.sum(0) * d, value=-1)


def plain_pull(P: Tensor, E: Tensor, d: Tensor) -> Tensor:
    T = P * E
    return T - E * (T.sum(0) * d)


ACTIONS: dict[str, Callable[[Any, Callable[[], float]], None]] = {
    "peers": peers,
    "near-one": near_one,
    "batched": batched,
    "model": model,
    "compile": compiled,
    "calibrate": calibrated,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=list(ACTIONS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=0, help="samples of each; by size if left out")
    parser.add_argument(
        "--sizes", type=lambda text: [tuple(map(int, s.split("x"))) for s in text.split(",")], default=None
    )
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0, help="of the calibration")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="of the calibration's result, made if missing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(arguments)
    if options.save and options.what != "calibrate":
        parser.error("--save: only calibrate has a result to keep")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    clock = time.process_time if options.threads == 1 and not options.wall else time.perf_counter
    if options.device == "cuda":
        clock = synchronised
    ACTIONS[options.what](options, clock)


if __name__ == "__main__":
    main()
