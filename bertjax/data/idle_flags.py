"""Refuses flags of bertjax.prepare that would change nothing where they are given."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence

from bertjax.command_line import named
from bertjax.errors import UserError

# All that is asked of records that are made already.
_OF_RECORDS = ("input", "output", "vocab", "cased")
# How a vocabulary is learnt.
_LEARNING = ("vocab_kind", "vocab_size", "min_count")
# Formats that make some of their pairs shorter; all others end where a sentence or the row does.
_SHORTENED = ("nsp", "sop", "segment_pair")
# What a build on this machine keeps to.
_LOCAL = ("workers", "memory")


def given(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> list[str]:
    """Names of the flags that stand on a command line, be it with the value of their default."""
    names = vars(parser.parse_known_args(argv)[0])
    unset = object()  # Defaults are filled in only where there is nothing yet.
    filled = argparse.Namespace(**dict.fromkeys(names, unset))
    return [n for n, v in vars(parser.parse_known_args(argv, filled)[0]).items() if v is not unset]


def check(flags: argparse.Namespace) -> None:
    """Raises UserError: flags that a build from text would not read."""
    if flags.runner:
        _refuse(flags, _LOCAL, "the machines of --runner are set by its own options; leave it out")
    if flags.vocab:
        _refuse(flags, _LEARNING, "nothing is learnt with --vocab; leave one of them out")
    elif flags.vocab_kind != "words":
        _refuse(flags, ("min_count",), "is for --vocab_kind=words; add that, or leave it out")
    if flags.segments not in _SHORTENED:
        why = f"--segments={flags.segments} makes none shorter; leave it out"
        _refuse(flags, ("short_seq_prob",), why)
    if flags.keep_lines:
        _refuse(flags, ("language",), "no line is split with --keep_lines; leave one of them out")


def check_records(flags: argparse.Namespace) -> None:
    """Raises UserError: flags that say how records are made, where --input holds some."""
    idle = {name for name in flags.given if name not in _OF_RECORDS}
    _refuse(flags, idle, "--input holds records, which stay as they are; leave it out")


def _refuse(flags: argparse.Namespace, idle: Collection[str], why: str) -> None:
    if found := named(flags.given, idle):
        raise UserError(f"{found}: {why}")
