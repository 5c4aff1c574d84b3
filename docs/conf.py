# SPDX-License-Identifier: BSD-3-Clause
"""Sphinx configuration: Markdown pages, warnings are errors (`make docs`)."""

project = "Sealroom"
author = "the Sealroom developers"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = "Sealroom"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
