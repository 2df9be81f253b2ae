# Sourced by the scripts beside it, from the repository's folder: the virtual environment.
# shellcheck shell=bash

say() { printf '\n== %s\n' "$*"; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# quoted WORD...: one line that a shell reads as these words again.
quoted() {
  local word flag line='' quote="'\\''"
  for word; do
    flag=''
    if [[ $word =~ ^--[a-z_-]+= ]]; then flag=${BASH_REMATCH[0]}; fi
    word=${word#"$flag"}
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//\'/$quote}'"
    line+="${line:+ }$flag$word"
  done
  printf '%s\n' "$line"
}

# Prints the first Python that fits setup.cfg; a command of that name may be an empty shim.
find_python() {
  local name
  local fits='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
  for name in python3 python3.13 python3.12 python3.11; do
    if "$name" -c "$fits" 2> /dev/null; then
      echo "$name"
      return
    fi
  done
  fail "no Python 3.11, 3.12 or 3.13 with venv found; install one" \
    "(apt install python3.12-venv, or pip install uv && uv python install 3.12)"
}

# What an installation hangs on: the requirements, and where the editable package lies.
installation() { pwd && cat setup.cfg pyproject.toml; }

# One live line on a terminal instead of pip's hundreds.
pip_progress() {
  awk -v live="$([[ -t 1 ]] && echo 1)" '
    /^Collecting/ { if (live) printf "\r\033[K  %d packages: %s", ++count, $2 }
    /^Installing collected/ { printf "%s  unpacking\n", live ? "\r\033[K" : "" }
    { fflush() }'
}

# make_environment FOLDER [EXTRA]: makes and activates it; installs only what setup.cfg changed.
make_environment() {
  local folder=$1 extra=${2:-} stamp="$1/installed${2:+-$2}" python
  if [[ ! -f "$folder/bin/activate" ]]; then
    python=$(find_python)
    say "A virtual environment in $folder ($("$python" -V))"
    "$python" -m venv "$folder"
  fi
  # shellcheck disable=SC1091
  source "$folder/bin/activate"
  if cmp -s <(installation) "$stamp"; then
    say "Reusing the environment in $folder"
    return
  fi
  say "Installing into $folder (1 to 3 minutes, mostly downloads)"
  python -m pip install --disable-pip-version-check -e ".${extra:+[$extra]}" | pip_progress
  installation > "$stamp"
}
