#!/usr/bin/env bash
# Predict a table on the nodes of a Slurm job: sbatch slurm.sh RUN TABLE OUT
#
# All three lie on storage that every node sees, as do the pictures of the table and the environment with fusetune.
#SBATCH --job-name=fusetune
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=32G
#SBATCH --time=04:00:00
set -euo pipefail

run=$1 table=$2 out=$3
environment=${FUSETUNE_ENV:-$HOME/fusetune}
source "$environment/bin/activate"
export RAY_USAGE_STATS_ENABLED=0

# The first node is the head, and works as well. The port is the job's own, since nodes may be shared.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(getent ahostsv4 "$head" | awk 'NR == 1 { print $1 }')
port=$((20000 + SLURM_JOB_ID % 20000))

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --node-ip-address="$address" --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" \
  --include-dashboard=false --block &
until (exec 3<>"/dev/tcp/$address/$port") 2>/dev/null; do sleep 2; done
if ((SLURM_JOB_NUM_NODES > 1)); then
  srun --overlap --nodes="$((SLURM_JOB_NUM_NODES - 1))" --ntasks="$((SLURM_JOB_NUM_NODES - 1))" --exclude="$head" \
    ray start --address="$address:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --block &
fi

# This script runs on the first node, which belongs to the cluster. What was done stands if the job is cut off: submit
# it again with the same words, and it continues.
fusetune predict "$run" "$table" --out "$out" --engine ray --address "$address:$port" \
  --workers "$((SLURM_JOB_NUM_NODES * SLURM_CPUS_PER_TASK))"
