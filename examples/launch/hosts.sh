#!/usr/bin/env bash
# Pre-train on machines without a scheduler. On each of them, from the clone's root:
#   NODE=0 examples/launch/hosts.sh     on the first
#   NODE=1 examples/launch/hosts.sh     on the second, …
# Edit the lines marked ←. If a machine is lost, the job ends on all of them, and each starts again.

set -uo pipefail
source .venv/bin/activate             # ←
NODES=2                               # ← machines
GPUS=8                                # ← per machine
FIRST=192.168.0.1                     # ← address of the first machine
TRIES=20                              # number of starts; torchrun turns every failure into exit code 1

RUN=(simsiam                          # ← the run; its folder must be shared by all machines
    --data.train /data/imagenet/train --data.workers 8
    --optim.batch-size 512 --precision bf16 --checkpoint.every 500
    --out runs/simsiam_in1k)

export OMP_NUM_THREADS=1
# `accelerate launch --multi_gpu --num_machines $NODES --machine_rank $NODE --num_processes $((NODES * GPUS))
# --main_process_ip $FIRST --main_process_port 29500 -m train …` does the same.
for try in $(seq "$TRIES"); do
    torchrun --nnodes "$NODES" --node_rank "${NODE:?which machine is this? 0, 1, …}" --nproc_per_node "$GPUS" \
        --master_addr "$FIRST" --master_port 29500 -m train "${RUN[@]}" && exit 0
    echo "start $try ended with $?; again in 30 s (Ctrl-C ends it)" >&2
    sleep 30
done
exit 1
