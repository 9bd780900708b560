"""A counterexample as a script that needs the library under test, its framework and NumPy, and not this suite.

What a law asks of a target is written down; of these questions the first is shown that is answered wrong. What is
expected is the oracle's number, a literal; what is seen the script computes, and both stand in its last lines.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deqverify.clock import Interrupted, alarm
from deqverify.dtypes import Array
from deqverify.errors.judge import Judge, astray, gradient_astray
from deqverify.implementations.failures import Reported, TargetFailure
from deqverify.implementations.loading import find, is_factory, load, parse
from deqverify.implementations.protocol import Layer
from deqverify.implementations.scripts import defining, script
from deqverify.implementations.subject import Question, Subject
from deqverify.oracle import Oracle
from deqverify.problem import Problem, SoftmaxProblem, array_code
from deqverify.properties.adjoint import scaled_to_blocks
from deqverify.properties.common import budget, in_columns, judged
from deqverify.registry import Law, laws
from deqverify.running.counterexamples import Counterexample
from deqverify.running.installed import versions
from deqverify.running.snippets import finding_target
from deqverify.tangent_errors import TangentErrors

SECONDS = 120.0
"""So long the target may take to be asked again, what it imports with its first answer included."""

MOST = 24
"""So many of the questions that a law asks are looked at."""

WIDE = ("jax", "float64")
NAMES = {"torch": "torch", "jax": "jnp", "numpy": "np"}


class NoScriptError(ValueError):
    """There is no such script; the message says why."""


@dataclass(frozen=True)
class Shown:
    """One call, and one number of its answer: ``expected`` beside the expression ``seen``.

    ``kind`` is "z", an equilibrium, "pull", the gradients of ⟨c, z⟩ in ``blocks``, "second", the derivatives of
    ``Σ⟨gradient, d⟩``, "random", the global random state, or "pickle". ``what`` names the number.
    """

    problem: Problem
    kind: str
    what: str
    expected: str
    place: tuple[int, ...] = ()
    block: int = 0
    x: Array | None = None
    start: Array | None = None
    cotangent: Array | None = None
    direction: Mapping[str, Array] = field(default_factory=dict)
    layer: Any = None
    raises: bool = False


def standalone(known: Counterexample) -> str:
    """The script; :class:`NoScriptError` for a target or a law of which there is none. Asks the target."""
    if known.device != "cpu":
        raise NoScriptError("what was seen on another device than the CPU is shown with deqverify alone")
    if known.kind in ("hang", "death"):
        raise NoScriptError(f"a {known.kind} is not tried again here")
    problem = known.arguments.get("problem")
    code = getattr(getattr(problem, "cell", None), "code", None)
    if not isinstance(problem, Problem) or code is None:
        raise NoScriptError("its cell has no text outside of deqverify")
    subject = Subject(load(known.target), known.dtype)
    call = _calling(subject.implementation, known.target)
    law = laws()[known.law]
    try:
        with alarm(SECONDS):
            shown = _shown(law, subject, dict(known.arguments), known.kind == "crash")
    except Interrupted as error:
        raise NoScriptError(f"the target did not answer within {SECONDS:g} s") from error
    if shown is None:
        raise NoScriptError(f"the law {law.id} is about several calls, each of which is answered right by itself")
    if shown.layer is not None and script(shown.layer):
        call = str(script(shown.layer))
    return _text(law, known, subject, shown, code, call)


def _calling(layer: Any, target: str) -> str:
    """The lines that define ``solve``, of a library or of a function of the user's, or of what their factory makes."""
    if lines := script(layer):
        return lines
    name, options = parse(target).name, parse(target).options
    module, _, attribute = name.partition(":")
    found, made = find(name), ".".join(["theirs", *attribute.split(".")[1:]])  # their own may be called solve too
    if attribute and is_factory(found):
        made = f"{made}({', '.join(map(repr, options))})"
        found = found(*options)
    if not attribute or isinstance(found, Layer) or not inspect.isroutine(found):
        raise NoScriptError(f"the target {target} is built on it")
    imports = [line for line in finding_target(target) if line]
    body = [f"answer = {made}(lambda z: f(z, x, *theta), z0)"]
    body += ['return answer if isinstance(answer, tuple) else (answer, "nothing")']
    return defining(*imports, f"from {module} import {attribute.partition('.')[0]} as theirs", body=body)


