"""Pages made of the templates beside this file, with nothing outside of them."""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined


def render(name: str, **content: Any) -> str:
    """A template with its content; in .html ones all text is escaped."""
    folder = resources.files("bertjax.reporting") / "templates"
    sources = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(name).render(**content)
