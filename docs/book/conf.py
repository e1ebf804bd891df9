"""Settings of the course's site: `make book` runs Sphinx on the checkout with them.

Sphinx reads the notebooks where they lie and shows the outputs that were saved in them: nothing is
executed. Fonts, formulas and search come from the site's own files, so it works without a network.
"""

project = "varmini"
author = "varmini authors"
html_title = "varmini: the course"

extensions = ["myst_nb", "sphinx_copybutton", "sphinx-mathjax-offline"]
root_doc = "docs/book/course"
include_patterns = ["docs/**.md", "notebooks/*.ipynb", "notebooks/assignments/*.ipynb"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "error"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_extra_path = ["index.html"]  # sends the reader from the site's root to the root document
html_copy_source = False
html_show_copyright = False
