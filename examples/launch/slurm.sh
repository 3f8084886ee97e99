#!/usr/bin/env bash
# Pre-train on several machines of a SLURM cluster:   sbatch examples/launch/slurm.sh
# Edit the lines marked ←. The job puts itself back in the queue until the run is finished.

#SBATCH --job-name=spd-simsiam
#SBATCH --nodes=8                     # ← machines
#SBATCH --ntasks-per-node=8           # ← GPUs in each: one process a GPU
#SBATCH --gpus-per-node=8             # ←
#SBATCH --cpus-per-task=10            # ← --data.workers and two more
#SBATCH --time=24:00:00               # ← the queue's limit
#SBATCH --signal=USR1@300             # 5 minutes before it: finish the step, save, exit with 75
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -uo pipefail
source .venv/bin/activate             # ← from the clone's root

export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS=1

# One process a task and no launcher between, so that signals arrive and exit codes come back.
# What accelerate reads is named after SLURM's own numbers.
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
    exec python -m train simsiam \
        --data.train hf:ILSVRC/imagenet-1k --data.workers 8 \
        --optim.batch-size 4096 --precision bf16 --checkpoint.every 500 \
        --out runs/simsiam_in1k' # ← the run; the folder has to lie where every machine sees it
code=$?

# 75: told to stop, everything saved. Anything else than 0 is for you to look at.
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
