"""Sphinx configuration: MyST pages, furo, autodoc of the public functions, and what is made at build time.

Pictures of training examples come from the objectives themselves (`pictures.py`, `home.py`), tables of options from the
dataclasses that hold them (`options.py`), so neither can say something else than the code does. Every block of code has
a button that copies it, commands without their prompt and without what they print (sphinx-copybutton, whose scripts are
part of the pages).
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

import deepnorm_study  # noqa: E402
import home  # noqa: E402
import options  # noqa: E402
import pictures  # noqa: E402
import quantisation_study  # noqa: E402

from blankfill._version import __version__  # noqa: E402

project = "blankfill"
author = "The blankfill authors"
copyright = "The blankfill authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
copybutton_prompt_text = r"\$ |> "
copybutton_prompt_is_regexp = True
copybutton_selector = "div:not(.highlight-text) > div.highlight > pre"
copybutton_line_continuation_character = "\\"
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"blankfill {__version__}"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
suppress_warnings = ["ref.python"]


def setup(app):
    """Draw the pictures and teach Sphinx the `options` directive."""
    pictures.make(HERE / "_build" / "generated")
    deepnorm_study.make(HERE / "_build" / "generated")
    quantisation_study.make(HERE / "_build" / "generated")
    home.make(HERE / "_build" / "generated")
    app.add_directive("options", options.Options)
