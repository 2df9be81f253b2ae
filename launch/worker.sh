#!/usr/bin/env bash
# One machine's side of a launch: the environment, and a command that outlives the connection that
# started it. Its command, log and exit status lie in runs/launched/NAME.
set -euo pipefail

usage() {
  cat << END
usage: ./launch/worker.sh setup [EXTRA]           the environment, with an extra: tpu, gpu, tpu,wandb ...
       ./launch/worker.sh check [KIND] [COMMAND...]   packages, devices, inputs, disk; fails without tpu or cuda
       ./launch/worker.sh run COMMAND...          a command in the environment, in the foreground
       ./launch/worker.sh keep NAME COMMAND...    the same; its log and exit status are kept
       ./launch/worker.sh start NAME COMMAND...   the same, in the background
       ./launch/worker.sh state NAME              a line: running, finished, wrong, stopped, ...
       ./launch/worker.sh stop NAME [SECONDS]     asks it to save and end; kills it later (120)
       ./launch/worker.sh end NAME [SECONDS]      the same, and whoever watches it starts it no more
       ./launch/worker.sh log NAME                the log, followed until the command has ended
       ./launch/worker.sh last NAME               its last 200 lines, behind the machine's name

The other scripts here call it on every machine. SIGTERM and ^C ask a command to save and end; its
exit status is then $STOPPED, so that nobody takes it for finished.
END
}

STOPPED=75
BUSY=9

cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

# Ubuntu 22.04, of which the TPU images are made, has Python 3.10; uv brings another without root.
bring_python() {
  local tools=$HOME/.local/share/bertjax/uv
  if (find_python) &> /dev/null; then return; fi
  say "No fitting Python here; uv brings 3.12"
  python3 -m pip install --quiet --disable-pip-version-check --upgrade --target "$tools" uv
  "$tools/bin/uv" python install 3.12
  PATH=$(dirname "$("$tools/bin/uv" python find 3.12)"):$PATH
}

# setup [EXTRA]: gpu where a GPU is, without being told.
setup() {
  local extra=${1:-}
  if [[ $extra != @(tpu|gpu)* ]] && nvidia-smi &> /dev/null; then extra=gpu${extra:+,$extra}; fi
  bring_python
  make_environment "${BERTJAX_VENV:-.venv}" "$extra"
}

# run COMMAND...: passes SIGTERM, SIGINT and SIGHUP on as SIGTERM.
run() {
  local status child='' asked=''
  local activate=${BERTJAX_VENV:-.venv}/bin/activate
  # shellcheck disable=SC1090
  if [[ -f $activate ]]; then source "$activate"; fi
  trap 'asked=1; if [[ -n $child ]]; then kill -TERM "$child" 2> /dev/null || true; fi' TERM INT HUP
  PYTHONUNBUFFERED=1 "$@" &
  child=$!
  if [[ -n $asked ]]; then kill -TERM "$child" || true; fi
  while true; do # a signal ends wait, but not the child
    status=0
    wait "$child" 2> /dev/null || status=$?
    if ! kill -0 "$child" 2> /dev/null; then break; fi
  done
  if ((status > 128)) && [[ -z $asked ]]; then
    echo "killed by SIG$(kill -l $((status - 128))); KILL may mean that the memory was full" >&2
  fi
  if [[ -n $asked ]] && ((status != 2)); then status=$STOPPED; fi
  return "$status"
}

# check [KIND] [COMMAND...]: KIND is cuda where a GPU is. Of several processes all must ask at once.
check() {
  local kind='' words=() platform=''
  if [[ ${1:-} == @(tpu|cuda) ]]; then
    kind=$1
    shift
  elif nvidia-smi &> /dev/null; then
    kind=cuda
  fi
  if [[ -n $kind ]]; then platform=${kind/cuda/gpu}; fi
  read_words "$@"
  # Weights to begin from pass through the CPU.
  run env ${kind:+JAX_PLATFORMS="$kind,cpu"} python -m bertjax.doctor \
    ${platform:+--platform="$platform"} "${words[@]}"
}

