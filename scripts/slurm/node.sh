#!/usr/bin/env bash
# One task of train.sbatch, on each node once: node.sh LAUNCHER [OVERRIDES...]
# The first node runs the launcher, whose last line comes back here as scripts.slurm.head; the others join its Ray.
set -euo pipefail

NODE=${SLURMD_NODENAME:-$(hostname -s)}
if [[ ! -d $SPRO_ATTEMPT ]]; then
  echo "node $NODE does not see $SPRO_ATTEMPT: set LOGS= to a folder that every node shares" >&2
  exit 1
fi
exec >> "$SPRO_ATTEMPT/node-$NODE.log" 2>&1
cd "$SPRO_ROOT"
if [[ -n ${VENV:-} ]]; then
  if [[ ! -f $VENV/bin/activate ]]; then
    echo "VENV=$VENV: no environment there on node $NODE." | tee "$SPRO_ATTEMPT/failed-$NODE"
    exit 1
  fi
  # shellcheck source=/dev/null
  source "$VENV/bin/activate"
fi

if [[ ${SLURM_PROCID:-0} != 0 ]]; then
  exec python3 -m scripts.slurm.worker
fi

LAUNCHER=$1
shift
env -0 > "$SPRO_ATTEMPT/environment-before"
status=0
SPRO_LAUNCH="python3 -m scripts.slurm.head" bash "$LAUNCHER" "$@" >> "$SPRO_ATTEMPT/launcher.log" 2>&1 || status=$?
rm -f "$SPRO_ATTEMPT/environment-before"
echo "$status" > "$SPRO_ATTEMPT/.ended"
mv "$SPRO_ATTEMPT/.ended" "$SPRO_ATTEMPT/ended"
exit "$status"
