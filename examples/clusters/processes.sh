#!/bin/bash
# Starts `seqdistill "$@"` in several processes: on one machine, or once on each of several.
#   PROCESSES  on this machine; default: one a GPU
#   MACHINES   how many take part; default: 1
#   HEAD       host:port that all machines reach, where they meet; needed for more than one
set -euo pipefail
PROCESSES=${PROCESSES:-$(nvidia-smi --list-gpus | wc -l)}
if [ "${MACHINES:-1}" = 1 ]; then
    meet=(--standalone)
else
    meet=(--nnodes "$MACHINES" --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id "${RUN:-seqdistill}")
fi
exec torchrun "${meet[@]}" --nproc-per-node "$PROCESSES" -m seqdistill "$@"
