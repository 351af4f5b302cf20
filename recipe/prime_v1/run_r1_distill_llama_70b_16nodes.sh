#!/usr/bin/env bash
# PRIME | DeepSeek-R1-Distill-Llama-70B | 16 nodes of 8 GPUs with 80 GB | Megatron
#
#   python -m scripts.doctor recipe/prime_v1/run_r1_distill_llama_70b_16nodes.sh     # first: checks it, starts nothing
#   bash recipe/prime_v1/run_r1_distill_llama_70b_16nodes.sh
#
# Each value is marked: Paper (SPRO's), PRIME (the setting that the paper builds on), or Ours.
# The reward model takes the policy's engine and parallelism.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# ---- user block: set any of these in the environment
METHOD=${METHOD:-prime}
NAME=${NAME:-r1-distill-llama-70b}
# Ours: the paper trains a 7B model
MODEL_PATH=${MODEL_PATH:-deepseek-ai/DeepSeek-R1-Distill-Llama-70B}
# Paper: Eurus-2-RL-Data, by the names that `python -m scripts.data prepare` gives its files. Evaluation: ours
DATA=${DATA:-$HOME/data}
TRAIN_FILES=${TRAIN_FILES:-[$DATA/eurus2_math.parquet,$DATA/eurus2_code.parquet]}
VAL_FILES=${VAL_FILES:-[$DATA/math500.parquet,$DATA/aime24.parquet]}
# PRIME: prompts of a step, and of an update
PROMPTS=${PROMPTS:-256}
MINI_PROMPTS=${MINI_PROMPTS:-256}
# Responses to a prompt. PRIME
RESPONSES=${RESPONSES:-4}
# Ours: a model that reasons at length (PRIME: 3072)
MAX_PROMPT=${MAX_PROMPT:-1024}
MAX_RESPONSE=${MAX_RESPONSE:-16384}
# PRIME: constant
LR=${LR:-5e-7}
# PRIME: twice the policy's
RM_LR=${RM_LR:-1e-6}
NNODES=${NNODES:-16}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
ENGINE=${ENGINE:-megatron}
# Ours: tensor parallel inside a node, four stages; the rest, 4, is data parallel
TP=${TP:-8}
PP=${PP:-4}
ROLLOUT_TP=${ROLLOUT_TP:-8}
OFFLOAD=${OFFLOAD:-True}
GPU_MEMORY_UTILIZATION=${GPU_MEMORY_UTILIZATION:-0.6}
# Ours: one sequence at a time
MAX_TOKENS_PER_GPU=${MAX_TOKENS_PER_GPU:-$((MAX_PROMPT + MAX_RESPONSE))}
# ---- end of the user block; what it leaves out is in launch/common.sh

# shellcheck source=/dev/null
source "$HERE/../spro/launch/common.sh"

ARGS=(
  "${METHOD_ARGS[@]}" "${DATA_ARGS[@]}" "${MODEL_ARGS[@]}" "${ACTOR_ARGS[@]}" "${ENGINE_ARGS[@]}"
  "${ROLLOUT_ARGS[@]}" "${REWARD_ARGS[@]}" "${TRAINER_ARGS[@]}"
)
${SPRO_LAUNCH:-python3 -m recipe.spro.main_spro} "${ARGS[@]}" "$@"
