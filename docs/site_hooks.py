"""Brings pages that lie beside docs/ into the site, and leads their links there.

MkDocs calls these functions (mkdocs.yml, `hooks`). Pages are written so that their links work in
the repository; the site has the same pages in other places.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).resolve().parents[1]
# Files of the repository outside docs/, and where the site has them.
BESIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "models/weights/README.md": "weights.md",
    **{
        f"benchmarks/{name}": f"benchmarks/{name}"
        for name in (
            "conversion.md",
            "fit_quality.md",
            "fit_quality.png",
            "five_networks.md",
            "forward.md",
            "gpu.md",
            "library_trends.md",
            "rate_coding.md",
            "setup_cost.md",
            "several_processes.md",
            "small_batches.md",
            "streaming.md",
        )
    },
}
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files beside docs/."""
    for source, uri in BESIDE.items():
        files.append(File.generated(config, uri, abs_src_path=str(_ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads the links of a page to where the site has what they mean."""
    return linked(markdown, page.file.src_uri)


def linked(markdown: str, uri: str) -> str:
    """A page's text with links for the site.

    Args:
        markdown: the text, with links as they hold in the repository.
        uri: where the site has the page.
    """
    source = {there: here for here, there in BESIDE.items()}.get(uri, f"docs/{uri}")

    def for_the_site(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        meant = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if "://" in target or not (_ROOT / meant).exists():
            return found[0]  # elsewhere, code, or a mistake that MkDocs tells
        there = BESIDE.get(meant, meant.removeprefix("docs/") if meant[:5] == "docs/" else None)
        if there is None:
            return f"{text} (`{meant}`)"
        return f"[{text}]({posixpath.relpath(there, posixpath.dirname(uri) or '.')}{anchor})"

    return _LINK.sub(for_the_site, markdown)
