#!/bin/bash
# A real Slurm of one node on the loopback, for tests: no systemd, no accounting; everything it writes is in FOLDER.
# Its two GPUs are a number that Slurm counts down, without a device behind it, which is all that a request needs.
#   bash up.sh FOLDER      as root, with Debian's packages slurm-wlm and munge; down.sh FOLDER stops it
set -eu
D=$(readlink -f "$1"); H=$(hostname -s)
CONF=/etc/slurm/slurm.conf  # srun within a job of Snakemake's has no SLURM_CONF: it has to find the usual path
if [ -e $CONF ] && [ "$(readlink -f $CONF)" != "$D/slurm.conf" ]; then
  echo "$CONF is there already: this machine has a Slurm of its own, which the test leaves alone." >&2; exit 1
fi
getent hosts "$H" > /dev/null || echo "127.0.0.1 $H" >> /etc/hosts  # the daemons ask for their machine's address
mkdir -p "$D"/{munge,state,spool,log,run} "$(dirname $CONF)"; chmod 700 "$D/munge"
[ -s "$D/munge/key" ] || { head -c 128 /dev/urandom > "$D/munge/key"; chmod 600 "$D/munge/key"; }
RAM=$(awk '/^MemTotal/ {print int($2 / 1024 * 0.8)}' /proc/meminfo)
cat > "$D/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$H(127.0.0.1)
SlurmctldPort=${CTLD_PORT:-16817}
SlurmdPort=${SLURMD_PORT:-16818}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$D/run/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmdPidFile=$D/run/slurmd.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
AccountingStorageType=accounting_storage/none
MinJobAge=3600
KillWait=15
ReturnToService=2
GresTypes=gpu
NodeName=$H NodeAddr=127.0.0.1 CPUs=$(nproc --all) RealMemory=$RAM Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=$H Default=YES MaxTime=INFINITE DefaultTime=10 DefMemPerCPU=500 State=UP
CONF
ln -sfn "$D/slurm.conf" $CONF
munged --socket="$D/run/munge.socket" --key-file="$D/munge/key" --pid-file="$D/run/munged.pid" \
  --log-file="$D/log/munged.log" --seed-file="$D/munge/seed"
slurmctld -i
slurmd
for _ in $(seq 300); do
  [ "$(timeout 5 sinfo -h -o %T 2> /dev/null)" = idle ] && { sinfo -N -o '%N %P %T %c cores %m MB'; exit 0; }
  sleep 0.2
done
echo "Slurm did not come up:" >&2; tail -n 5 "$D"/log/*.log >&2; exit 1
