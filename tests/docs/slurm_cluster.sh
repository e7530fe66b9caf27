#!/usr/bin/env bash
# A SLURM cluster of N nodes for as long as a command runs: slurm_cluster.sh FOLDER N COMMAND...
# In a network of its own that has a loopback address only, and with processes of its own, none of which outlives it:
#   unshare --net --pid --fork --kill-child --mount-proc slurm_cluster.sh ...
set -euo pipefail
folder=$1 nodes=$2 host=$(hostname)
ip link set lo up
ip address add 192.0.2.1/32 dev lo # with 127.0.0.1 alone, getaddrinfo(AI_ADDRCONFIG) knows no address at all
mkdir -p "$folder/controller"
export SLURM_CONF=$folder/slurm.conf
cat > "$SLURM_CONF" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/none
CredType=cred/none
SlurmctldPidFile=$folder/controller.pid
SlurmctldLogFile=$folder/controller.log
StateSaveLocation=$folder/controller
SlurmdLogFile=$folder/%n.log
SlurmdPidFile=$folder/%n.pid
SlurmdSpoolDir=$folder/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SlurmdParameters=config_overrides
KillWait=2
PropagateResourceLimits=NONE
PartitionName=all Nodes=node[1-$nodes] Default=YES State=UP
$(for i in $(seq "$nodes"); do echo "NodeName=node$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((17000 + i)) CPUs=1"; done)
CONF
slurmctld -D -i > "$folder/controller.out" 2>&1 &
for i in $(seq "$nodes"); do slurmd -D -N "node$i" > "$folder/node$i.out" 2>&1 & done
for _ in $(seq 100); do [[ $(sinfo -h -t idle -o %D 2> /dev/null) == "$nodes" ]] && break || sleep 0.2; done
"${@:3}"
