"""Headless Chromium for tests of pages, and what every page must have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from programs import program

CHROMIUM, DRIVER = program("chromium"), program("chromium-driver")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
# What every page must have, checked in the browser: a list of what is wrong.
BASICS = """
const wrong = [];
if (!document.documentElement.lang) wrong.push('no language');
if (document.querySelectorAll('h1').length !== 1) wrong.push('not one h1');
if (document.querySelectorAll('main').length !== 1) wrong.push('not one main');
let before = 1;
for (const h of document.querySelectorAll('h1,h2,h3,h4')) {
  const level = Number(h.tagName[1]);
  if (level > before + 1) wrong.push('a heading level is skipped: ' + h.textContent);
  before = level;
}
for (const i of document.querySelectorAll('input:not([type=hidden]),select,textarea'))
  if (!i.labels.length && !i.ariaLabel) wrong.push('an input without a label: ' + i.name);
for (const b of document.querySelectorAll('button,a[href]'))
  if (!b.textContent.trim() && !b.ariaLabel) wrong.push('a button or link without a name');
for (const i of document.querySelectorAll('img')) if (!i.alt) wrong.push('an image without words');
for (const s of document.querySelectorAll('svg')) if (!s.ariaLabel && !s.getAttribute('aria-label')) wrong.push('a drawing without words');
for (const t of document.querySelectorAll('table'))
  if (!t.caption || !t.querySelector('th[scope]')) wrong.push('a table without caption or scopes');
const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
if (new Set(ids).size !== ids.length) wrong.push('an id twice');
if (document.documentElement.scrollWidth > innerWidth + 1) wrong.push('wider than the window: ' + document.documentElement.scrollWidth);
const luminance = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
  return .2126 * r + .7152 * g + .0722 * b; };
const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 && m[3] === 0 ? null : m.slice(0, 3); };
const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c) return c; } return [255, 255, 255]; };
for (const e of document.querySelectorAll('p,td,th,a,button,li,dd,dt,h1,h2,label,small,strong')) {
  if (!e.offsetParent || !e.textContent.trim() || e.classList.contains('skip')) continue;
  const [a, b] = [luminance(parse(getComputedStyle(e).color) || [0, 0, 0]), luminance(ground(e))].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) wrong.push('contrast of ' + ratio.toFixed(1) + ': ' + e.tagName + ' ' + e.textContent.trim().slice(0, 40));
}
return [...new Set(wrong)];
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}", "--window-size=1100,900"):
        options.add_argument(word)
    os.environ.setdefault("SE_AVOID_STATS", "true")
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_page_load_timeout(30)
    try:
        yield driver
    finally:
        driver.quit()