def _shown(law: Law, subject: Subject, arguments: dict[str, Any], crashed: bool) -> Shown | None:
    """What the script shows of a violation."""
    problem = arguments["problem"]
    if law.id in ("poisoned-point", "status-nan"):
        return _beside_nan(subject, problem, arguments["point"])
    if law.id == "second-order":
        return _second(subject, problem, arguments["cotangent"], scaled_to_blocks(problem, arguments["first"]))
    if law.id == "pickles" and "\ndeq = " in (script(subject.implementation) or ""):
        return Shown(problem, "pickle", "the type of its pickle", "'bytes'", raises=True)
    if law.id == "settings-kept" and subject.framework.name == "torch":
        what = "the global random state is as before"
        return Shown(problem, "random", what, "True", cotangent=np.ones(problem.states))
    asked = subject.recording()
    with suppress(Reported, TargetFailure):
        for _ in law.body(asked, **arguments):
            pass
    questions = (asked.questions or [])[:MOST]
    looked = [found for question in questions for found in _looked_at(subject, question)]
    unpulled: list[Question] = []
    if subject.claims.backward is not None and not any(bad for _, bad in looked):  # some laws pull in their own way
        unpulled = [replace(q, cotangent=np.ones(q.problem.states)) for q in questions if q.cotangent is None]
    pulled = [found for question in unpulled for found in _looked_at(subject, question)]
    wrong = [shown for shown, bad in (*looked, *pulled) if bad and (shown.raises or not crashed)]
    if wrong or law.family in ("batching", "state", "arrays", "modes"):
        return wrong[0] if wrong else None
    return looked[-1][0] if looked else None


def _looked_at(subject: Subject, question: Question) -> Iterator[tuple[Shown, bool]]:
    """What a question shows, and whether it was answered wrong: the equilibrium, and the gradient if it was pulled."""
    posed, problem, c = subject.posed(question), question.problem, question.cotangent
    start = None if question.start is None else subject.framework.to_numpy(question.start)
    base = Shown(problem, "z", "", "", start=start, layer=question.layer, cotangent=c)
    try:
        answer = posed.solve(problem)
        truth = judged(posed, problem, c, near=answer.z)
    except TargetFailure:
        truth = judged(subject, problem, c, near=np.zeros(problem.states))
        yield replace(base, raises=True, **_number("z", truth.z, truth.z)), True
        return
    if not truth.in_range:
        return
    yield replace(base, **_number("z", truth.z, answer.z)), astray(truth, answer.z)
    if c is None:
        return
    try:
        found, _ = posed.pull_status(answer, c)
    except TargetFailure:
        yield replace(base, kind="pull", raises=True, **_gradient(truth, truth.pulled, problem)), True
        return
    wrong = any(gradient_astray(truth, block, found[block]) for block in found)
    yield replace(base, kind="pull", **_gradient(truth, found, problem)), wrong


def _number(name: str, true: Array, seen: Array) -> dict[str, Any]:
    """The entry that is furthest from the truth, as what is shown."""
    if not true.size:
        return {"what": f"the shape of {name}", "expected": str(true.shape)}
    with np.errstate(invalid="ignore"):
        apart = np.nan_to_num(np.abs(seen - true), nan=np.inf, posinf=np.inf)
    place = tuple(int(k) for k in np.unravel_index(int(np.argmax(apart)), true.shape))
    return {"what": f"{name}{list(place) or ''}", "expected": repr(float(true[place])), "place": place}


def _gradient(truth: Judge, found: Mapping[str, Array], problem: Problem) -> dict[str, Any]:
    """Of the first block in which the gradient is about as far from the truth as in any, relative to its size."""

    def off(block: str) -> float:
        true, seen = np.asarray(truth.pulled[block]), np.asarray(found[block])
        size = float(np.abs(true).max(initial=0.0)) or 1.0
        return float(np.nan_to_num(np.abs(seen - true), nan=np.inf).max(initial=0.0)) / size

    order = ("x", *problem.theta)
    worst = _first_of_the_worst([block for block in order if np.size(truth.pulled[block])], off)
    said = _number(f"∂⟨c, z⟩/∂{worst}", np.asarray(truth.pulled[worst]), np.asarray(found[worst]))
    return said | {"block": order.index(worst)}


