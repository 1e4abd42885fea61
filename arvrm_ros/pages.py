# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the self-contained HTML pages have in common: how templates are read, and how pictures are put into them."""

from __future__ import annotations

import base64
from pathlib import Path

import jinja2


def environment(templates: Path) -> jinja2.Environment:
    """Templates of a folder; what is put in is escaped, and a value that is missing is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def data_uri(kind: str, data: bytes) -> str:
    """A picture or film, by its MIME type, as a URI that holds all of it; "" when there is nothing."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}" if data else ""
