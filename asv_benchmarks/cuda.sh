#!/usr/bin/env bash
# Everything that is measured on a machine with a CUDA device, most important first. Written without one at hand:
# how long it takes is not known, an hour is a guess.
# usage: asv_benchmarks/cuda.sh FOLDER [PYTHON]   the tables, JSON and pages go to FOLDER
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: asv_benchmarks/cuda.sh FOLDER [PYTHON]}
python=${2:-.venv/bin/python}
mkdir -p "$out"

part() {
    local name=$1
    shift
    echo "== $name: $*"
    { echo "\$ $*"; date -u; "$@"; } 2>&1 | tee "$out/$name.txt"
}

"$python" -c 'import torch; assert torch.cuda.is_available(), "PyTorch sees no CUDA device"' || exit
part laws "$python" -m deqverify run reference 'reference[fast]' 'reference[mass]' torchdeq 'torchdeq[ift]' \
    --device cuda --dtype float64 --dtype float32 --seed 0 --expect expectations.toml --report "$out/laws.json"
part lu "$python" -m tools.speed peers --device cuda --sizes 256x256,1024x256,4096x256,8192x256
part near-one "$python" -m tools.speed near-one --device cuda --sizes 2048x16,8192x16
part batched "$python" -m tools.speed batched --device cuda --rounds 3
part roofline "$python" -m tools.floor reference 'reference[fast]' 'reference[mass]' 'plain[solve]' --device cuda \
    --m 256 --m 1024 --m 4096 --m 8192 --json "$out/roofline.json"
part widths "$python" -m deqverify bench --device cuda --m 256 --m 1024 --m 4096 --m 8192 --json "$out/widths.json"
part equal-accuracy "$python" -m deqverify bench --device cuda --pass gradient --accuracy 1e-6 --m 1024 \
    --json "$out/equal-accuracy.json"
part cells "$python" -m deqverify bench --device cuda --cell tanh --cell relu --cell graph --cell attention --cell conv \
    --accuracy 1e-6 --m 64 --json "$out/cells.json" --markdown "$out/cells.md"
part model "$python" -m tools.speed model --device cuda --cases 200
part scaling "$python" -m deqverify bench --device cuda --scaling "$out/scaling.html" --limit 5
part asv "$python" -m deqverify bench --asv "(passes|achieved).*('reference'|\[fast|plain).*cuda"
