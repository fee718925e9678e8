#!/bin/bash
# Labels a folder as a Slurm array: each task takes every n-th batch, all write to one folder.
#
#   sbatch --array=0-7 examples/slurm.sh PHOTOS MASKS --model net.safetensors --labels labels.csv
#
# Tasks that were stopped: SHARDS=8 sbatch --array=3,5 examples/slurm.sh … with the same arguments.
#SBATCH --job-name=wsss-label
#SBATCH --array=0-3
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@60
set -euo pipefail

photos=${1:?usage: slurm.sh PHOTOS MASKS [options of wsss label]}
masks=${2:?usage: slurm.sh PHOTOS MASKS [options of wsss label]}
shift 2

# Shards count from 0, so the array must: 0 to n-1, or SHARDS=n and some of these.
if [[ -z ${SHARDS:-} ]]; then
  SHARDS=$SLURM_ARRAY_TASK_COUNT
  if [[ $SLURM_ARRAY_TASK_MIN != 0 || $SLURM_ARRAY_TASK_MAX != $((SHARDS - 1)) ]]; then
    echo "slurm.sh: the array must be 0-$((SHARDS - 1)), or SHARDS must tell how many shards there are" >&2
    exit 2
  fi
fi

# srun does not take the processors of the job by itself
exec srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" wsss label "$photos" --out "$masks" --shard "$SLURM_ARRAY_TASK_ID/$SHARDS" --quiet "$@"
