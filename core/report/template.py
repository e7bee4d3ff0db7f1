"""Pages from templates: one file each, the style within, everything that is said escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

_HERE = Path(__file__).parent


def fill(template: str, **values: Any) -> str:
    """Return the page of a template beside this file, given the style of all pages as ``css``.

    A name that the template knows and nobody gave is an error, not a gap.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = Markup((_HERE / "page.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(css=css, **values)
