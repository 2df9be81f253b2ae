#!/usr/bin/env bash
# What each step to BERT bought: word2vec, ELMo, left-to-right and BERT learn from one text, each as
# long as any other, then do the same tasks; a report says what holds:
#
#   ./launch/compare.sh --input books/*.txt.xz --data_dir data     some 2.5 hours on 2 cores
#
# Killed at any moment and started again, it goes on where it was. All flags are those of
# python -m bertjax.compare.
set -euo pipefail

here=$(pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

export TF_CPP_MIN_LOG_LEVEL=3
repository=$(pwd)
make_environment "${BERTJAX_VENV:-.venv}"
# Paths are given from the folder of the caller.
cd "$here"
exec python -m bertjax.compare --config="$repository/configs/compare.py" "$@"
