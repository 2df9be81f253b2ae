#!/usr/bin/env bash
# A SLURM cluster: one task a GPU on all nodes of a job, which is queued again until it has finished.
set -euo pipefail

usage() {
  cat << END
usage: ./launch/slurm.sh [options for sbatch] [--dry_run] -- COMMAND...

Submits COMMAND as a job; the checkout and its environment lie on a disk that the nodes share (on a
GPU machine: ./launch/worker.sh setup gpu). There is one task a GPU if --gpus-per-node=N or
--gres=gpu:N says how many, else one a node with all of its GPUs; JAX finds the others by SLURM's
variables. bertjax.doctor looks at them first, and at what a training is to read and write. Two
minutes before the time limit the tasks are asked to save; then, and after a preemption, a crash or a
lost node, the job is queued again and goes on from the last checkpoint; not after exit status 0
(finished) or 2 (refused), nor after five crashes in a row.

  --dry_run   prints the call of sbatch instead of making it

Logs: runs/launched/slurm-JOB.log of the job, runs/launched/JOB-TASK/log of each task.

example:
  ./launch/slurm.sh --nodes=2 --gpus-per-node=8 --time=12:00:00 -- \\
      python -m bertjax.pretrain --config=configs/bert.py:base --workdir=runs/base \\
      data.records=records/128 model.dtype=bfloat16
END
}

POLL_SECONDS=${BERTJAX_POLL_SECONDS:-0} # nodes do not wait
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
source launch/environment.sh
source launch/options.sh
source launch/supervise.sh

options=() dry_run=''

# read_line ARGUMENTS...: all before -- but two words is for sbatch.
read_line() {
  while (($#)); do
    case $1 in
      --help | -h) usage && exit ;;
      --dry_run) dry_run=1 ;;
      --) command=("${@:2}") && return ;;
      *) options+=("$1") ;;
    esac
    shift
  done
}

# count_tasks: sets tasks to the GPUs of a node, 1 if none are asked for.
count_tasks() {
  local i option value gpus
  tasks=1
  for i in "${!options[@]}"; do
    option=${options[i]%%=*} value=${options[i]#*=}
    if [[ ${options[i]} != *=* ]]; then value=${options[i + 1]:-}; fi
    case $option in
      --gpus-per-node) gpus=$value ;;
      --gres) # gpu, gpu:8, gpu:h100:8, and others behind commas
        [[ ,$value =~ ,(gres/)?(gpu(:[^,]*)?)(,|$) ]] || continue
        gpus=${BASH_REMATCH[2]} ;;
      --gpus | --gpus-per-task | --gpus-per-socket | -G*)
        fail "${options[i]}: say --gpus-per-node=N, of which each task gets one" ;;
      *) continue ;;
    esac
    tasks=${gpus##*:}
    if [[ $gpus == gpu ]]; then tasks=1; fi
    [[ $tasks =~ ^[1-9][0-9]*$ ]] || fail "$option=$value: say --gpus-per-node=N, one task a GPU"
  done
}

# submit: the user's options come last, so that they win.
submit() {
  local tasks call
  count_tasks
  call=(sbatch --job-name=bertjax --requeue --open-mode=append --signal=B:TERM@120
    --output="$PWD/runs/launched/slurm-%j.log" --ntasks-per-node="$tasks" "${options[@]}"
    --wrap="exec $(quoted "$PWD/launch/slurm.sh" job "${command[@]}")")
  if [[ -n $dry_run ]]; then quoted "${call[@]}"; return; fi
  command -v sbatch > /dev/null || fail "sbatch is not installed; submit from a login node of SLURM"
  mkdir -p runs/launched
  "${call[@]}"
}

# job COMMAND...: on the first node. SLURM tells this shell alone of the time limit.
job() {
  local found verdict status=0
  rm -f "runs/launched/$SLURM_JOB_ID"-*/status
  # Since 22.05 srun does not take it from sbatch.
  if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
  trap 'scancel --signal=TERM "$SLURM_JOB_ID" || true' TERM
  step ./launch/worker.sh check "$@" || status=$?
  if ((status == 2)); then return 2; fi
  if ((status == 0)); then step ./launch/slurm.sh task "$@" || true; fi
  found=$(states)
  printf '%s\n' "$found"
  verdict=$(judge <<< "$found")
  if ((status == 75)); then verdict=stopped; fi # the check was asked to end
  note "job $SLURM_JOB_ID: $verdict"
  case $verdict in
    finished | ended) return 0 ;;
    wrong) return 2 ;;
  esac
  [[ $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) == RUNNING ]] || return # cancelled
  keep_count "$verdict" || return
  scontrol requeue "$SLURM_JOB_ID"
}

# step WORDS...: a step of all tasks; a signal ends wait, but not the step.
step() {
  local process status
  srun --wait=300 "$@" &
  process=$!
  while true; do
    status=0
    wait "$process" || status=$?
    if ! kill -0 "$process" 2> /dev/null; then return "$status"; fi
  done
}

task() { exec ./launch/worker.sh keep "$SLURM_JOB_ID-$SLURM_PROCID" "$@"; }

states() {
  local i
  for ((i = 0; i < SLURM_NTASKS; i++)); do ./launch/worker.sh state "$SLURM_JOB_ID-$i"; done
}

# keep_count VERDICT: the count of crashes outlives this shell.
keep_count() {
  local file=runs/launched/slurm-$SLURM_JOB_ID.crashes
  crashes=$(cat "$file" 2> /dev/null || echo 0)
  forget_crashes "$SECONDS"
  if [[ $1 != stopped ]]; then count_crash || return; fi
  echo "$crashes" > "$file"
}

if [[ -n ${SLURM_JOB_ID:-} && ${1:-} == @(job|task) ]]; then
  "$@"
else
  read_line "$@"
  wants_command ./launch/slurm.sh
  submit
fi
