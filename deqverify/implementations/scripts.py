"""Each library's call as lines of plain Python, for scripts that do without this suite: what an adapter does, settings
and all, as ``solve(f, z0, x, *theta)`` for a map ``f(z, x, *theta)``; it returns z and what the library says of it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

from deqverify.implementations.loading import parse

HEAD = "def solve(f, z0, x, *theta):"


def script(layer: Any) -> str | None:
    """The lines that define ``solve`` for ``layer``, at its settings; None for one that is no library's call.

    A third party's layer says its own in a method ``script()``.
    """
    if callable(own := getattr(layer, "script", None)):
        return str(own())
    library = _LIBRARIES.get(parse(layer.name).name)
    return library(layer) if library else None


def defining(*imports: str, body: list[str]) -> str:
    """Imports, and ``solve`` with its body."""
    return "\n".join([*imports, "", "", HEAD, textwrap.indent("\n".join(body), "    ")])


def _call(name: str, *arguments: str, **options: Any) -> str:
    """A call, an option that is None left out: it is the library's default."""
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    return f"{name}({', '.join([*arguments, *given])})"


def _torchdeq(layer: Any) -> str:
    deq = f"deq = {_call('get_deq', **{k: repr(v) for k, v in layer.options.items()})}.train()"
    lowest = f"{layer.options['f_stop_mode']}_lowest"
    body = ["states, info = deq(lambda z: f(z, x, *theta), z0)"]
    body += [f"return states[-1], {{'{lowest}': info['{lowest}'].tolist()}}"]
    return defining("from torchdeq import get_deq", "", deq, body=body)


def _deepinv(layer: Any) -> str:
    forward, backward = (100, 50) if layer.most is None else (layer.most, layer.most)
    config = _call("DEQConfig", anderson_acceleration_backward=layer.anderson, max_iter_backward=backward)
    options = {"max_iter": forward, "thres_conv": layer.tol, "early_stop": True, "trainable_params": "[]"}
    body = ["class Step(OptimIterator):", "    def forward(self, X, *given, **more):"]
    body += ['        return {"est": (f(X["est"][0], x, *theta),), "cost": None}', ""]
    body += [f"model = {_call('BaseOptim', 'Step(has_cost=False)', DEQ=config, **options)}"]
    body += ['return model(z0, None, init=(z0,)), {"has_converged": model.has_converged}']
    imports = (
        "from deepinv.optim import BaseOptim, DEQConfig",
        "from deepinv.optim.optim_iterators import OptimIterator",
    )
    return defining(*imports, body=body)


def _xitorch(layer: Any) -> str:
    backward = {"max_niter": layer.most} | ({"rtol": layer.tol, "atol": 0.0} if layer.tol else {})
    options: dict[str, Any] = {"bck_options": {k: v for k, v in backward.items() if v is not None} or None}
    options |= {"method": repr(layer.method) if layer.method else None, "f_tol": layer.tol, "x_tol": layer.tol}
    options |= {"maxiter": layer.most, "feat_ndims": "z0.ndim - 1"}
    call = _call("equilibrium", "f", "z0", "(x, *theta)", **options)
    return defining("from xitorch.optimize import equilibrium", body=[f'return {call}, "nothing but its warnings"'])


def _torchopt(layer: Any) -> str:
    linear = "solve_inv()" if layer.inv else f"solve_normal_cg(rtol={layer.tol})"
    imports = (
        "from torchopt.diff.implicit import custom_root",
        "from torchopt.linear_solve import " + linear.split("(")[0],
    )
    body = ["argnums = tuple(range(1, len(theta) + 2))", ""]
    body += [f"@custom_root(lambda z, *given: f(z, *given) - z, argnums=argnums, solve={linear})"]
    body += ["def picard(z, *given):", f"    for _ in range({layer.most}):", "        image = f(z, *given)"]
    body += [f"        if not (image - z).norm() > {layer.tol} * image.norm():", "            return z"]
    body += ["        z = image", "    return z", "", 'return picard(z0, x, *theta), "nothing"']
    return defining(*imports, body=body)


def _jaxopt(layer: Any) -> str:
    solver, linear = layer.solver.__name__, layer.linear.__name__
    imports = (
        ["from functools import partial", "", "import jax"] if layer.vmap else ["from functools import partial", ""]
    )
    imports += [f"from jaxopt import {solver}", f"from jaxopt.linear_solve import {linear}"]
    options = {"maxiter": layer.most, "tol": layer.tol, "implicit_diff_solve": f"partial({linear}, tol={layer.tol})"}
    made, said = f"solver = {_call(solver, 'f', **options)}", "{'error': state.error}"
    if not layer.vmap:
        return defining(*imports, body=[made, "z, state = solver.run(z0, x, *theta)", f"return z, {said}"])
    body = [made, "z, state = jax.vmap(lambda z, x: solver.run(z, x, *theta))(z0[:, None], x[:, None])"]
    return defining(*imports, body=[*body, f"return z[:, 0], {said}"])


def _optimistix(layer: Any) -> str:
    solver, linear = layer.solver.__name__, f"lineax.GMRES({layer.tol}, {layer.tol})" if layer.gmres else ""
    imports = ["import lineax"] if layer.gmres else []
    imports += [f"from optimistix import ImplicitAdjoint, {solver}, fixed_point"]
    options = {"max_steps": layer.most, "throw": False, "adjoint": f"ImplicitAdjoint({linear})"}
    call = _call("fixed_point", "lambda z, args: f(z, *args)", "solver", "z0", "(x, *theta)", **options)
    body = [f"solver = {solver}(rtol={layer.tol}, atol={layer.tol})", f"found = {call}"]
    return defining(*imports, body=[*body, "return found.value, found.result"])


def _scipy(layer: Any) -> str:
    method, most = layer.method, {} if layer.most is None else {"maxiter": layer.most}
    if method == "gmres":
        body = ["offset, one = f(0 * z0, x, *theta), np.eye(z0.shape[1])  # of a linear map z K.T + offset"]
        body += ["K = f(one, np.zeros((1, *x.shape[1:])), *theta).T"]
        call = _call("gmres", "one - K", "b", "z", rtol=layer.tol, **most)
        body += [f"found = [{call} for b, z in zip(offset, z0)]"]
        body += ['return np.reshape([z for z, _ in found], z0.shape), f"info {[info for _, info in found]}"']
        return defining("from scipy.sparse.linalg import gmres", body=body)
    if method in ("del2", "iteration"):
        call = _call("fixed_point", "lambda z: f(z, x, *theta)", "z0", xtol=layer.tol, method=repr(method), **most)
        return defining("from scipy.optimize import fixed_point", body=[f'return {call}, "nothing"'])
    residual = "lambda z: f(z, x, *theta) - z"
    if method == "newton_krylov":
        call = _call("newton_krylov", residual, "z0", f_tol=layer.tol, **most)
        return defining("from scipy.optimize import newton_krylov", body=[f'return {call}, "nothing"'])
    options = {"fatol": layer.tol, **most}
    call = _call("root", residual, "z0", method=repr(method), options=options)
    body = [f"answer = {call}", "return answer.x, answer.message"]
    return defining("from scipy.optimize import root", body=body)


_LIBRARIES: dict[str, Callable[[Any], str]] = {
    "deepinv": _deepinv,
    "jaxopt": _jaxopt,
    "optimistix": _optimistix,
    "scipy": _scipy,
    "torchdeq": _torchdeq,
    "torchopt": _torchopt,
    "xitorch": _xitorch,
}
