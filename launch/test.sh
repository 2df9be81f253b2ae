#!/usr/bin/env bash
# Environment, installation, lint, types, all tests:
#
#   ./launch/test.sh [arguments for pytest]
#
# The environment lies in .venv, or where BERTJAX_VENV says.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

make_environment "${BERTJAX_VENV:-.venv}" test

say "Lint"
ruff check .
ruff format --check .
shellcheck launch/*.sh .ci/run

say "Types"
mypy

say "Tests"
python -m pytest -n 2 "$@"
