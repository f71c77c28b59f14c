"""How the documentation is built: ``sphinx-build -W docs docs/_build/html``."""

from importlib.metadata import version as installed_version

project = "napari-slidecorr"
author = "The napari-slidecorr developers"
copyright = author  # noqa: A001 - Sphinx asks for the name
release = version = installed_version("napari-slidecorr")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"napari-slidecorr {release}"

myst_enable_extensions = ["dollarmath", "linkify"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_ivar = True

suppress_warnings = ["ref.python"]  # "Tensor, shape (N, D)" in a docstring is no reference to an attribute
