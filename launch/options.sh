# Sourced: reads a command line. The script says what there is: OPTIONS with a value, SWITCHES,
# LISTS of options that may be given several times. Each sets the variable of its name.
# shellcheck shell=bash

places=() given=() command=() # words without --; options that are there; all behind a lone --

# parse SCRIPT ARGUMENTS...: options may stand anywhere, as --name=value or --name value.
parse() {
  local script=$1 option value
  shift
  while (($#)); do
    option=${1#--}
    option=${option%%=*}
    case $1 in
      --help | -h) usage && exit ;;
      --) command=("${@:2}") && return ;;
      --*=*) value=${1#*=} ;;
      --*) value='' ;;
      *) places+=("$1") && shift && continue ;;
    esac
    given+=("$option")
    if [[ " $SWITCHES " == *" $option "* && $1 != *=* ]]; then
      printf -v "$option" 1
    elif [[ " $OPTIONS $LISTS " == *" $option "* ]]; then
      if [[ $1 != *=* && $# -ge 2 && $2 != -- ]]; then value=$2 && shift; fi
      [[ -n $value ]] || fail "--$option needs a value; see $script --help"
      set_option "$option" "$value"
    else
      fail "unknown option '$1'; see $script --help"
    fi
    shift
  done
}

set_option() {
  if [[ " $LISTS " == *" $1 "* ]]; then
    local -n list=$1
    list+=("$2")
  else
    printf -v "$1" %s "$2"
  fi
}

# whole_number OPTION LEAST: the option's variable becomes a number without leading zeros.
whole_number() {
  local -n number=$1
  if [[ ! $number =~ ^[0-9]{1,5}$ ]] || ((10#$number < $2)); then
    fail "--$1=$number is not a whole number from $2 on"
  fi
  number=$((10#$number))
}

# wants_command SCRIPT
wants_command() { ((${#command[@]})) || fail "a command is missing behind --; see $1 --help"; }

# extras [KIND]: what is to be installed for KIND, and for what the command asks for.
extras() {
  if [[ " ${command[*]} " == *" --wandb"[\ =]* ]]; then echo "${1:+$1,}wandb"; else echo "${1:-}"; fi
}

check_name() {
  # shellcheck disable=SC2154 # the script's own option
  [[ $name =~ ^[A-Za-z0-9_][A-Za-z0-9._-]*$ ]] ||
    fail "--name=$name: a name is of letters, digits, '.', '_' and '-'"
}
