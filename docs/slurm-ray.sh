#!/usr/bin/env bash
# Start a Ray cluster on the nodes of a SLURM job and run layercache on it:
#
#   export LAYERCACHE_HOME=/shared/caches          # a folder that every node can access, or s3://bucket/prefix
#   sbatch --nodes=4 --gpus-per-node=8 slurm-ray.sh vit_b16 folder:/shared/images
#
# Submitted again, the job resumes: committed row blocks are kept. All processes on the nodes end with the job.
#SBATCH --job-name=layercache
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=layercache-%j.log
set -euo pipefail
model=${1:?which model, for example vit_b16} dataset=${2:?which dataset, for example flowers}
: "${LAYERCACHE_HOME:?set it to a folder that every node can access, or to s3://bucket/prefix}"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
ip=$(getent ahostsv4 "$(scontrol show node "$head" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')" | awk 'NR == 1 {print $1}')
address=$ip:$((20000 + SLURM_JOB_ID % 10000)) # one port per job, because jobs may share a node
folder=${TMPDIR:-/tmp}/ray-$SLURM_JOB_ID       # a short path, because it contains sockets
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n') # nobody else can run code in this cluster

on() { # on NODES SRUN-OPTION RAY-OPTION...: run `ray start` on that many nodes until the job ends
    srun --overlap --nodes="$1" --ntasks="$1" --cpus-per-task="$SLURM_CPUS_PER_TASK" "${@:2:1}" \
        ray start "${@:3}" --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats --block &
    steps+=($!)
}

steps=()
running() { # ends the script if a step has ended, whose message is in the log above
    for step in "${steps[@]}"; do kill -0 "$step"; done
}
end() {
    kill "${steps[@]}" && wait "${steps[@]}" || true # Ray has nothing to save
    srun --overlap --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" rm -rf "$folder"
}
trap end EXIT

on 1 --nodelist="$head" --head --node-ip-address="$ip" --port="${address#*:}" --temp-dir="$folder" --include-dashboard=false
until ray health-check --address "$address" 2>/dev/null; do running; sleep 1; done
((SLURM_NNODES == 1)) || on $((SLURM_NNODES - 1)) --exclude="$head" --address="$address"
nodes() { python -c "import ray; ray.init('$address', logging_level='ERROR', log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"; }
until (($(nodes) == SLURM_NNODES)); do running; sleep 1; done
echo "Ray at $address: $SLURM_NNODES nodes of $SLURM_CPUS_PER_TASK cores"

layercache extract --model "$model" --dataset "$dataset" --engine ray --address "$address"
layercache probe --model "$model" --dataset "$dataset" --head linear --layers all --engine ray --address "$address"
