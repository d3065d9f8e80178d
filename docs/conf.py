"""Sphinx settings of the documentation site: `make docs` (sphinx.readthedocs.io, myst-parser.readthedocs.io).

The source folder is the repository's root: links to README, the chart's pages and source files are checked, too.
"""

project = "hybridserve"
html_show_copyright = False
extensions = ["myst_parser", "sphinxcontrib.mermaid", "sphinx_external_toc"]
include_patterns = [
    "*.md",
    "docs/**.md",
    "helm/hybridserve/*.md",
    "benchmarks/gpu/README.md",
    "src/hybridserve/demo_model/README.md",
]
exclude_patterns = [".*", "tests", "build", "dist", "demo"]  # folders that are large and have no page
external_toc_path = "docs/_toc.yml"

myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]

html_theme = "furo"
html_title = "hybridserve"
html_extra_path = ["site"]
html_copy_source = False
