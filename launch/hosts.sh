#!/usr/bin/env bash
# Several machines that ssh reaches: one process on each, together one run.
set -euo pipefail

usage() {
  cat << END
usage: ./launch/hosts.sh HOST... [options] -- COMMAND...

Copies this checkout to every host, makes its environment, looks for devices, then runs COMMAND as
one process a host; BERTJAX_COORDINATOR, BERTJAX_NUM_PROCESSES and BERTJAX_PROCESS_ID tell it of the
others. When one dies the others are stopped, and all start again from the last checkpoint; not
after exit status 0 (finished) or 2 (refused), nor after five crashes in a row. The processes
outlive the connection: the same line finds them again. ^C asks them to save and end.

  --folder=PATH     the checkout on every host, below the home or absolute (bertjax)
  --no_setup        it is there already with its environment, e.g. on a shared disk
  --port=N          where the first host, the coordinator, is called (12421)
  --coordinator=H   its name for the others, if that is not its name for ssh
  --name=NAME       of the run (run); logs are FOLDER/runs/launched/NAME-PROCESS/log
  --ssh_flag=FLAG   one more for ssh, e.g. --ssh_flag=-p2222
  --dry_run         prints every call instead of making it

The hosts share --workdir and the records: a network file system or gs://.

example:
  ./launch/hosts.sh node1 node2 --folder=/shared/bertjax --no_setup -- \\
      python -m bertjax.pretrain --config=configs/bert.py:base --workdir=/shared/runs/base \\
      data.records=/shared/records/128 model.dtype=bfloat16
END
}

POLL_SECONDS=${BERTJAX_POLL_SECONDS:-5}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
source launch/options.sh
source launch/supervise.sh

OPTIONS="folder port coordinator name" SWITCHES="no_setup dry_run" LISTS="ssh_flag"
folder=bertjax port=12421 coordinator='' name=run no_setup='' dry_run='' ssh_flag=()

check() {
  local host
  whole_number port 1
  ((port <= 65535)) || fail "--port=$port: ports go to 65535"
  check_name
  wants_command ./launch/hosts.sh
  ((${#places[@]})) || fail "no host is named; see ./launch/hosts.sh --help"
  for host in "${places[@]}"; do
    [[ $host != -* ]] || fail "a host cannot be called $host"
  done
  command -v ssh > /dev/null || [[ -n $dry_run ]] || fail "ssh is not installed (openssh-client)"
  [[ -n $coordinator ]] || coordinator=${places[0]#*@}
  [[ $coordinator =~ ^[A-Za-z0-9._:-]+$ ]] || fail "--coordinator=$coordinator is no host name"
}

# tell SECONDS HOST LINE: a call that hangs is ended; --dry_run prints it.
tell() {
  local call=(ssh -o BatchMode=yes -o ConnectTimeout=20 "${ssh_flag[@]}" "$2" "$3")
  if [[ -n $dry_run ]]; then
    quoted "${call[@]}"
  else
    timeout --kill-after=10 "${BERTJAX_CALL_SECONDS:-$1}" "${call[@]}"
  fi
}

# on_processes SECONDS SUBCOMMAND WORDS...: of worker.sh for all processes at once. A command, and the
# check before it, is told of the other processes.
on_processes() {
  local i line calls=()
  for i in "${!places[@]}"; do
    line=$(quoted "$folder/launch/worker.sh" "$2" "$name-$i")
    if [[ $2 == check ]]; then
      line="$(settings_of "$i") $(quoted "$folder/launch/worker.sh" check)"
    elif [[ $2 == @(start|state) ]] && (($# > 2)); then
      line+=" $(settings_of "$i")"
    fi
    if (($# > 2)); then line+=" $(quoted "${@:3}")"; fi
    tell "$1" "${places[i]}" "$line" < /dev/null &
    calls+=($!)
    [[ -z $dry_run ]] || wait $!
  done
  worst_of "${calls[@]}"
}

settings_of() {
  echo env "BERTJAX_COORDINATOR=$coordinator:$port" "BERTJAX_NUM_PROCESSES=${#places[@]}" \
    "BERTJAX_PROCESS_ID=$1"
}

# set_up_host HOST: a host that is named twice is set up once.
set_up_host() {
  local at
  at=$(quoted "$folder")
  tell 900 "$1" "mkdir -p $at && tar -xzf - -C $at" < "$archive" || return
  tell 1800 "$1" "$at/launch/worker.sh setup $(extras '')" < /dev/null
}

set_up() {
  if [[ -z $no_setup ]]; then set_up_hosts || return; fi
  on_processes 3600 check "${command[@]}" # copies records that lie in a bucket, too
}

set_up_hosts() {
  local host calls=()
  if [[ -z $dry_run ]]; then pack_checkout "$archive"; fi
  while read -r host; do
    set_up_host "$host" &
    calls+=($!)
    [[ -z $dry_run ]] || wait $!
  done < <(printf '%s\n' "${places[@]}" | sort -u)
  worst_of "${calls[@]}"
}

# What supervise asks for.
start_all() { on_processes 60 start "${command[@]}"; }
states() { on_processes 60 state "$@"; }
stop_all() { on_processes 300 stop "$@"; }
present() { true; }
recover() {
  stop_all "$QUICK" || true
  note "waiting until all hosts can be reached"
  until on_processes 60 state > /dev/null; do delay 1; done
}

parse ./launch/hosts.sh "$@"
check
archive=/dev/null
if [[ -n $dry_run ]]; then set_up && start_all && states; exit; fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
archive=$scratch/bertjax.tar.gz
prepare
note "logs: $folder/runs/launched/$name-PROCESS/log on each host"
supervise_until_asked
