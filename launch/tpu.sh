#!/usr/bin/env bash
# Cloud TPU VMs, from the request to the results; see --help.
set -euo pipefail

usage() {
  cat << END
usage: ./launch/tpu.sh SUBCOMMAND NAME [options] [-- COMMAND...]

  up NAME -- COMMAND...     all of it: creates, sets up, checks, runs; after a crash or a preemption
                            it starts the command again, from the last checkpoint; then deletes
  create NAME               asks for the machines, as a queued resource, and waits for them
  setup NAME                copies this checkout to every worker, installs it, looks for its TPUs
  run NAME -- COMMAND...    starts COMMAND on every worker; it outlives the connection
  status NAME               the state of the machines, and of the command on every worker
  logs NAME                 follows the log of one worker
  stop NAME                 asks the command to save and end; up then ends, too
  fetch NAME FROM FOLDER    copies results here: gs://... or a folder of a worker's checkout
  delete NAME               deletes the machines and their disks

for create and up:
  --accelerator=TYPE        v4-8, v5e-16, v5p-128, v6e-16, ...
  --spot, --reserved        the kind of machines; default: on demand
  --slices=N                several slices of that type
  --runtime_version=IMAGE   instead of the image that goes with the type
  --create_flag=FLAG        one more flag for creating, e.g. --create_flag=--network=mine
for up:
  --keep                    leaves the machines when it ends; they go on costing
for logs and fetch:
  --slice=N, --worker=N     whom they ask (0 and 0)
for all:
  --zone=Z, --project=P     where and whose; default: those of the gcloud configuration
  --ssh_flag=FLAG           one more for ssh and scp, if it calls them: --ssh_flag=--internal-ip
  --dry_run                 prints every gcloud call instead of making it

COMMAND may be any. Its --workdir must lie on gs://, where it outlives the machines; what it reads
too, or in this checkout, which goes to every worker. BERTJAX_POLL_SECONDS (30) is how often up looks.

example:
  ./launch/tpu.sh up bert --zone=us-west4-a --accelerator=v5e-16 --spot -- \\
      python -m bertjax.pretrain --config=configs/bert.py:base --workdir=gs://BUCKET/runs/base \\
      data.records=gs://BUCKET/records/128 model.dtype=bfloat16
END
}

