# Sourced: keeps one command running on all workers until it has finished. A crash or a preemption
# costs what was done since the last checkpoint: the same command is started again.
# shellcheck shell=bash
# shellcheck disable=SC2154 # name and command
#
# Who sources it defines, each for all workers:
#   start_all   starts the command where it does not run yet
#   states [COMMAND...]  prints what worker.sh state says of each; fails if one could not be asked
#   present     fails with 1 when the workers are known to be gone, with 2 when nobody can tell
#   stop_all [SECONDS]  asks the command to save and end; kills it after that time
#   recover     brings workers back that are gone
#   set_up      for prepare: makes the environments
# and the variables name and command.

POLL_SECONDS=${POLL_SECONDS:-${BERTJAX_POLL_SECONDS:-30}} # between two looks at the workers
STEADY_SECONDS=${BERTJAX_STEADY_SECONDS:-600} # a crash after that long is the first one again
QUICK=10                                      # seconds to end in when nothing can be saved
TRIES=5                                       # crashes, lost calls or lost looks in a row

((BASH_VERSINFO[0] >= 5)) || fail "bash $BASH_VERSION is too old; install bash 5 (brew install bash)"

note() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*"; }

# delay COUNT: waits, twice as long with each count.
delay() { sleep $((POLL_SECONDS * 2 ** ($1 - 1))); }

# worst_of PROCESS...: waits for all; their highest exit status, but 2 if one was refused, and 127
# (no checkout there) only if no other failed.
worst_of() {
  local process status worst=0
  for process; do
    status=0
    wait "$process" || status=$?
    case $worst,$status in
      2,* | *,0) ;;
      *,2 | 0,* | 127,*) worst=$status ;;
      *,127) ;;
      *) if ((status > worst)); then worst=$status; fi ;;
    esac
  done
  return "$worst"
}

# pack_checkout ARCHIVE: the files as they are here, without those that git ignores.
pack_checkout() {
  local file
  git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do if [[ -e $file ]]; then printf '%s\0' "$file"; fi; done |
    tar --null -T - -czf "$1" || fail "this checkout cannot be packed; see above what git or tar says"
}

# persist COMMAND...: again after a failure or a hang, but not if it was refused (exit status 2).
persist() {
  local try status
  for ((try = 1; ; try++)); do
    status=0
    "$@" || status=$?
    if ((status == 0 || status == 2 || try == TRIES)); then return "$status"; fi
    note "failed with exit status $status, attempt $try of $TRIES: $(quoted "$@")"
    delay "$try"
  done
}

# judge: reads lines of states; one word for all workers, the worst one counts.
judge() {
  awk '
    $1 == "bertjax:" { sub(":", "", $4); seen[$4] = 1 }
    END {
      n = split("other ended wrong crashed lost stopped running finished", worst)
      for (i = 1; i <= n; i++) if (worst[i] in seen) { print worst[i]; exit }
      print "unknown"
    }'
}

# outline: of the lines of states, the first worker that runs and all that do not.
outline() { sort | awk '$1 == "bertjax:" && ($4 != "running:" || !count++)'; }

# under_way: whether the command runs on all workers. It asks again where one gives no answer, for
# what is not seen may run there; exit status 127 is an answer: there is no checkout yet.
under_way() {
  local found status try
  for ((try = 1; try <= TRIES; try++)); do
    status=0
    found=$(states "${command[@]}" 2>&1) || status=$?
    case $(judge <<< "$found"),$status in
      other,*)
        outline <<< "$found"
        fail "another command runs as $name; end it, or choose another name" ;;
      running,0) return 0 ;;
      *,0 | *,127) return 1 ;;
      *,2)
        printf '%s\n' "$found" >&2
        exit 2 ;;
    esac
    printf '%s\n' "$found"
    note "not every worker says what it does, attempt $try of $TRIES"
    ((try == TRIES)) || delay "$try"
  done
  printf 'error: not every worker of %s can be reached; nothing is started or stopped\n' "$name" >&2
  exit 1
}

# are_gone: whether the workers are known to be gone.
are_gone() {
  local there=0
  present || there=$?
  ((there == 1))
}

# watch: returns when the workers do not just go on; sets verdict to a word of judge, or gone.
watch() {
  local found shown='' missed=0 reached there
  verdict=running
  while true; do
    reached=1
    found=$(states) || reached=''
    verdict=$(judge <<< "$found")
    found=$(outline <<< "$found")
    if [[ $found != "$shown" ]]; then printf '%s\n' "$found"; fi
    shown=$found
    if [[ $verdict == ended || -n $reached && $verdict == finished ]]; then return; fi
    there=0
    present || there=$?
    # A network that is away here takes nothing away there.
    if [[ -n $reached ]] || ((there == 2)); then missed=0; else ((missed += 1)); fi
    # What fails where a worker goes is not the command's fault, whatever it says.
    if ((missed == TRIES || there == 1)); then verdict=gone; fi
    if [[ $verdict == @(gone|wrong|crashed|lost|stopped) ]]; then return; fi
    sleep "$POLL_SECONDS"
  done
}

# forget_crashes SECONDS: those before a run of that many, however it ended, count no more.
forget_crashes() { if (($1 >= STEADY_SECONDS)); then crashes=0; fi; }

# count_crash: gives up after too many in a row; waits longer after each.
count_crash() {
  ((crashes += 1))
  if ((crashes == TRIES)); then
    printf 'error: %s\n' "$TRIES crashes in a row, each within $STEADY_SECONDS s; see the log" >&2
    return 1
  fi
  note "crash $crashes of $TRIES; the same command starts again"
  delay "$crashes"
}

# supervise: returns 0 when the command has finished, 2 when it was refused, 1 when it is given up,
# 3 when somebody has ended it by hand.
supervise() {
  local began verdict='' before status
  crashes=0
  while true; do
    before=$verdict began=$SECONDS status=0
    # Starting would wipe out the mark of somebody who has ended it while this waited. What never
    # started may have the mark of an earlier run.
    if [[ $verdict != @(|unreached) && $(states 2> /dev/null | judge) == ended ]]; then
      note "the command on all workers: ended"
      return 3
    fi
    start_all || status=$?
    if ((status == 2)); then return 2; fi
    if ((status == 0)); then watch; else verdict=unreached; fi
    note "the command on all workers: $verdict"
    if [[ $verdict != unreached ]]; then forget_crashes $((SECONDS - began)); fi
    case $verdict in
      finished) return 0 ;;
      wrong) stop_all "$QUICK" || true; return 2 ;;
      ended) stop_all || true; return 3 ;;
      stopped) stop_all || true; delay 1 ;;
      gone) recover || return ;;
      unreached) # the first time in a row it may be what was just counted
        if [[ $before == unreached ]] && present; then count_crash || return; fi
        recover || return ;;
      *) # without the one that died the others cannot save
        stop_all "$QUICK" || true
        if are_gone; then recover || return; else count_crash || return; fi ;;
    esac
  done
}

# prepare: sets the workers up, unless the command runs there already.
prepare() {
  if under_way; then return; fi
  stop_all "$QUICK" &> /dev/null || true
  persist set_up
}

# supervise_until_asked: a lost connection leaves the command running, ^C and SIGTERM do not.
supervise_until_asked() {
  trap 'note "stopping"; stop_all || true; exit 130' INT
  trap 'note "stopping"; stop_all || true; exit 143' TERM
  supervise
}
