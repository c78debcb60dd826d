#!/bin/bash
# Stop the Slurm that `up.sh FOLDER` started, and nothing else: its daemons by their pid files, its jobs by their names.
D=$(readlink -f "$1")
if [ "$(readlink -f /etc/slurm/slurm.conf)" = "$D/slurm.conf" ]; then
  timeout 20 scancel --user="$(id -un)" 2> /dev/null
  for _ in $(seq 100); do [ -z "$(timeout 5 squeue -h 2> /dev/null)" ] && break; sleep 0.2; done
fi
for daemon in slurmd slurmctld munged; do
  pid=$(cat "$D/run/$daemon.pid" 2> /dev/null) || continue
  [ "$(cat "/proc/$pid/comm" 2> /dev/null)" = $daemon ] || continue
  kill "$pid"
  for _ in $(seq 100); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
  kill -9 "$pid" 2> /dev/null
done
[ "$(readlink /etc/slurm/slurm.conf)" = "$D/slurm.conf" ] && rm /etc/slurm/slurm.conf
exit 0
