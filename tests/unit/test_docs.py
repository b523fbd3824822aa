"""Everything that the documents name exists: files, modules, functions, links, make targets."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
ROOMS = {path.stem for path in (ROOT / "medcodi").iterdir() if path.is_dir() or path.suffix == ".py"} - {"__init__"}
# Pages that describe the code as it is. The changelog and the migration note name what is gone.
CURRENT = [name for name in TEXTS if name not in ("CHANGELOG.md", "MIGRATION.md")]


def dotted_names(text: str) -> list[str]:
    """`` `stages.align.AlignStage` `` or `` `medcodi.stages.align` ``: names below medcodi that a page puts in backquotes."""
    names = re.findall(r"`(?:medcodi\.)?((?:[a-z_]\w*\.)+\w+)(?:\(|\[|`)", text)
    return sorted(
        {name for name in names if name.split(".")[0] in ROOMS and not name.endswith((".py", ".yaml", ".json"))}
    )


def resolve(name: str) -> object:
    """``stages.align.AlignStage.forward`` -> the object."""
    parts = ("medcodi." + name).split(".")
    for cut in range(len(parts), 0, -1):
        try:
            module: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            module = getattr(module, part)
        return module
    raise AssertionError(name)


def test_the_table_of_equations_is_read() -> None:
    assert len(dotted_names(TEXTS["EQUATIONS.md"])) >= 15


@pytest.mark.parametrize("page", CURRENT)
def test_every_dotted_name_exists(page: str) -> None:
    for name in dotted_names(TEXTS[page]):
        assert resolve(name) is not None, name


@pytest.mark.parametrize("page", CURRENT)
def test_every_path_exists(page: str) -> None:
    roots = r"(?:medcodi|configs|benchmarks|launch|eval|examples|skills|tests|tools)"
    for path in re.findall(rf"(?<![\w./-])({roots}/[\w./-]*[\w/])", TEXTS[page]):
        assert (ROOT / path.rstrip(".")).exists() or list(ROOT.glob(path.rstrip(".") + "*")), path


def test_the_reading_path_is_an_afternoon() -> None:
    table = TEXTS["ARCHITECTURE.md"].partition("## Reading path")[2].partition("##")[0]
    files = re.findall(r"^\| +\d+ \| `(medcodi/[\w/]+\.py)` \|", table, flags=re.MULTILINE)
    lines = sum(len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in files)
    assert len(files) == 15 and 2000 <= lines <= 3200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", TEXTS[page.name]):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_anchor_is_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", TEXTS[page.name]):
        text = TEXTS[Path(target).name] if target else TEXTS[page.name]
        headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in slugs, f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", TEXTS[page.name]))
    assert named <= targets
