"""The English sentences of a docstring or description, without code, tables and markup."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from bertjax.text.corpus import sentences

_UNDERLINE = re.compile(r"([=\-~^\"'`#*+.:_])\1{2,}\s*$")
# Directives, tables, headings, shell lines, tags, and section names such as "Args:".
_DROPPED = re.compile(
    r"\.\. |\||\+[-=]|#|@\w|In \[|Out\[|\$ |%|:type |:rtype|<|"
    r"[A-Z]\w+( \w+){0,2}:$"
)
_FIELD = re.compile(r":(?:param|arg|return|returns|raises|raise|keyword)[^:]*:\s*")
_GOOGLE_ARGUMENT = re.compile(r"[`*]*[\w.]+[`*]*( ?\([^)]*\))?:\s+(?=\S)")
_NUMPY_ARGUMENT = re.compile(r"[*\w][\w*, .]* : .*$")
_BULLET = re.compile(r"(?:[-*+•]|\(?\w{1,2}[.)])\s+(?=\S)")
_MARKUP = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"!?\[([^\]]*)\]\([^)]*\)", r"\1"),  # [text](target), images
        (r":[\w:+-]+:`~?([^`<]*?)\s*(?:<[^`]*>)?`", r"\1"),  # :role:`text <target>`
        (r"`([^`<]+?)\s*<[^`>]*>`_{0,2}", r"\1"),  # `text <target>`_
        (r"``?([^`]+)``?_{0,2}", r"\1"),  # ``code``, `name`
        (r"\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*", r"\1\2"),  # bold, italics
        (r"\s*\[(?:\d+|#\w*|[A-Z]\w*\d+)\]_?", ""),  # footnotes
        (r"\b(\w+)_(?=[\s.,;])", r"\1"),  # link_
        (r"<[^>]{1,40}>|\\[ `*]", ""),  # tags, escapes
        (r"\s+", " "),
    )
]
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the of to in is are be was it its this that these those and or not for from with by "
        "on at as if when which can may will must should has have into than then there you we",
    )
)
_CODE_SIGNS = re.compile(r"[\\${}|]|://|__")
_PLAIN_WORD = re.compile(r"[(\"']?[A-Za-z][A-Za-z'’-]*[)\"']?[.,;:!?]?[)\"']?$")


def prose(docstring: str) -> list[str]:
    """The English sentences of a docstring or a description, without code, tables and markup.

    A sentence stays when it begins with a capital letter, ends in . ! or ?, has 5 to 80 words, at
    least 80 % of them plain words, at least 15 % of them English function words, and neither a
    link nor a sign that only code and formulas have.
    """
    found = []
    for paragraph in _paragraphs(inspect.cleandoc(docstring).splitlines()):
        for pattern, replacement in _MARKUP:
            paragraph = pattern.sub(replacement, paragraph)
        found += [s for s in sentences(paragraph.strip()) if _is_prose(s)]
    return found


def _is_prose(sentence: str) -> bool:
    if not (sentence[0].isupper() and sentence[-1] in ".!?" and sentence.isprintable()):
        return False
    if _CODE_SIGNS.search(sentence):
        return False
    words = sentence.split()
    plain = sum(_PLAIN_WORD.match(word) is not None for word in words)
    function = sum(word.lower() in FUNCTION_WORDS for word in words)
    return 5 <= len(words) <= 80 and plain >= 0.8 * len(words) and function >= 0.15 * len(words)


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """Joins the lines of running text; leaves out code, tables, headings, signatures."""
    held: list[str] = []
    for line in [*_without_code(lines), ""]:
        text = line.strip()
        begins = _BULLET.match(text) or _FIELD.match(text) or _GOOGLE_ARGUMENT.match(text)
        dropped = not text or _DROPPED.match(text) or _NUMPY_ARGUMENT.match(text)
        if held and (begins or dropped or _UNDERLINE.match(text)):
            if not _UNDERLINE.match(text):  # else what is held is a heading
                yield " ".join(held)
            held = []
        if not dropped and not _UNDERLINE.match(text):
            held.append(text[begins.end() :] if begins else text)


def _without_code(lines: list[str]) -> Iterator[str]:
    """Leaves out fenced code, doctests, literal blocks and directives with what is below them."""
    fence, below, doctest = "", -1, False
    for line in lines:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if fence:
            fence = "" if text.startswith(fence) else fence
        elif text[:3] in ("```", "~~~"):
            fence = text[:3]
        elif not text or doctest or text.startswith(">>>"):
            doctest = bool(text)  # up to the next blank line it is code or output
            yield ""
        elif below < 0 or indent <= below:
            below = indent if text.endswith("::") or text.startswith(".. ") else -1
            yield "" if text.startswith(".. ") else line
