#!/usr/bin/env bash
# A real SLURM cluster of one node on the loopback address, all of it within one directory: no systemd, no database.
# As root: slurm.sh up DIR CTLD_PORT D_PORT      starts it, with two pretended GPUs
#          slurm.sh down DIR                     ends the daemons that DIR's pid files name
# Needs Debian's slurm-wlm and munge: apt-get install -y --no-install-recommends slurm-wlm munge
set -euo pipefail
D=$(realpath -m "$2")
export SLURM_CONF=$D/slurm.conf

if [ "$1" = down ]; then
  scancel --user=root 2> /dev/null || true
  sleep 1
  pids=$(cat "$D"/slurmd.pid "$D"/slurmctld.pid "$D"/munge/munged.pid 2> /dev/null || true)
  for signal in TERM KILL; do
    for pid in $pids; do kill -$signal "$pid" 2> /dev/null || true; done
    for _ in $(seq 20); do kill -0 $pids 2> /dev/null || break; sleep 0.25; done
  done
  for cwd in /proc/[0-9]*/cwd; do  # what a job left would ask its dead controller for ever
    if [ "$(readlink "$cwd")" = "$D/log" ]; then pid=${cwd#/proc/}; kill -KILL "${pid%/cwd}" 2> /dev/null || true; fi
  done
  exit 0
fi

mkdir -p "$D"/{spool,state,log,munge,socket}
chmod 700 "$D/munge"
chmod 755 "$D/socket"
dd if=/dev/urandom of="$D/munge/key" bs=1 count=1024 status=none
chmod 400 "$D/munge/key"
munged --force --key-file="$D/munge/key" --socket="$D/socket/munge" --pid-file="$D/munge/munged.pid" \
  --log-file="$D/munge/munged.log" --seed-file="$D/munge/seed"
cat > "$SLURM_CONF" << C
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$D/socket/munge
CredType=cred/munge
SlurmctldPort=$3
SlurmdPort=$4
SlurmctldPidFile=$D/slurmctld.pid
SlurmdPidFile=$D/slurmd.pid
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MaxArraySize=4
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=8 CoresPerSocket=8 State=UNKNOWN Gres=gpu:pretended:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
C
printf 'NodeName=%s Name=gpu Type=pretended File=/dev/null,/dev/zero\n' "$(hostname -s)" > "$D/gres.conf"
slurmctld -c
slurmd -c
for _ in $(seq 120); do
  [ "$(sinfo --noheader --format=%T 2> /dev/null)" = idle ] && exit 0
  sleep 0.25
done
tail -n 8 "$D"/log/*.log >&2
exit 1
