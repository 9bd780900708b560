"""Where a law's time goes: ``python -m tools.cost existence mass gauge`` prints examples per second and shares."""

from __future__ import annotations

import sys

import torch

from deqverify.benchmarking.cost import examined

ROUNDS = 5


def main(law_ids: list[str]) -> None:
    torch.set_num_threads(1)
    found = {id: [] for id in law_ids}
    for _ in range(ROUNDS):  # in turns: what disturbs one law disturbs the others too
        for id in law_ids:
            found[id].append(examined(id))
    for id in law_ids:
        rates = sorted(each.rate for each in found[id])
        shown = ", ".join(f"{part} {share:.0%}" for part, share in found[id][-1].shares.items())
        spread = f"({rates[0]:.0f} to {rates[-1]:.0f} in {ROUNDS} rounds)"
        print(f"{id:20} median {rates[ROUNDS // 2]:.0f} examples/s {spread}: {shown}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["existence", "mass", "gauge"])
