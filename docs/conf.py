"""How the site of these pages is built: `make docs`. What the pages say belongs in them."""

from datacube_assets import __version__

project = "datacube_assets"
release = version = __version__
html_title = f"datacube_assets {__version__}"
language = "en"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["notebooks"]
# Sections are linked to by the names that GitHub gives them, so that links work in both places.
myst_heading_anchors = 4
suppress_warnings = ["myst.header", "misc.highlighting_failure"]

html_theme = "furo"
html_copy_source = False
html_show_copyright = False
# Summaries are fetched page by page, which no browser does where the site is opened as a file.
html_show_search_summary = False
html_theme_options = {"navigation_with_keys": True}
