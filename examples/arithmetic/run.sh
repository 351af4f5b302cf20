#!/usr/bin/env bash
# Train the addition model with SPRO on the CPU, through verl, Ray, FSDP2 and vLLM.
#
#   bash examples/arithmetic/run.sh                    # what `make demo` runs
#   METHOD=grpo bash examples/arithmetic/run.sh        # the same with another method: any +method= of recipe/*/config
#   SWEEP=1 bash examples/arithmetic/run.sh            # learning rate, beta, seeds: the tables of the README
#   bash examples/arithmetic/run.sh trainer.test_freq=5 ...    # any Hydra override of verl's
#
# Started again after an interruption it resumes from the last checkpoint; a finished run is only reported.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# ---- user block: set any of these in the environment
METHOD=${METHOD:-spro}
# Of methods that have one; empty: the method's own
BETA=${BETA:-}
LR=${LR:-1e-4}
# Of PRIME's reward model; empty: twice LR, as in upstream's script
RM_LR=${RM_LR:-}
SEED=${SEED:-0}
STEPS=${STEPS:-80}
HELDOUT_N=${HELDOUT_N:-1000}
TEST_FREQ=${TEST_FREQ:-20}
SAVE_FREQ=${SAVE_FREQ:-1}
ROOT=${ROOT:-outputs/arithmetic}
# Data-parallel ranks of a node: Ray's "GPUs", logical here; nodes: more than one needs a cluster, see scripts/slurm
RANKS=${RANKS:-1}
NNODES=${NNODES:-1}
FRESH=${FRESH:-0}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}

if [[ -n ${SWEEP:-} ]]; then
  exec python -m examples.arithmetic.sweep --root "$ROOT" "$@"
fi

# What this run is: a folder holds one run, and is never continued as another
export METHOD BETA LR RM_LR SEED STEPS HELDOUT_N RANKS NNODES
DESCRIPTION=$(python -m examples.arithmetic.settings "$@")
NAME=$(head -n 1 <<< "$DESCRIPTION")
SETTINGS=$(tail -n 1 <<< "$DESCRIPTION")

DATA=$ROOT/data
BASE=$ROOT/base-seed$SEED
OUT=${OUT:-$ROOT/$NAME}
if [[ $FRESH == 1 ]]; then rm -rf "$OUT"; fi
mkdir -p "$OUT" "$ROOT"

if [[ -f $OUT/run.json && $(cat "$OUT/run.json") != "$SETTINGS" ]]; then
  echo "$OUT holds a run with other settings:" >&2
  diff <(cat "$OUT/run.json") <(echo "$SETTINGS") >&2 || true
  echo "Set OUT= to another folder to keep it, or FRESH=1 to replace it." >&2
  exit 2
fi
if [[ -f $OUT/summary.md ]]; then
  echo "$OUT is finished (FRESH=1 trains it again):"
  python -m examples.arithmetic.summary "$OUT"
  exit 0
fi

# One at a time: runs side by side share data and base model
exec 9> "$ROOT/.lock"
flock 9
if ! python -m examples.arithmetic.make_data --out "$DATA" --heldout "$HELDOUT_N" ||
   ! python -m examples.arithmetic.make_model --data "$DATA" --out "$BASE" --seed "$SEED"; then
  echo "Set ROOT= to another folder to make data and base model anew." >&2
  exit 2
fi

exec 9>&-

echo "$SETTINGS" > "$OUT/run.json"
# Absolute: Ray's workers need not share this folder
OUT_ABSOLUTE=$(cd "$OUT" && pwd)
export VERL_FILE_LOGGER_PATH=$OUT_ABSOLUTE/metrics.jsonl
export TENSORBOARD_DIR=$OUT_ABSOLUTE/tensorboard

# A rank's share of the 16 x 8 responses, in one pass
MICRO_BATCH=$((16 * 8 / (RANKS * NNODES)))

