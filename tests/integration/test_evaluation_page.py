"""A page's tables in a real browser: a click sorts, and the mark says how."""

from __future__ import annotations

from pathlib import Path

from medcodi.pages.page import Figure, Head, Section, Table, render_page, write_page
from tests.integration.test_turing_viewer import FLAGS, browser_path, playwright


def test_a_click_sorts_and_the_mark_says_how(tmp_path: Path) -> None:
    """Words from A at the first click, numbers from the greatest; the row at the end stays there."""
    rows = [(word, Figure(text=str(number), value=number)) for word, number in (("b", 9), ("c", 100), ("a", 20))]
    table = Table(columns=("word", "number"), rows=[*rows, ("all", "–")], last=1)
    page_file = write_page(
        tmp_path / "page.html", render_page(Head(title="Sorting"), [Section(title="One", tables=[table])])
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path(), args=FLAGS, timeout=180_000)
        page = browser.new_page()
        page.set_default_timeout(120_000)  # a loaded machine is slow
        page.goto(page_file.as_uri())

        def after_click(place: int) -> tuple[str, str]:
            head = page.locator("th").nth(place)
            head.click()
            words = page.locator("td:first-child").all_inner_texts()
            return "".join(words[:-1]) + "|" + words[-1], head.get_attribute("aria-sort")

        told = [after_click(0), after_click(0), after_click(1), after_click(1)]
        browser.close()
    assert [order for order, _ in told] == ["abc|all", "cba|all", "cab|all", "bac|all"]
    assert [mark for _, mark in told] == ["ascending", "descending", "descending", "ascending"]