here=$(pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
source launch/options.sh
source launch/supervise.sh
source launch/tpu_machines.sh

SUBCOMMANDS="up create setup run status logs stop fetch delete"
WORKER=./bertjax/launch/worker.sh # as seen from a worker's home
MISSING=44 # no exit status of ssh
OPTIONS="accelerator zone project slices runtime_version slice worker"
SWITCHES="spot reserved keep dry_run"
LISTS="create_flag ssh_flag"
# What a training reads.
SOURCES="data.records data.long_records data.eval_records init --init --data_dir --train --dev --test"
SOURCES+=" --extra_train --input --ensemble"
accelerator='' zone='' project='' slices=1 runtime_version='' slice=0 worker=0
spot='' reserved='' keep='' dry_run='' create_flag=() ssh_flag=()

# check: everything that can be known to be wrong before the first call.
check() {
  local subcommand=${places[0]:-} wanted=2
  whole_number slices 1
  whole_number slice 0
  whole_number worker 0
  [[ -n $subcommand && " $SUBCOMMANDS " == *" $subcommand "* ]] ||
    fail "the first word must be one of: $SUBCOMMANDS; see ./launch/tpu.sh --help"
  if [[ $subcommand == fetch ]]; then wanted=4; fi
  ((${#places[@]} == wanted)) ||
    fail "$subcommand takes $((wanted - 1)) words, not '${places[*]:1}'; a command goes behind --"
  name=${places[1]}
  [[ $name =~ ^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$ ]] ||
    fail "the name '$name' must be of small letters, digits and -, and begin with a letter"
  if [[ $subcommand == @(up|run) ]]; then
    wants_command ./launch/tpu.sh
  elif ((${#command[@]})); then
    fail "$subcommand takes no command"
  fi
  check_given "$subcommand"
  [[ -z $spot || -z $reserved ]] || fail "--spot and --reserved exclude each other"
  if [[ $subcommand == up ]]; then check_folders; fi
  if [[ $subcommand == @(up|create) ]]; then choose_image; fi
}

# check_given SUBCOMMAND: fails at an option that does nothing for it.
check_given() {
  local option heeded=" zone project dry_run "
  local creating="accelerator spot reserved slices runtime_version create_flag "
  case $1 in
    up) heeded+="${creating}ssh_flag keep " ;;
    create) heeded+=$creating ;;
    logs | fetch) heeded+="ssh_flag slice worker " ;;
    setup | run | status | stop) heeded+="ssh_flag " ;;
  esac
  for option in "${given[@]}"; do
    [[ $heeded == *" $option "* ]] || fail "--$option does nothing for $1; leave it out"
  done
}

# check_folders: a machine's disk goes with it, no other worker sees it, and what it holds at
# first is this checkout.
check_folders() {
  local i option value kept='' training='' told=' ' flag=''
  for i in "${!command[@]}"; do
    option=${command[i]%%=*} value=${command[i]#*=}
    if [[ ${command[i]} != *=* ]]; then value=${command[i + 1]:-}; fi
    case $option in
      bertjax.pretrain | bertjax.finetune) training=${option#bertjax.} ;;
      --workdir | --output | --submission)
        [[ $value == gs://* ]] ||
          fail "$option=$value lies on the machines' own disks and goes with them; give gs://..."
        if [[ $option != --submission ]]; then kept=1; fi ;;
    esac
    if [[ -n $training && " $SOURCES " == *" $option "* ]]; then
      check_source "$option" "$value"
    fi
    if [[ -n $training && $option == --config ]]; then check_source --config "${value%%:*}"; fi
    if [[ ${command[i]} == -* ]]; then
      flag=$option
    elif [[ -n $training && $flag == --ensemble ]]; then # all words up to the next flag
      check_source --ensemble "${command[i]}"
    fi
    told+="$option "
  done
  [[ $training != pretrain || $told == *" data.records "* ]] ||
    fail "data.records=gs://... is missing; no worker has the records that lie here"
  [[ $training != finetune || $told == *" --init "* || $told == *" --mode "* ]] ||
    fail "--init=gs://... is missing; no worker has the runs that lie here"
  [[ -z $training || -n $kept ]] ||
    fail "--workdir=gs://... is missing; without it the results go with the machines"
}

# check_source OPTION VALUE: in a bucket, or among the files that go to every worker.
check_source() {
  local path=$2
  if [[ $1 == *init && $path == @(scratch|scratch:*) ]]; then path=${path#scratch} path=${path#:}; fi
  [[ -z $path || $path == gs://* ]] ||
    [[ $path != /* &&
      -n $(git ls-files --cached --others --exclude-standard -- "$path" 2> /dev/null) ]] ||
    fail "$1=$path is on no worker; give gs://..., or a file here that git does not ignore"
}

create() {
  local state
  if [[ -n $dry_run ]]; then create_machines && machines_state; return; fi
  look
  check_same
  await_machines
}

# pack: once, so that after a preemption the new machines get the same files.
pack() {
  if [[ -n $scratch && ! -e $scratch/bertjax.tar.gz ]]; then
    pack_checkout "$scratch/bertjax.tar.gz"
  fi
}

# setup: the checkout as it is here, what git ignores left out; then a check, on all at once. That
# copies the records, too.
setup() {
  pack
  on_each copy_to "${scratch:-.}/bertjax.tar.gz" || return
  on_each tell 1800 "mkdir -p bertjax && tar -xzf bertjax.tar.gz -C bertjax && $WORKER setup $(extras tpu)" ||
    return
  on_all 3600 "$WORKER" check tpu "${command[@]}"
}

run() { on_all 180 "$WORKER" start "$name" "${command[@]}"; }

# states: gcloud tells of each connection; that is shown only when one fails.
states() {
  local told=/dev/null status=0
  if [[ -z $dry_run ]]; then told=$scratch/connections; fi
  on_all 180 "$WORKER" state "$name" "$@" 2> "$told" || status=$?
  ((status == 0)) || cat "$told" >&2
  return "$status"
}

status() {
  local state
  state=$(machines_state)
  echo "$state"
  if [[ $state == ACTIVE || -n $dry_run ]]; then states; else [[ $state != UNKNOWN ]]; fi
}

# stop: up deletes the machines once one of them says that it has ended, perhaps before all do.
stop() {
  local status=0
  find_nodes || return
  on_all 300 "$WORKER" end "$name" || status=$?
  ((status == 0)) || [[ $(machines_state) == @(ABSENT|DELETING) ]] || return "$status"
}

logs() {
  choose_node || return
  vm 0 ssh "$node" --worker="$worker" --command="$WORKER log $name"
}

choose_node() {
  find_nodes || return
  ((slice < ${#nodes[@]})) || fail "--slice=$slice: $name has ${#nodes[@]} slices, from 0 on"
  node=${nodes[slice]}
}

# fetch FROM FOLDER: the folder appears when it is complete.
fetch() {
  local to=$2 status=0
  [[ $to == /* ]] || to=$here/$to
  [[ ! -e $to ]] || fail "$2 exists already; choose another folder or remove it"
  persist copy_here "$1" "$to.part" || status=$?
  if ((status)); then
    rm -rf "$to.part" || true
    return "$status"
  fi
  if [[ -z $dry_run ]]; then mv "$to.part" "$to"; fi
}

copy_here() {
  local status=0
  if [[ -z $dry_run ]]; then rm -rf "$2" && mkdir -p "$(dirname "$2")"; fi
  if [[ $1 == gs://* ]]; then
    if [[ -z $dry_run ]]; then mkdir "$2"; fi
    cloud 0 storage rsync --recursive "$1" "$2" || status=$?
  else
    choose_node || return
    vm 0 scp "$node:bertjax/$1" "$2" --recurse --worker="$worker" || status=$?
  fi
  if ((status)) && is_missing "$1"; then
    printf 'error: there is no %s\n' "$1" >&2
    return 2
  fi
  return "$status"
}

# is_missing FROM: whether it is known not to be there; no connection is no answer.
is_missing() {
  local status=0
  if [[ $1 == gs://* ]]; then
    ! cloud 120 storage ls "$1" > /dev/null 2> "$scratch/errors" &&
      grep -q "matched no objects" "$scratch/errors"
  else
    vm 120 ssh "$node" --worker="$worker" \
      --command="[ -e $(quoted "bertjax/$1") ] || exit $MISSING" || status=$?
    ((status == MISSING))
  fi
}

delete() {
  if [[ -z $dry_run && $(machines_state) == ABSENT ]]; then
    note "there is no $name in ${zone:-the zone of the gcloud configuration}"
    return
  fi
  delete_machines
}

# make_ready: from any state to workers that are set up, through preemptions on the way.
make_ready() {
  local try status
  for ((try = 1; try <= TRIES; try++)); do
    await_machines
    status=0
    setup || status=$?
    if ((status == 0)); then return; fi
    if ((status == 2)) && ! are_gone; then return 2; fi
    note "setting up failed, attempt $try of $TRIES"
    delay "$try"
  done
  return "$status"
}

# take_over: whether the machines are there and run this very command already.
take_over() {
  local state
  look
  check_same
  [[ $state == ACTIVE ]] || return 1
  if under_way; then return; fi
  stop_all "$QUICK" &> /dev/null || true
  return 1
}

up() {
  local status=0
  if [[ -n $dry_run ]]; then create && setup && run && states && delete; return; fi
  trap 'note "$name goes on and costs; the same line watches it again, delete ends it"; exit 130' INT
  pack
  take_over || make_ready || status=$?
  if ((status == 0)); then supervise || status=$?; fi
  if ((status == 1 || status == 2)); then keep_last_words; fi
  if [[ -n $keep ]]; then
    note "$name is kept and goes on costing; ./launch/tpu.sh delete $name deletes it"
  else
    delete_machines
  fi
  if ((status == 0)); then note "$name has finished"; fi
  return "$status"
}

# The logs go with the machines; their ends are kept.
keep_last_words() {
  on_all 180 "$WORKER" last "$name" > "$scratch/last" || true
  if [[ -s $scratch/last ]]; then
    mkdir -p runs/launched
    sort -s -k 1,1 "$scratch/last" > "runs/launched/$name.log"
    printf 'error: the command failed; the ends of the logs are in %s\n' \
      "$PWD/runs/launched/$name.log" >&2
  fi
}

# What supervise asks for.
start_all() { persist run; }
stop_all() { on_all 300 "$WORKER" stop "$name" "$@"; }
present() {
  case $(machines_state) in
    ACTIVE) return 0 ;;
    UNKNOWN) return 2 ;;
    *) return 1 ;;
  esac
}
# recover: deletes nothing unseen, and nothing that answers; what is under way is waited for.
recover() {
  local state
  look
  case $state in
    ABSENT | DELETING)
      printf 'error: %s\n' "$name was deleted by somebody; it is not created again" >&2
      return 1 ;;
    ACTIVE)
      if states > /dev/null; then return; fi
      delete_machines ;;
  esac
  make_ready
}

parse ./launch/tpu.sh "$@"
check
find_gcloud
"${places[0]}" "${places[@]:2}"