METHOD_ARGS=(+method="$METHOD")
if [[ -n $BETA ]]; then METHOD_ARGS+=(algorithm.spro.beta="$BETA"); fi
if [[ $METHOD == prime ]]; then
  METHOD_ARGS+=(algorithm.prime.optim.lr="$(python -c 'import json, sys; print(json.loads(sys.argv[1])["rm_lr"])' "$SETTINGS")")
fi
DATA_ARGS=(
  data.train_files="$DATA/train.parquet"
  data.val_files="$DATA/heldout.parquet"
  data.train_batch_size=16
  data.max_prompt_length=8
  data.max_response_length=40
  data.seed="$SEED"
  data.dataloader_num_workers=0
)
MODEL_ARGS=(
  actor_rollout_ref.model.path="$BASE"
  actor_rollout_ref.actor.optim.lr="$LR"
  actor_rollout_ref.actor.ppo_mini_batch_size=16
  actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu="$MICRO_BATCH"
  actor_rollout_ref.actor.data_loader_seed="$SEED"
)
ROLLOUT_ARGS=(
  actor_rollout_ref.rollout.n=8
  actor_rollout_ref.rollout.max_model_len=48
  actor_rollout_ref.rollout.max_num_seqs=256
  actor_rollout_ref.rollout.seed="$SEED"
  # Equal, so that policy and reference see the same batches and CPR is exactly 0 at step 1
  actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu="$MICRO_BATCH"
  actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu="$MICRO_BATCH"
)
REWARD_ARGS=(
  # Routes data_source "arithmetic" to its verifier (verl_ext/rewards), with a verdict's kind in metrics and dumps
  reward.reward_manager.name=spro
)
TRAINER_ARGS=(
  trainer.project_name=arithmetic
  trainer.experiment_name="$NAME"
  "trainer.logger=[file,tensorboard]"
  trainer.default_local_dir="$OUT_ABSOLUTE/checkpoints"
  trainer.total_training_steps="$STEPS"
  trainer.total_epochs=1000
  trainer.save_freq="$SAVE_FREQ"
  trainer.max_actor_ckpt_to_keep=2
  trainer.test_freq="$TEST_FREQ"
  trainer.nnodes="$NNODES"
  trainer.n_gpus_per_node="$RANKS"
  ray_kwargs.ray_init.num_gpus="$RANKS"
)
# A resumed run starts with the validation that the interrupted one has done already
if [[ -f $OUT/checkpoints/latest_checkpointed_iteration.txt ]]; then
  TRAINER_ARGS+=(trainer.val_before_train=false)
fi

echo "training $NAME in $OUT; verl's own log is $OUT/train.log"
python -m examples.arithmetic.watch "$OUT" --steps "$STEPS" &
WATCH=$!
trap 'kill "$WATCH" 2>/dev/null || true' EXIT
trap 'echo "interrupted; the same command resumes from the last checkpoint" >&2; exit 130' INT

status=0
# A tool that reads a launcher sets SPRO_LAUNCH, and is handed the overrides
${SPRO_LAUNCH:-python -m recipe.spro.main_spro} +stack=cpu \
  "${METHOD_ARGS[@]}" "${DATA_ARGS[@]}" "${MODEL_ARGS[@]}" "${ROLLOUT_ARGS[@]}" "${REWARD_ARGS[@]}" \
  "${TRAINER_ARGS[@]}" "$@" >> "$OUT/train.log" 2>&1 || status=$?

if [[ $status == 0 ]]; then
  # It ends by itself once the last step is shown
  wait "$WATCH" 2>/dev/null || true
else
  kill "$WATCH" 2>/dev/null || true
fi
if [[ $status != 0 ]]; then
  echo "training ended with status $status; the last lines of $OUT/train.log:" >&2
  tail -n 15 "$OUT/train.log" >&2
  exit "$status"
fi

python -m examples.arithmetic.plot "$OUT" --out "$OUT/training.png"
python -m examples.arithmetic.summary "$OUT"
cat <<EOF
plot         $OUT/training.png
metrics      $OUT/metrics.jsonl
TensorBoard  tensorboard --logdir $OUT/tensorboard
checkpoint   $OUT/checkpoints/global_step_$STEPS
EOF
