"""What every page has to be, asked of a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

# Contrast of every piece of text with what is below it.
CONTRASTS = """() => {
  const channels = color => color.match(/[\\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((v, i) => v * a + below[i] * (1 - a));
  const ground = element => element ? over(channels(getComputedStyle(element).backgroundColor),
    ground(element.parentElement)) : [255, 255, 255];
  const light = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 :
    ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    if (element.closest(":disabled, .unseen, .mark, svg")) continue;
    const below = ground(element), style = getComputedStyle(element);
    const [a, b] = [light(over(channels(style.color), below)), light(below)].sort((a, b) => b - a);
    found.push([(a + 0.05) / (b + 0.05), element.tagName, element.textContent.slice(0, 40)]);
  }
  return found; }"""

# Controls without a name that a screen reader could say.
NAMELESS = """() => {
  const said = element => {
    const copy = element.cloneNode(true);
    for (const silent of copy.querySelectorAll("[aria-hidden=true]")) silent.remove();
    return copy.textContent.trim(); };
  const controls = "button, input, select, textarea, a, [role], [tabindex='0']";
  return [...document.querySelectorAll(controls)]
    .filter(element => element.checkVisibility() && element.ariaHidden !== "true")
    .filter(element => ![...element.labels ?? []].some(label => label.checkVisibility()))
    .filter(element => !element.matches("[aria-label], [aria-labelledby]") && !said(element))
    .map(element => element.outerHTML); }"""


def shown(page: Page, selector: str) -> str:
    """The text of elements without the marks for line ends and the like."""
    found = page.evaluate(
        """selector => [...document.querySelectorAll(selector)].map(element => {
          const copy = element.cloneNode(true);
          for (const mark of copy.querySelectorAll(".mark")) mark.remove();
          return copy.textContent; }).join("")""",
        selector,
    )
    assert isinstance(found, str)
    return found
