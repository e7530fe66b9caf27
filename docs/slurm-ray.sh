#!/usr/bin/env bash
# A Ray cluster on the nodes of a SLURM job, and layercache on it:
#
#   export LAYERCACHE_HOME=/shared/caches          # a folder that every node sees, or s3://bucket/prefix
#   sbatch --nodes=4 --gpus-per-node=8 slurm-ray.sh vit_b16 folder:/shared/images
#
# Submitted again it continues where it stopped: what was committed is kept. Everything on the nodes ends with the job.
#SBATCH --job-name=layercache
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=layercache-%j.log
set -euo pipefail
model=${1:?which model, for example vit_b16} dataset=${2:?which data set, for example flowers}
: "${LAYERCACHE_HOME:?set it to a folder that every node sees, or to s3://bucket/prefix}"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
ip=$(getent ahostsv4 "$(scontrol show node "$head" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')" | awk 'NR == 1 {print $1}')
address=$ip:$((20000 + SLURM_JOB_ID % 10000)) # jobs that share a node have a port each
folder=${TMPDIR:-/tmp}/ray-$SLURM_JOB_ID       # short: sockets lie in it
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n') # nobody else runs code in this cluster

on() { # on NODES SRUN-OPTION RAY-OPTION...: `ray start` on so many nodes, until the job ends
    srun --overlap --nodes="$1" --ntasks="$1" --cpus-per-task="$SLURM_CPUS_PER_TASK" "${@:2:1}" \
        ray start "${@:3}" --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats --block &
    steps+=($!)
}

steps=()
running() { # or the script ends here; the message of the step that ended stands above
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
