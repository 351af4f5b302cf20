#!/usr/bin/env bash
# SPRO | Qwen2.5-1.5B-Instruct | one GPU with 80 GB | FSDP2
#
#   python -m scripts.doctor recipe/spro/run_qwen2_5_1_5b_1gpu.sh     # first: checks it, starts nothing
#   bash recipe/spro/run_qwen2_5_1_5b_1gpu.sh
#   METHOD=grpo bash recipe/spro/run_qwen2_5_1_5b_1gpu.sh     # or any other +method=
#
# Each value is marked: Paper (SPRO's), PRIME (the setting that the paper builds on), or Ours.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# ---- user block: set any of these in the environment
NAME=${NAME:-qwen2.5-1.5b}
# Ours
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-1.5B-Instruct}
# Ours: GSM8K, by the names that `python -m scripts.data prepare` gives its files
DATA=${DATA:-$HOME/data}
TRAIN_FILES=${TRAIN_FILES:-$DATA/gsm8k_train.parquet}
VAL_FILES=${VAL_FILES:-$DATA/gsm8k_test.parquet}
# Ours: a quarter of PRIME's, for one GPU
PROMPTS=${PROMPTS:-64}
MINI_PROMPTS=${MINI_PROMPTS:-64}
# Responses to a prompt. Ours; PRIME: 4
RESPONSES=${RESPONSES:-8}
# Ours: GSM8K's answers are short
MAX_PROMPT=${MAX_PROMPT:-512}
MAX_RESPONSE=${MAX_RESPONSE:-1024}
# verl's default, usual for a model of this size; PRIME's 5e-7 is of a 7B model
LR=${LR:-1e-6}
NNODES=${NNODES:-1}
GPUS_PER_NODE=${GPUS_PER_NODE:-1}
ENGINE=${ENGINE:-fsdp2}
GPU_MEMORY_UTILIZATION=${GPU_MEMORY_UTILIZATION:-0.4}
# ---- end of the user block; what it leaves out is in launch/common.sh

# shellcheck source=/dev/null
source "$HERE/launch/common.sh"

ARGS=(
  "${METHOD_ARGS[@]}" "${DATA_ARGS[@]}" "${MODEL_ARGS[@]}" "${ACTOR_ARGS[@]}" "${ENGINE_ARGS[@]}"
  "${ROLLOUT_ARGS[@]}" "${REWARD_ARGS[@]}" "${TRAINER_ARGS[@]}"
)
${SPRO_LAUNCH:-python3 -m recipe.spro.main_spro} "${ARGS[@]}" "$@"