# read_words COMMAND...: sets words to those of a pretraining or fine-tuning that the doctor takes.
read_words() {
  local flags=''
  while (($#)) && [[ -z $flags ]]; do
    case $1 in
      bertjax.pretrain) flags='--config --workdir name=value' ;;
      bertjax.finetune)
        flags='--init --data_dir --train --dev --test --extra_train --input --workdir' ;;
    esac
    shift
  done
  while (($#)); do
    if [[ " $flags " == *" ${1%%=*} "* ]]; then
      words+=("$1")
      if [[ $1 != *=* ]]; then words+=("${2:-}") && shift; fi
    elif [[ $flags == *name=value && $1 == [!-]*=* ]]; then
      words+=("$1")
    fi
    shift || true # the last word was a flag without its value, which the command refuses
  done
}

folder_of() { echo "runs/launched/$1"; }

# Whoever holds the lock runs the command; it is inherited, and goes with the last of its processes.
is_running() {
  local folder status=0
  folder=$(folder_of "$1")
  [[ -d $folder ]] || return 1
  flock -n -E "$BUSY" "$folder/lock" true || status=$?
  ((status == 0 || status == BUSY)) ||
    fail "$PWD/$folder/lock cannot be locked; put the checkout on a file system with flock"
  ((status == BUSY))
}

# runs_this NAME COMMAND...: whether it is this command that was started last.
runs_this() { [[ $(cat "$(folder_of "$1")/command") == "$(quoted "${@:2}")" ]]; }

# is_here NAME: fails if it runs on another machine of a shared disk; only there its pid counts.
is_here() {
  local host
  host=$(cat "$(folder_of "$1")/host" 2> /dev/null || uname -n)
  [[ $host == "$(uname -n)" ]] || fail "$1 runs on $host; call it there"
}

# hold NAME COMMAND...: takes the lock on descriptor 9; what an earlier run left is put away.
hold() {
  local folder
  folder=$(folder_of "$1")
  mkdir -p "$folder"
  exec 9>> "$folder/lock"
  if is_running "$1" || ! flock -n 9; then
    fail "$1 is running already; ./launch/worker.sh end $1 ends it"
  fi
  rm -f "$folder/status" "$folder/ended"
  uname -n > "$folder/host"
  quoted "${@:2}" > "$folder/command"
}

# watched NAME COMMAND...: runs it under the lock that is already held.
watched() {
  local folder status=0
  folder=$(folder_of "$1")
  echo $$ > "$folder/pid"
  printf '== %s  %s\n' "$(date '+%F %T')" "$(quoted "${@:2}")"
  run "${@:2}" || status=$?
  echo "$status" > "$folder/status.new"
  mv "$folder/status.new" "$folder/status"
  return "$status"
}

keep() {
  hold "$@"
  watched "$@" >> "$(folder_of "$1")/log" 2>&1
}

start() {
  local folder
  folder=$(folder_of "$1")
  if is_running "$1" && runs_this "$@"; then
    echo "$1 is running already"
    return
  fi
  hold "$@"
  setsid ./launch/worker.sh watched "$@" < /dev/null >> "$folder/log" 2>&1 &
  echo $! > "$folder/pid"
  echo "started $1"
}

# The word for an exit status; judge in supervise.sh goes by it.
word_for() {
  case $1 in
    0) echo finished ;;
    2 | 126 | 127) echo wrong ;; # refused, or no such program
    "$STOPPED") echo stopped ;;
    *) echo crashed ;;
  esac
}

# state NAME [COMMAND...]: the word is other if another command than this one runs.
state() {
  local folder word=lost last
  folder=$(folder_of "$1")
  if is_running "$1"; then
    word=running
    if (($# > 1)) && ! runs_this "$@"; then word=other; fi
  elif [[ -f $folder/status ]]; then
    word=$(word_for "$(cat "$folder/status")")
  fi
  if [[ -f $folder/ended && $word == @(stopped|crashed|lost) ]]; then word=ended; fi
  last=$(tail -c 2000 "$folder/log" 2> /dev/null | tr '\r' '\n' | grep . | tail -n 1 || true)
  printf 'bertjax: %s %s %s: %s\n' "$1" "$(uname -n)" "$word" "${last:0:160}"
}

# gone NAME SECONDS: waits for the end so long.
gone() {
  local tenth
  for ((tenth = 0; tenth < $2 * 10; tenth++)); do
    if ! is_running "$1"; then return; fi
    sleep 0.1
  done
  ! is_running "$1"
}

stop() {
  local pid folder
  folder=$(folder_of "$1")
  if ! is_running "$1"; then return; fi
  is_here "$1"
  pid=$(cat "$folder/pid")
  kill -TERM "$pid" 2> /dev/null || true
  if ! gone "$1" "${2:-120}"; then
    # Of a job's tasks only the first leads a group.
    kill -KILL -- "-$pid" || ! is_running "$1" || fail "$1 does not end; cancel its job"
    gone "$1" 30 || fail "$1 cannot be killed"
  fi
  [[ -f $folder/status ]] || echo "$STOPPED" > "$folder/status"
}

# end NAME [SECONDS]: the mark comes first, so that nobody takes it for a preemption meanwhile.
end() {
  if is_running "$1"; then is_here "$1"; fi
  mkdir -p "$(folder_of "$1")"
  touch "$(folder_of "$1")/ended"
  stop "$@"
}

log() {
  local folder
  folder=$(folder_of "$1")
  [[ -f $folder/log ]] || fail "no log in $PWD/$folder; nothing was started as $1"
  if is_running "$1"; then
    tail -n 100 -F --pid="$(cat "$folder/pid")" "$folder/log"
  else
    tail -n 100 "$folder/log"
  fi
}

last() { tail -n 200 "$(folder_of "$1")/log" | sed "s/^/$(uname -n)  /"; }

# wants COUNT SUBCOMMAND ARGUMENTS...: fails unless there are enough of them.
wants() { (($# - 2 >= $1)) || fail "too little behind $2; see ./launch/worker.sh --help"; }

case ${1:---help} in
  setup | check) ;;
  run | state | stop | end | log | last) wants 1 "$@" ;;
  keep | start | watched) wants 2 "$@" ;;
  --help | -h) usage && exit ;;
  *) fail "unknown argument '$1'; see ./launch/worker.sh --help" ;;
esac
"$@"
