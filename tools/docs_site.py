"""Hooks of `mkdocs.yml`: pages that stand at the root of the repository, and a reference page for every room of the library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jupytext
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# File of the repository -> its page on the site; links to them are rewritten.
AT_ROOT = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "checkpoints/demo/README.md": "demo-card.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE",
}
# Examples are shown as pages: their cells of text as text, those of code as code.
EXAMPLES = {f"examples/{path.name}": f"examples/{path.stem}.md" for path in sorted((ROOT / "examples").glob("*.py"))}
PAGES = AT_ROOT | EXAMPLES
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s#]+)")


def rooms() -> list[str]:
    """Modules that a reader can look up: the public names, and every room with what is in it."""
    inner = sorted(path.parent.name for path in (ROOT / "medcodi").glob("*/__init__.py"))
    return [*inner, *sorted(path.stem for path in (ROOT / "medcodi").glob("[a-z]*.py"))]


def on_config(config: Any) -> Any:
    """Append the reference to the navigation."""
    config.nav.append(
        {"Reference": [{"medcodi": "reference/medcodi.md"}, *({name: f"reference/{name}.md"} for name in rooms())]}
    )
    use = next(entry["Use"] for entry in config.nav if "Use" in entry)
    use.append({"Card of the demo model": "demo-card.md"})
    place = next(number for number, entry in enumerate(use) if "Examples" in entry)
    use[place] = {"Examples": ["EXAMPLES.md", *EXAMPLES.values()]}
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are no files of docs/."""
    for source, page in AT_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    for source, page in EXAMPLES.items():
        files.append(File.generated(config, page, content=jupytext.writes(jupytext.read(ROOT / source), "md")))
    public = "# medcodi\n\n::: medcodi\n    options: {show_submodules: false}\n"
    files.append(File.generated(config, "reference/medcodi.md", content=public))
    for name in rooms():
        files.append(
            File.generated(config, f"reference/{name}.md", content=f"# medcodi.{name}\n\n::: medcodi.{name}\n")
        )
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links as they are right on GitHub -> links of the site."""
    sources = {target: source for source, target in PAGES.items()}
    folder = Path(
        sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    ).parent  # of the file as it stands in the repository

    def rewritten(match: re.Match[str]) -> str:
        target = (ROOT / folder / match[1]).resolve()
        if not target.is_relative_to(ROOT):
            return match[0]
        name = target.relative_to(ROOT).as_posix()
        return f"]({PAGES.get(name, name.removeprefix('docs/'))}"

    return LINK.sub(rewritten, markdown) if folder.parts[:2] != ("docs", "reference") else markdown
