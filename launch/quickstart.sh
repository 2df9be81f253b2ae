#!/usr/bin/env bash
# The whole story, from raw text to a fine-tuned, exported BERT and a report:
#
#   ./launch/quickstart.sh                       about 10 minutes on 2 cores
#   ./launch/quickstart.sh --input books/*.txt --workdir runs/books   the same with your own text
#
# Killed at any moment and started again, it goes on where it was: each chapter continues by
# itself, or says what it reuses.
set -euo pipefail

VOCAB_SIZE=4096
MAX_SEQ_LENGTH=64
MAX_PREDICTIONS=10
DUPE_FACTOR=3
SIZE=tiny
PRETRAIN_STEPS=11000
BATCH_SIZE=16
LEARNING_RATE=1e-3
WARMUP_STEPS=200
INITIALIZER_RANGE=0.09  # about 1 / sqrt(width); the paper's 0.02 is for a width of 768
FINETUNE_EPOCHS=5
FINETUNE_LEARNING_RATE=5e-4

usage() {
  cat << END
usage: ./launch/quickstart.sh [--input PATH...] [--workdir FOLDER] [--help]

From raw text to a fine-tuned, exported BERT and a report, in about 10 minutes on 2 cores.
Run it again after an interruption: it goes on where it was.

  --input PATH...   your own text: .txt, .txt.gz, .txt.xz files or folders, a blank line between
                    documents, or tfds:NAME; default: the documentation that every installation
                    carries
  --workdir FOLDER  where everything is written (runs/quickstart)

example:
  ./launch/quickstart.sh --input books/*.txt --workdir runs/books
END
}

here=$(pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

# Paths are given from the folder of the caller; data sets and buckets lie in none.
absolute() { [[ $1 =~ ^(/|gs://|tfds:) ]] && echo "$1" || echo "$here/$1"; }

workdir=runs/quickstart
inputs=()
while (($#)); do
  case $1 in
    --help | -h) usage; exit ;;
    --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    --workdir)
      [[ -n ${2:-} ]] || fail "--workdir needs a folder"
      [[ $2 != gs://* ]] || fail "--workdir $2 must be a local folder; copy it: gcloud storage cp -r"
      workdir=$(absolute "$2"); shift 2 ;;
    --input)
      [[ -n ${2:-} && $2 != --* ]] || fail "--input needs a file or a folder"
      shift
      while (($#)) && [[ $1 != --* ]]; do inputs+=("$(absolute "$1")"); shift; done ;;
    *) fail "unknown argument '$1'; see ./launch/quickstart.sh --help" ;;
  esac
done

mkdir -p "$workdir"
times=$workdir/times.tsv

# show COMMAND...: as one would type it.
show() {
  local word
  printf '\n$'
  for word; do
    [[ $word =~ ^[A-Za-z0-9_=./:,-]+$ ]] && printf ' %s' "$word" || printf ' "%s"' "$word"
  done
  printf '\n'
}

# took NAME SECONDS: remembers it for the report; of a run again, the first time counts.
took() {
  grep -qs "^$1"$'\t' "$times" || printf '%s\t%d\n' "$1" "$2" >> "$times"
}

# chapter NAME COMMAND...: shows the command and runs it.
chapter() {
  local name=$1 start=$SECONDS
  shift
  show python -m "$@"
  python -m "$@"
  took "$name" $((SECONDS - start))
}

export TF_CPP_MIN_LOG_LEVEL=3
make_environment "${BERTJAX_VENV:-.venv}"
took installation $SECONDS

say "1. Text: ${inputs[*]:-the documentation that comes with the installation}, and a labelled task"
chapter text bertjax.collect --output "$workdir/text" ${inputs[@]+--input "${inputs[@]}"}

say "2. Records: a vocabulary is learnt, sentences are paired, pieces are hidden"
layout=(--keep_lines --max_seq_length "$MAX_SEQ_LENGTH"
  --max_predictions_per_seq "$MAX_PREDICTIONS")
chapter records bertjax.prepare --input "$workdir/text/train.txt" \
  --output "$workdir/records/train" --vocab_size $VOCAB_SIZE --dupe_factor $DUPE_FACTOR "${layout[@]}"
chapter "held-out records" bertjax.prepare --input "$workdir/text/valid.txt" \
  --output "$workdir/records/valid" --vocab "$workdir/records/train" --dupe_factor 1 "${layout[@]}"

say "3. Pretraining: hidden pieces and next sentences are to be guessed"
chapter pretraining bertjax.pretrain --config=configs/bert.py:$SIZE \
  --workdir="$workdir/pretrained" \
  data.records="$workdir/records/train" data.eval_records="$workdir/records/valid" \
  model.max_positions=$MAX_SEQ_LENGTH model.initializer_range=$INITIALIZER_RANGE \
  model.hidden_dropout=0.0 model.attention_dropout=0.0 \
  train.batch_size=$BATCH_SIZE train.steps=$PRETRAIN_STEPS \
  train.learning_rate=$LEARNING_RATE train.warmup_steps=$WARMUP_STEPS \
  log_every=100 eval_every=1000 save_every=500

say "4. Fine-tuning: which library is this passage about? Once from the pretrained weights ..."
recipe=(--task=classify --data_dir="$workdir/text/task"
  --max_seq_length="$MAX_SEQ_LENGTH" --epochs="$FINETUNE_EPOCHS" --batch_size="$BATCH_SIZE"
  --learning_rate="$FINETUNE_LEARNING_RATE")
chapter fine-tuning bertjax.finetune "${recipe[@]}" --workdir="$workdir/finetuned" \
  --init="$workdir/pretrained"

say "   ... and once from random weights, to see what pretraining bought"
chapter "the same from scratch" bertjax.finetune "${recipe[@]}" \
  --workdir="$workdir/from-scratch" --init="scratch:$workdir/pretrained"

say "5. Export: a folder that the transformers library loads"
if [[ -d $workdir/exported ]]; then
  echo "reusing $workdir/exported"
else
  chapter export bertjax.export --format=hf --run="$workdir/pretrained" \
    --output="$workdir/exported"
fi

say "6. Filling in a blank"
chapter filling bertjax.fill --run="$workdir/pretrained" --output="$workdir/fill.json" \
  "This function returns a [MASK] of strings." \
  "If the file does not [MASK], an error is raised." \
  "The default [MASK] is None."

say "7. The report"
python -m bertjax.report --pretrain "$workdir/pretrained" \
  --finetune "$workdir/finetuned" "$workdir/from-scratch" \
  --fill "$workdir/fill.json" --times "$times" --output "$workdir/report.html"

cat << END

Done in $((SECONDS / 60)) min $((SECONDS % 60)) s. Open this in a browser:
  $(realpath "$workdir/report.html")

Next, in this environment (source ${BERTJAX_VENV:-.venv}/bin/activate):
  python -m bertjax.fill --run=$workdir/pretrained "Your own [MASK] here."
  python -m bertjax.finetune --task=classify --data_dir=YOUR_FOLDER \\
      --init=$workdir/pretrained --workdir=runs/mine
END
