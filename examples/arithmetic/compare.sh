#!/usr/bin/env bash
# The comparison of docs/compare: methods x seeds, then a step's time and memory with nothing beside it, then the report.
#
#   bash examples/arithmetic/compare.sh                          # hours on two cores; started again, it goes on
#   METHODS="grpo spro spro:BETA=0.03" SEEDS=0,1 bash examples/arithmetic/compare.sh
#
# Runs kept under docs/runs are not trained again: as shipped, this only writes the report.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# ---- user block: set any of these in the environment
METHODS=${METHODS:-grpo prime spro spro_bounded spro_shuffled grpo_neg_kl}
SEEDS=${SEEDS:-0,1,2}
# Runs at a time, of about 7 GiB each; the times are always measured one by one
JOBS=${JOBS:-1}
KEEP=${KEEP:-docs/runs/methods}
TIMES=${TIMES:-docs/runs/times}
REPORT=${REPORT:-docs/compare}

read -r -a methods <<< "$METHODS"
runs=("${methods[@]}" --seeds "$SEEDS" --out outputs/compare --keep "$KEEP")
times=("${methods[@]}" --seeds 0 --out outputs/times --keep "$TIMES")

python -m scripts.compare run "${runs[@]}" --jobs "$JOBS"
STEPS=8 HELDOUT_N=100 ROOT=outputs/times/shared python -m scripts.compare run "${times[@]}"
mapfile -t run_files < <(python -m scripts.compare run "${runs[@]}" --list)
mapfile -t time_files < <(python -m scripts.compare run "${times[@]}" --list)
python -m scripts.compare report "${run_files[@]}" --times "${time_files[@]}" --out "$REPORT"
