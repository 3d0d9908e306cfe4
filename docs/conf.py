"""Sphinx configuration of the site: `make docs` builds it from the pages of this folder.

Pages are Markdown that also reads well on GitHub. What the code says itself is not written twice:
`docs/api` takes docstrings, `extension/faq_pages.py` the help of the command line.
"""

import sys
from importlib import metadata
from pathlib import Path

_DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(_DOCS / "extension"), str(_DOCS.parent)]

project = "faq_keras"
copyright = "the authors of faq_keras"
release = version = metadata.version("faq_keras")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_copybutton",
    "faq_pages",
]
exclude_patterns = ["extension"]
default_role = "code"  # docstrings write code in single backticks
smartquotes = False  # `--flags` keep both dashes

myst_heading_anchors = 3  # [links](training.md#alarms) resolve here and on GitHub
myst_enable_extensions = ["colon_fence"]

nitpicky = True  # what a signature or docstring names of ours has to be in the reference
nitpick_ignore_regex = [(r"py:.*", r"(?!faq_keras\.).*")]

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes as a list; dataclasses show their types in the signature
python_maximum_signature_line_length = 70
python_use_unqualified_type_names = True
python_display_short_literal_types = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_title = f"faq_keras {release}"
html_static_path = ["static"]
html_css_files = ["faq.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_search_summary = False  # would fetch pages, which browsers refuse for file://
copybutton_exclude = ".linenos, .gp, .go"
