"""The page docs/compared.md, from what tools/rivals.py kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from deqverify.correct import implementations
from deqverify.faults import DEFECTS, faults

OURS = "deqverify"

HEAD = """# Compared with what people use today

Each baseline was asked of {faults} of the {all_faults} faults of `deqverify.faults` and of {correct} of the
{all_correct} correct implementations of `deqverify.correct`{order}. The libraries' own tests are written again in their
manner in [tools/rivals_baselines.py](../tools/rivals_baselines.py), which names repository and file;
torchdeq keeps no tests in its repository.
{machine}, {date}. `python -m tools.rivals run` measures, `python -m tools.rivals page` writes this page.

Killed, of all faults of the class; a baseline that cannot ask of a fault (a whole model has no equilibrium, a gradient
or a second derivative that is not claimed is not asked for) does not kill it. {ours}
"""

BESIDE = """
Seconds are the processor's: of {ours} until the first example that fails, its target loaded, not shrunk yet; of the
baselines until their one example is judged. The baselines are faster: a hundredth of a second as a rule, where we draw
problems until one fails. A false alarm is a correct implementation that fails.
The baselines know no claims: an implementation that says it is accurate to 1e-5, and is, fails a difference quotient
with a step of 1e-6, and cannot tell it that it may; nor that it claims no second pull through one graph. Kills
of iterations by gradcheck and check_grads say nothing of the fault where the noise of stopping is all that they see, as
on the sound ones listed below; and the test in jaxopt's manner takes differences of 200 states in float32, where
rounding comes near its tolerance: those of sound direct solves are that noise, and so may be those of faults.

The baselines were given one problem each, small and at a rate of ½, as in the tests that they stand for; most of what
they miss shows elsewhere: near γ = 1, beyond a size, at another scale, in the second call, in a batch, in the status.
What they do not miss they need no oracle for: a difference quotient asks the implementation itself.
"""


def page(kept: dict[str, Any]) -> str:
    """Markdown: killed by class of defect, false alarms, median times, and what a baseline found that we did not."""
    asked, ours = kept["asked"], kept["ours"]
    broken = {name: each for name, each in faults().items() if each.target in asked}
    sound = {name: each for name, each in implementations().items() if each.target in asked}
    baselines = list(next(iter(asked.values()))) if asked else []
    tried = [each for each in broken.values() if each.target in ours]
    survived = [each for each in tried if ours[each.target]["verdict"] == "survived"]
    said = f"{OURS} itself was not run."
    if tried:
        said = (
            f"The last column is {OURS}'s default profile, up to the first violation: of the {len(tried)} faults that "
        )
        said += f"it was run on, {len(survived) or 'none'} survived."
    lines = [
        HEAD.format(
            faults=len(broken),
            all_faults=len(faults()),
            correct=len(sound),
            all_correct=len(implementations()),
            order=""
            if len(broken) + len(sound) == len(faults()) + len(implementations())
            else ", in an order of chance",
            machine=kept["machine"],
            date=kept["date"],
            ours=said,
        ).rstrip(),
        "",
        row("class of defect", "faults", *baselines, OURS),
        row(*["---"] * (len(baselines) + 3)),
    ]
    for defect in DEFECTS:
        of = [each for each in broken.values() if each.defect == defect]
        if of:
            lines.append(row(defect, len(of), *(share(asked, of, name) for name in baselines), own(ours, of)))
    everything = list(broken.values())
    lines.append(
        row("all", len(broken), *(share(asked, everything, name) for name in baselines), own(ours, everything))
    )
    cannot = [sum(asked[each.target][name]["verdict"] == "cannot" for each in everything) for name in baselines]
    lines.append(row("cannot be asked", "", *cannot, 0))
    alarms = {name: [each for each in sound.values() if killed(asked, each.target, name)] for name in baselines}
    lines.append(row("false alarms", f"of {len(sound)}", *(len(of) for of in alarms.values()), "*"))
    times = [np.median([asked[each.target][name]["seconds"] for each in everything]) for name in baselines]
    waited = [ours[each.target]["seconds"] for each in tried]
    lines.append(row("median time", "", *(f"{t:.3f} s" for t in times), f"{np.median(waited):.1f} s" if waited else ""))
    lines += ["", "\\* `python -m tools.quiet correct N` counts those of ours.", ""]
    lines.append(BESIDE.format(ours=OURS).strip())
    lines += ["", "## Where a baseline does better", ""]
    better = [each for each in survived if any(killed(asked, each.target, name) for name in baselines)]
    lines += [f"- `{each.target}` survived ours; killed by {by(asked, each, baselines)}." for each in better]
    if not better:
        lines.append("No fault that survived ours was killed by a baseline. What they do better is time.")
    lines += ["", "## False alarms of the baselines", ""]
    for name, of in alarms.items():
        if of:
            lines.append(f"- {name}: " + ", ".join(f"`{each.target}`" for each in of) + ".")
    missed = [each for each in everything if not any(killed(asked, each.target, name) for name in baselines)]
    lines += ["", "## Faults that no baseline kills", "", f"{len(missed)} of {len(everything)}:", ""]
    lines += [f"- `{each.target}` ({each.defect}, {each.subtlety}): {each.wrong}" for each in missed]
    return "\n".join(lines) + "\n"


def row(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def killed(asked: dict[str, Any], target: str, name: str) -> bool:
    return bool(asked[target][name]["verdict"] == "killed")


def share(asked: dict[str, Any], of: list[Any], name: str) -> str:
    return f"{100 * sum(killed(asked, each.target, name) for each in of) / len(of):.0f} %"


def own(ours: dict[str, Any], of: list[Any]) -> str:
    """Of those that were tried, how many where it is not all."""
    tried = [ours[each.target]["verdict"] == "killed" for each in of if each.target in ours]
    if not tried:
        return "not run"
    return f"{100 * sum(tried) / len(tried):.0f} %" + ("" if len(tried) == len(of) else f" of {len(tried)}")


def by(asked: dict[str, Any], each: Any, baselines: list[str]) -> str:
    return ", ".join(name for name in baselines if killed(asked, each.target, name))
