#!/usr/bin/env bash
# One machine with GPUs: environment, check, a command that is started again after a crash.
set -euo pipefail

usage() {
  cat << END
usage: ./launch/gpu.sh [--name=NAME] [--no_setup] [--dry_run] -- COMMAND...

Makes the environment with the extra gpu, looks for the GPUs, then runs COMMAND on all of them.
After a crash it is started again and goes on from its last checkpoint; not after exit status 0
(finished) or 2 (refused), nor after five crashes in a row. It outlives the connection: the same
line finds it again. ^C asks it to save and end.

  --name=NAME   several on one machine have several names (run); the log is runs/launched/NAME/log
  --no_setup    the environment is there already, or is active
  --dry_run     prints every call instead of making it

example:
  ./launch/gpu.sh -- python -m bertjax.pretrain --config=configs/bert.py:base --workdir=runs/base \\
      data.records=records/128 model.dtype=bfloat16
END
}

POLL_SECONDS=${BERTJAX_POLL_SECONDS:-5}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
source launch/options.sh
source launch/supervise.sh

OPTIONS="name" SWITCHES="no_setup dry_run" LISTS=""
name=run no_setup='' dry_run=''

# tell WORDS...: a call; --dry_run prints it.
tell() { if [[ -n $dry_run ]]; then quoted "$@"; else "$@"; fi; }

# What supervise asks for.
start_all() { tell ./launch/worker.sh start "$name" "${command[@]}"; }
states() { tell ./launch/worker.sh state "$name" "$@"; }
stop_all() { ./launch/worker.sh stop "$name" "$@"; }
present() { true; }
recover() { return 1; }

set_up() {
  tell nvidia-smi --list-gpus ||
    fail "nvidia-smi finds no GPU; install NVIDIA's driver (a CPU needs no launcher: run the command)"
  if [[ -z $no_setup ]]; then tell ./launch/worker.sh setup "$(extras gpu)" || return; fi
  tell ./launch/worker.sh check cuda "${command[@]}"
}

parse ./launch/gpu.sh "$@"
check_name
wants_command ./launch/gpu.sh
((${#places[@]} == 0)) || fail "'${places[*]}' stands before --; the command goes behind it"
if [[ -n $dry_run ]]; then set_up && start_all && states; exit; fi
prepare
note "log: $PWD/runs/launched/$name/log"
supervise_until_asked
