# Sourced by tpu.sh: what is asked of gcloud. A call that hangs is ended and tried again.
# shellcheck shell=bash
# shellcheck disable=SC2154  # the options, which tpu.sh reads

# image_of KIND: the runtime image of an accelerator, as Google's table of software versions has it.
image_of() {
  case $1 in
    v2 | v3 | v4) echo tpu-ubuntu2204-base ;;
    v5litepod) echo v2-alpha-tpuv5-lite ;;
    v5p) echo v2-alpha-tpuv5 ;;
    v6e) echo v2-alpha-tpuv6e ;;
  esac
}

# choose_image: sets accelerator to Cloud TPU's own name, and runtime_version unless it is given.
choose_image() {
  [[ -n $accelerator ]] || fail "--accelerator is missing, e.g. --accelerator=v5e-16"
  [[ $accelerator =~ ^[a-z0-9]+-[1-9][0-9]*$ ]] ||
    fail "--accelerator=$accelerator: want a kind and a size, e.g. v5e-16"
  accelerator=${accelerator/#v5e-/v5litepod-}
  [[ -n $runtime_version ]] || runtime_version=$(image_of "${accelerator%-*}")
  [[ -n $runtime_version ]] || fail "no image is known for --accelerator=$accelerator, only for" \
    "v2, v3, v4, v5e, v5p and v6e; --runtime_version=IMAGE names one"
}

# find_gcloud: fails without it; sets what every call ends with.
find_gcloud() {
  where=(${zone:+--zone="$zone"} ${project:+--project="$project"} --quiet)
  if [[ -n $dry_run ]]; then return; fi
  command -v gcloud > /dev/null ||
    fail "gcloud is not installed; it is had at https://cloud.google.com/sdk/docs/install"
  command -v timeout > /dev/null ||
    fail "timeout is not installed; it comes with coreutils (brew install coreutils)"
  scratch=$(mktemp -d)
  trap 'end_call; rm -rf "$scratch"' EXIT
}

# end_call: a call without a limit, which ^C does not reach, goes with this script.
end_call() { if [[ -n $call ]]; then kill "$call" 2> /dev/null || true; fi; }

call='' # the process of the call that is under way

# cloud SECONDS ARGUMENTS...: gcloud with a limit (0: none); --dry_run prints the call.
cloud() {
  if [[ -n $dry_run ]]; then
    quoted gcloud "${@:2}"
    return
  fi
  local status=0
  timeout --kill-after=10 "${BERTJAX_CALL_SECONDS:-$1}" gcloud "${@:2}" < /dev/null &
  call=$!
  wait "$call" || status=$? # timeout in the foreground would keep ^C from this script
  call=''
  return "$status"
}

resource() { cloud "$1" compute tpus queued-resources "$2" "$name" "${@:3}" "${where[@]}"; }

# machines_state: ACTIVE and the like; ABSENT; UNKNOWN if gcloud gave no answer.
machines_state() {
  local state
  if [[ -n $dry_run ]]; then
    resource 120 describe --format='value(state.state)'
  elif state=$(resource 120 describe --format='value(state.state)' 2> "$scratch/errors"); then
    echo "${state:-UNKNOWN}"
  elif grep -q NOT_FOUND "$scratch/errors"; then
    echo ABSENT
  else
    cat "$scratch/errors" >&2
    echo UNKNOWN
  fi
}

seen='' # whether gcloud has ever given an answer

# look: sets state to a known one. A lost connection is waited for; one that never was is not.
look() {
  local attempt=1
  state=$(machines_state)
  [[ $state != UNKNOWN ]] || note "$name: UNKNOWN; waiting until gcloud answers"
  while [[ $state == UNKNOWN ]]; do
    [[ -n $seen ]] || ((attempt++ < TRIES)) || fail "gcloud gives no answer; see above what it says"
    delay 1
    state=$(machines_state 2> /dev/null)
  done
  seen=1
}

create_machines() {
  local nodes=(--node-id="$name")
  if ((slices > 1)); then nodes=(--node-count="$slices" --node-prefix="$name"); fi
  resource 300 create "${nodes[@]}" --accelerator-type="$accelerator" \
    --runtime-version="$runtime_version" ${spot:+--spot} ${reserved:+--reserved} "${create_flag[@]}"
}

# check_same: fails if machines of this name are there, but others than are asked for.
check_same() {
  local found
  [[ $state != @(ABSENT|DELETING) ]] || return 0
  found=$(resource 120 describe --format='value(tpu.nodeSpec[0].node.acceleratorType)') || return 0
  find_nodes || return 0
  if [[ ${found:-$accelerator} != "$accelerator" ]] || ((${#nodes[@]} != slices)); then
    fail "$name is there already, ${#nodes[@]} x $found; delete it or choose another name"
  fi
}

# delete_machines: a call that failed or hung may have deleted them all the same.
delete_machines() {
  local try
  for ((try = 1; try <= TRIES; try++)); do
    if resource 1200 delete --force || [[ $(machines_state) == ABSENT ]]; then return; fi
    note "$name is not deleted, attempt $try of $TRIES"
    delay "$try"
  done
  fail "$name could not be deleted and goes on costing; see above what gcloud says"
}

# await_machines: from whatever state they are in until they are ACTIVE; waits in the queue.
await_machines() {
  local state last='' failures=0
  while true; do
    look
    [[ $state == "$last" ]] || note "$name: $state"
    last=$state
    case $state in
      ACTIVE) return ;;
      ABSENT) # so the call that failed last has made nothing
        ((failures < TRIES)) || fail "$name does not come up; see above what gcloud says"
        create_machines || ((failures += 1)) ;;
      SUSPENDED) delete_machines ;;
      FAILED)
        ((failures += 1))
        resource 120 describe --format='value(state.failedData.error.message)' || true
        delete_machines ;;
    esac
    sleep "$POLL_SECONDS"
  done
}

nodes=() scratch='' # a folder, but not in a dry run

# find_nodes: sets nodes to the names of the slices.
find_nodes() {
  local count=$slices i
  if [[ -z $dry_run ]]; then
    count=$(resource 120 describe --format='value(tpu.nodeSpec[0].multisliceParams.nodeCount)') ||
      return
  fi
  nodes=("$name")
  if ((${count:-1} > 1)); then
    nodes=()
    for ((i = 0; i < count; i++)); do nodes+=("$name-$i"); done
  fi
}

vm() { cloud "$1" compute tpus tpu-vm "${@:2}" "${where[@]}" "${ssh_flag[@]}"; }

copy_to() { vm 900 scp "$2" "$1:" --worker=all; }

tell() { vm "$2" ssh "$1" --worker=all --command="$3"; }

# on_each FUNCTION ARGUMENTS...: FUNCTION NODE ARGUMENTS for all slices at once; gcloud does the same
# for the workers of one. Fails as the worst of them did, but with 2 if one was refused.
on_each() {
  local node calls=()
  ((${#nodes[@]})) || find_nodes || return 1
  for node in "${nodes[@]}"; do
    if [[ -n $dry_run ]]; then "$1" "$node" "${@:2}"; continue; fi
    "$1" "$node" "${@:2}" &
    calls+=($!)
  done
  worst_of "${calls[@]}"
}

# on_all SECONDS WORDS...: a command on every worker of every slice.
on_all() { on_each tell "$1" "$(quoted "${@:2}")"; }
