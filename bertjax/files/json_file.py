"""JSON files: read as an object or refused in one line, written whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bertjax.errors import UserError
from bertjax.files.whole_file import write_whole


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file.

    Raises:
      UserError: missing, not JSON, or JSON but not an object.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON with a line break at its end."""
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())
