#!/usr/bin/env bash
# Everything that is measured on a machine with a CUDA device, most important first; each part writes one file.
# usage: asv_benchmarks/cuda.sh FOLDER [PYTHON [SECONDS [PART...]]]
#   FOLDER   takes the tables, JSON and pages
#   SECONDS  after which a part is stopped (default: an hour); what it had found stays
#   PART...  only these (default: all)
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: asv_benchmarks/cuda.sh FOLDER [PYTHON [SECONDS [PART...]]]}
python=${2:-.venv/bin/python}
seconds=${3:-3600}
chosen=" ${*:4} "
mkdir -p "$out"
export XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONUNBUFFERED=1 # JAX would take three quarters of the device's memory

part() {
    local name=$1
    shift
    [[ $chosen == "  " || $chosen == *" $name "* ]] || return 0
    echo "== $name: $*"
    { echo "\$ $*"; date -u; timeout --signal=INT --kill-after=10 "$seconds" "$@"; echo "exit $?, after $SECONDS s"; } 2>&1 |
        tee "$out/$name.txt"
}

"$python" -c 'import torch; assert torch.cuda.is_available(), "PyTorch sees no CUDA device"' || exit
part laws "$python" -m deqverify run reference 'reference[fast]' 'reference[mass]' 'reference[newton]' torchdeq \
    'torchdeq[ift]' --device cuda --dtype float64 --dtype float32 --seed 0 --profile quick --expect expectations.toml \
    --report "$out/laws.json" --report "$out/laws.html"
part functions "$python" -m tools.functions --framework torch --framework jax --device cuda
part laws-cells "$python" -m deqverify run 'reference[newton]' 'reference[forward-backward]' 'reference[peaceman-rachford]' \
    'correct[per-point]' 'correct[double-batched]' 'correct[checkpointed]' 'correct[wide-inside]' --device cuda \
    --dtype float64 --dtype float32 --seed 1 --max-time 2 --report "$out/laws-cells.json"
part laws-jax "$python" -m deqverify run 'reference[fast,jax]' 'reference[jax]' 'reference[newton,jax]' 'correct[jax-vmap]' \
    --device cuda --dtype float64 --dtype float32 --seed 2 --max-time 2 --report "$out/laws-jax.json"
part calibrate "$python" -m tools.speed calibrate --device cuda --seconds 15 --save "$out"
part model "$python" -m tools.speed model --device cuda --cases 60 --verbose
part lu "$python" -m tools.speed peers --device cuda --sizes 256x256,1024x256,4096x256,8192x256
part near-one "$python" -m tools.speed near-one --device cuda --sizes 2048x16,8192x16
part batched "$python" -m tools.speed batched --device cuda --rounds 3
part roofline "$python" -m tools.floor reference 'reference[fast]' 'reference[mass]' 'plain[solve]' --device cuda \
    --m 1024 --m 4096 --m 8192 --json "$out/roofline.json"
part widths "$python" -m deqverify bench --device cuda --budget 0.1 --m 256 --m 1024 --m 4096 --m 8192 --json "$out/widths.json"
part equal-accuracy "$python" -m deqverify bench --device cuda --pass gradient --accuracy 1e-6 --m 1024 \
    --json "$out/equal-accuracy.json"
part cells "$python" -m deqverify bench --device cuda --cell tanh --cell relu --cell graph --cell attention --cell conv \
    --accuracy 1e-6 --m 64 --json "$out/cells.json" --markdown "$out/cells.md"
part scaling "$python" -m deqverify bench --device cuda --scaling "$out/scaling.html" --limit 0.5
part asv "$python" -m deqverify bench --asv "(passes|achieved).*('reference'|\[fast|plain).*cuda"