def _first_of_the_worst(blocks: list[str], off: Callable[[str], float]) -> str:
    most = max(map(off, blocks), default=0.0)
    return next((block for block in blocks if off(block) >= most / 4), "x")


def _beside_nan(subject: Subject, problem: Problem, point: int) -> Shown:
    x = problem.x.copy()
    x[point] = np.nan
    truth = judged(subject, problem, near=subject.solve(problem).z)
    try:
        answer = subject.solve(problem, x=x)
    except TargetFailure:
        return Shown(problem, "z", "z of the features that are NaN", "'nan'", (0,) * truth.z.ndim, x=x, raises=True)
    others = [k for k in range(problem.n) if k != point]
    if not others:  # what the library says of it is what counts
        return Shown(problem, "z", "z of the features that are NaN", "'nan'", place=(0,) * truth.z.ndim, x=x)
    said = _number("z", truth.z[others], answer.z[others])
    place = (others[said["place"][0]], *said["place"][1:])
    return Shown(problem, "z", f"z{list(place)}, beside NaN", said["expected"], place=place, x=x)


def _second(subject: Subject, problem: SoftmaxProblem, cotangent: Array, d: Mapping[str, Array]) -> Shown:
    found = subject.second_order(problem, cotangent, dict(d))
    exact = TangentErrors(budget(subject, problem, cotangent.T).theory, in_columns(d)).second
    true = {
        name: exact["Phi"].value.T if name == "x" else np.asarray(exact[name].value) for name in ("x", *problem.theta)
    }

    def off(block: str) -> float:
        size = float(np.abs(true[block]).max(initial=0.0)) or 1.0
        return float(np.nan_to_num(np.abs(found[block] - true[block]), nan=np.inf).max(initial=0.0)) / size

    worst = _first_of_the_worst(list(true), off)
    said = _number(f"∂⟨∂⟨c, z⟩, d⟩/∂{worst}", true[worst], np.asarray(found[worst]))
    unit = np.zeros(np.shape(true[worst]))
    unit[said["place"]] = 1.0
    accuracy = 1e-12 * max(abs(float(said["expected"])), 1e-300)
    number = Oracle(problem).second_derivative(cotangent.T, in_columns(d), in_columns({worst: unit}), accuracy)
    block = list(true).index(worst)
    changed = said | {"expected": repr(float(number)), "block": block}
    return Shown(problem, "second", cotangent=cotangent, direction=d, **changed)


def _text(law: Law, known: Counterexample, subject: Subject, shown: Shown, code: str, call: str) -> str:
    framework, problem = subject.framework.name, shown.problem
    xp, names = NAMES[framework], list(problem.theta)
    at = versions()
    library = parse(known.target).name
    used = [name for name in (library, framework, "numpy") if name in at]
    packages = ", ".join(f"{name} {at[name]}" for name in dict.fromkeys(used))
    head = [f"# {law.id} × {known.target} {subject.dtype}: {law.statement}.", f"# With {packages}."]
    imports = ["import numpy as np"]
    if framework == "torch":
        imports += ["import torch"]
    elif framework == "jax":
        imports += ["import jax", "import jax.numpy as jnp"]
    wide = ['jax.config.update("jax_enable_x64", True)', "", ""] if (framework, subject.dtype) == WIDE else []
    lines = [*head, *imports, call, "", "", *wide]
    body = textwrap.indent(code.replace("xp.", f"{xp}."), "    ")
    lines += [f"def f(z, x, {', '.join(names)}):  # the cell {problem.cell.name}", body, "", ""]
    lines += _data(framework, subject.dtype, shown)
    lines += _ending(framework, shown, names)
    return "\n".join(lines)


