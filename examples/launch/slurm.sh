#!/usr/bin/env bash
# Pre-train on several machines of a SLURM cluster:   sbatch examples/launch/slurm.sh
# Edit the lines marked ←. The job requeues itself until the run is finished.

#SBATCH --job-name=spd-simclr
#SBATCH --nodes=8                     # ← machines
#SBATCH --ntasks-per-node=8           # ← GPUs per machine: one process per GPU
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

# One process per task, without a launcher in between, so that signals arrive and exit codes come back.
# accelerate reads these variables; SLURM provides their values.
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
    exec python -m train simclr \
        --data.train hf:ILSVRC/imagenet-1k --data.workers 8 \
        --precision bf16 --checkpoint.every 500 \
        --out runs/simclr_in1k' # ← the run; its folder must be shared by all machines
code=$?

# 75: asked to stop, state saved. Any other code except 0 needs your attention.
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
