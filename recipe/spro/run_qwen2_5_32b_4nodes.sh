#!/usr/bin/env bash
# SPRO | Qwen2.5-32B | 4 nodes of 8 GPUs with 80 GB | Megatron
#
#   python -m scripts.doctor recipe/spro/run_qwen2_5_32b_4nodes.sh     # first: checks it, starts nothing
#   bash recipe/spro/run_qwen2_5_32b_4nodes.sh
#   METHOD=grpo bash recipe/spro/run_qwen2_5_32b_4nodes.sh     # or any other +method=
#
# Each value is marked: Paper (SPRO's), PRIME (the setting that the paper builds on), or Ours.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# ---- user block: set any of these in the environment
NAME=${NAME:-qwen2.5-32b}
# Ours: the paper trains a 7B model
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-32B}
# Paper: Eurus-2-RL-Data, by the names that `python -m scripts.data prepare` gives its files. Evaluation: ours
DATA=${DATA:-$HOME/data}
TRAIN_FILES=${TRAIN_FILES:-[$DATA/eurus2_math.parquet,$DATA/eurus2_code.parquet]}
VAL_FILES=${VAL_FILES:-[$DATA/math500.parquet,$DATA/aime24.parquet]}
# PRIME: prompts of a step, and of an update
PROMPTS=${PROMPTS:-256}
MINI_PROMPTS=${MINI_PROMPTS:-256}
# Responses to a prompt. Ours; PRIME: 4
RESPONSES=${RESPONSES:-8}
# Ours: a model of this size writes longer answers (PRIME: 3072)
MAX_PROMPT=${MAX_PROMPT:-1024}
MAX_RESPONSE=${MAX_RESPONSE:-8192}
# PRIME: constant
LR=${LR:-5e-7}
NNODES=${NNODES:-4}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
ENGINE=${ENGINE:-megatron}
# Ours: tensor parallel inside a node, two stages; the rest, 2, is data parallel
TP=${TP:-8}
PP=${PP:-2}
ROLLOUT_TP=${ROLLOUT_TP:-4}
OFFLOAD=${OFFLOAD:-True}
GPU_MEMORY_UTILIZATION=${GPU_MEMORY_UTILIZATION:-0.6}
# ---- end of the user block; what it leaves out is in launch/common.sh

# shellcheck source=/dev/null
source "$HERE/launch/common.sh"

ARGS=(
  "${METHOD_ARGS[@]}" "${DATA_ARGS[@]}" "${MODEL_ARGS[@]}" "${ACTOR_ARGS[@]}" "${ENGINE_ARGS[@]}"
  "${ROLLOUT_ARGS[@]}" "${REWARD_ARGS[@]}" "${TRAINER_ARGS[@]}"
)
${SPRO_LAUNCH:-python3 -m recipe.spro.main_spro} "${ARGS[@]}" "$@"
