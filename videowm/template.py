"""HTML pages in one style; nothing in them comes from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HERE = Path(__file__).parent  # template.html has the head of a page, table.html a table


def render(path: Path, **values: Any) -> bytes:
    """What the template `path`, which extends template.html, makes of `values`."""
    import jinja2

    loader = jinja2.FileSystemLoader([path.parent, HERE])
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template(path.name).render(**values).encode()