def _made(framework: str, dtype: str, array: Array, leaf: bool = False) -> str:
    code = array_code(np.asarray(array))
    if framework == "torch":
        return f"torch.tensor({code}, dtype=torch.{dtype}{', requires_grad=True' if leaf else ''})"
    return f"jnp.asarray({code}, jnp.{dtype})" if framework == "jax" else code


def _data(framework: str, dtype: str, shown: Shown) -> list[str]:
    problem, leaf = shown.problem, framework == "torch" and shown.kind != "z"
    x = problem.x if shown.x is None else shown.x
    lines = [f"x = {_made(framework, dtype, x, leaf)}"]
    lines += [f"{name} = {_made(framework, dtype, value, leaf)}" for name, value in problem.theta.items()]
    start = np.zeros(problem.states) if shown.start is None else shown.start
    lines += [f"z0 = {_made(framework, dtype, start)}"]
    if shown.kind != "z" and shown.cotangent is not None:
        lines += [f"c = {_made(framework, dtype, shown.cotangent)}  # the gradient of a loss in z"]
    if shown.kind == "second":
        order = ("x", *problem.theta)
        values = ", ".join(_made(framework, dtype, shown.direction[name]) for name in order)
        lines += [f"d = ({values},)  # a direction in x and the parameters"]
    return lines


def _ending(framework: str, shown: Shown, names: list[str]) -> list[str]:
    leaves = ", ".join(("x", *names))
    run = _running(framework, shown, leaves)
    if shown.kind == "z":
        seen = f"z{list(shown.place)}" if shown.place else "tuple(z.shape)"
        seen = f"float({seen})" if shown.place else seen
    elif shown.kind == "pickle":
        seen = "type(pickle.dumps(deq)).__name__"
    elif shown.kind == "random":
        seen = "bool((before == torch.get_rng_state()).all())"
    else:
        place = f"[{', '.join(map(str, shown.place))}]" if shown.place else ""
        seen = f"float(found[{shown.block}]{place})"
        if not np.size(shown.problem.x):
            seen = f"tuple(found[{shown.block}].shape)"
        if framework == "torch":  # None where no gradient reaches it, which counts as zero
            seen = f"0.0 if found[{shown.block}] is None else {seen}"
    run += [f"seen = {seen}"]
    if shown.raises:
        run = ["try:", *(f"    {line}" for line in run), "except Exception as error:"]
        run += ['    seen = f"{type(error).__name__}: {error}"']
    said = [] if shown.raises else ['print("the library says:", said)']
    return ["", *run, *said, f"print({('expected, ' + shown.what + ':')!r}, {shown.expected})", 'print("seen:", seen)']


def _running(framework: str, shown: Shown, leaves: str) -> list[str]:
    solved = f"z, said = solve(f, z0, {leaves})"
    if shown.kind == "pickle":
        return ["import pickle", "", solved]
    if shown.kind == "z":
        return [solved]
    if framework == "torch":
        pull = f"torch.autograd.grad(z, ({leaves}), c, allow_unused=True"
        if shown.kind == "random":
            return ["before = torch.get_rng_state()", solved, f"{pull})"]
        if shown.kind == "pull":
            return [solved, f"found = {pull})"]
        slope = "slope = sum((g * e).sum() for g, e in zip(first, d) if g is not None)"
        return [solved, f"first = {pull}, create_graph=True)", slope,
                f"found = torch.autograd.grad(slope, ({leaves}), allow_unused=True)"]  # fmt: skip
    call = f"lambda {leaves}: solve(f, z0, {leaves})"
    if shown.kind == "pull":
        return [f"z, pull, said = jax.vjp({call}, {leaves}, has_aux=True)", "found = pull(c)"]
    inner = "sum((g * e).sum() for g, e in zip(pull(c), d))"
    return [
        solved,
        "",
        "",
        f"def slope({leaves}):",
        f"    z, pull = jax.vjp(lambda {leaves}: solve(f, z0, {leaves})[0], {leaves})",
        f"    return {inner}",
        "",
        "",
        f"found = jax.grad(slope, argnums=tuple(range({leaves.count(',') + 1})))({leaves})",
    ]
