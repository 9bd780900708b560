"""The page in a browser, from ``file://``: readable in light and dark, narrow and wide, by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import synthetic
from tests.conftest import PATIENCE
from tests.synthetic import HOSTILE


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "r.html"
    synthetic.report(100, wrong=0.2, said=HOSTILE, pictures=True).write(path)
    return path


@pytest.fixture(params=[(1400, "light"), (400, "dark")], ids=str)
def page(request: pytest.FixtureRequest, browser: Any, path: Path) -> Iterator[Any]:
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: said.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None)
    page.goto(path.as_uri())
    yield page
    assert said == [], "nothing goes wrong and nothing is fetched"
    page.close()


CONTRAST = """() => {
  const light = c => { const v = c.map(x => x / 255).map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
                       return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
  const numbers = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const behind = e => { for (; e; e = e.parentElement) { const c = numbers(getComputedStyle(e).backgroundColor);
                        if (c.length == 3 || c[3] == 1) return c.slice(0, 3); } return [255, 255, 255]; };
  return [...document.querySelectorAll('h1, h2, h3, p, .badge, td, th, summary, figcaption, dt, dd, a')]
    .filter(e => e.checkVisibility() && e.innerText.trim())
    .map(e => { const a = light(numbers(getComputedStyle(e).color)), b = light(behind(e));
                return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.className, e.innerText.slice(0, 40)]; })
    .filter(([ratio]) => ratio < 4.5);
}"""
"""Elements whose text is nearer to what is behind it than 4.5 : 1, which WCAG 2 asks for."""


def test_it_is_readable_in_every_width_and_light(page: Any) -> None:
    assert page.title().startswith("deqverify: ")
    assert "cause" in page.inner_text("h1")
    for part in ("Causes", "Targets", "Behaviour", "Laws × targets", "What follows", "The laws"):
        assert page.get_by_role("heading", name=part, exact=True).is_visible()
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, "only tables scroll sideways"
    assert page.evaluate(CONTRAST) == []
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (sum(map(int, ink[4:-1].split(","))) > sum(map(int, paper[4:-1].split(",")))) == dark
    # What the targets print is text.
    assert page.locator("script, img, iframe").count() == 0
    assert "<script>document.title" in page.inner_text("#causes")


def test_pictures_are_named_and_have_an_alternative_text(page: Any) -> None:
    pictures = page.get_by_role("img")
    assert pictures.count() == page.locator("svg").count() > 0
    for k in range(pictures.count()):
        box = pictures.nth(k).bounding_box()
        assert box["width"] > 200
        assert box["height"] > 100
    tree = page.locator("figure").first.aria_snapshot()
    assert "measured/allowed along γ" in tree
    assert "wrong from γ = 0.9 on" in tree


def test_a_verdict_leads_to_its_script_by_keyboard(page: Any) -> None:
    """Without a mouse: the link of a cell opens what it leads to, and a summary opens with Enter."""
    link = page.locator("#matrix td.follows a").first
    place = page.locator(link.get_attribute("href"))
    assert not place.is_visible(), "folded away"
    link.focus()
    page.keyboard.press("Enter")
    place.wait_for()  # until it is visible
    script = place.locator("summary", has_text="A script that shows it again")
    script.focus()
    page.keyboard.press("Enter")
    place.locator("pre.script").first.wait_for()
    assert ".replay(" in place.locator("pre.script").first.inner_text()
    only, fine = page.locator("#only-wrong"), page.locator(".matrix tr.fine").first
    if page.locator(".matrix tr.fine").count():
        assert fine.is_visible()
        only.focus()
        page.keyboard.press("Space")
        assert not fine.is_visible()


def test_everything_that_does_something_is_reached_by_tab_and_shows_it(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    for _ in range(8):
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tables = page.locator(".scroll")
    assert tables.count() == 2
    for k in range(2):
        assert tables.nth(k).get_attribute("tabindex") == "0"
