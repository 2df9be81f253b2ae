#!/usr/bin/env bash
# What each step to BERT bought: word2vec, ELMo, left-to-right and BERT learn from one text, each as
# long as any other, then do the same tasks; a report says what holds:
#
#   ./launch/compare.sh --input books/*.txt.xz --data_dir data     some 2.5 hours on 2 cores
#
# Killed at any moment and started again, it goes on where it was. All flags are those of
# python -m bertjax.compare.
set -euo pipefail

usage() {
  cat << END
usage: ./launch/compare.sh --input PATH... --data_dir DIR [option ...]

word2vec, ELMo, left-to-right and BERT learn from one text, each as long as any other, then do the
same tasks; a report says what holds. Run it again after an interruption: it goes on where it was.

  --input PATH...   text: .txt, .jsonl (also .gz, .xz, .zst), folders, globs, tfds:NAME
  --data_dir DIR    holds the tasks' files: folders glue, squad, ner and wordsim
  --workdir RUNS    where everything is written (runs/compare)
  --config CONFIG   what is compared (configs/compare.py)
  --budget TIME     half of it for pretraining, as 90m or 2h (2h); tasks take some 1.5 h on 2 cores
  --held_out P      share of the text (0.03)
  --jobs N          at a time (one a core; on accelerators 1)
  --seeds N         runs of each task (3)

example:
  ./launch/compare.sh --input books/*.txt.xz --data_dir data
END
}

for word; do
  if [[ $word == --help || $word == -h ]]; then usage && exit; fi
done

here=$(pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

export TF_CPP_MIN_LOG_LEVEL=3
repository=$(pwd)
make_environment "${BERTJAX_VENV:-.venv}"
# Paths are given from the folder of the caller.
cd "$here"
exec python -m bertjax.compare --config="$repository/configs/compare.py" "$@"
