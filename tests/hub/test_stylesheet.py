"""The stylesheet of the hub's pages: every pair of colours that its rules make can be read, in light and dark."""

from __future__ import annotations

import re

import pytest

from edgeloop_hub.web.page import HERE

STYLE = re.sub(r"/\*.*?\*/", "", (HERE / "style.css").read_text(), flags=re.DOTALL)
ROOTS = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
GROUNDS = ("ground", "card")  # what a text without a background of its own may stand on


def colours(mode: str) -> dict[str, str]:
    """Tokens of a mode, by name; dark ones replace light ones."""
    found: dict[str, str] = {}
    for root in ROOTS[: 2 if mode == "dark" else 1]:
        found |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", root))
    return found


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def pairs() -> list[tuple[str, str, str]]:
    """(selector, text, background) of every rule that says a colour."""
    made = []
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", STYLE):
        text = re.search(r"(?<![\w-])color: var\(--([\w-]+)\)", body)
        background = re.search(r"background: var\(--([\w-]+)\)", body)
        if text and background:
            made.append((selector.strip(), text[1], background[1]))
        elif text:
            made += [(selector.strip(), text[1], ground) for ground in GROUNDS]
        elif background:
            made.append((selector.strip(), "ink", background[1]))
    return made


def test_the_pairs_are_found() -> None:
    found = {(text, ground) for _, text, ground in pairs()}
    assert {("bad", "bad-tint"), ("soft", "ground"), ("ink", "card"), ("accent", "card"), ("card", "accent")} <= found
    assert contrast("#000000", "#fff") == pytest.approx(21) and contrast("#777777", "#fff") < 4.5


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_text_can_be_read(mode: str) -> None:
    tokens = colours(mode)
    bars = ("progress", "::-webkit", "::-moz")  # no text stands on them
    low = {
        (selector, text, ground): round(contrast(tokens[text], tokens[ground]), 2)
        for selector, text, ground in pairs()
        if not any(bar in selector for bar in bars) and contrast(tokens[text], tokens[ground]) < 4.5
    }
    assert not low
    for ground in GROUNDS:  # edges of fields, bars and lines of drawings
        for edge in ("edge", "accent", "bad"):
            assert contrast(tokens[edge], tokens[ground]) >= 3, (edge, ground)


def test_colours_are_tokens() -> None:
    """Only the editor's lines on pictures have colours of their own: a picture is neither light nor dark."""
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", STYLE):
        if ":root" not in selector and ".stage" not in selector:
            assert not re.search(r"#[0-9a-f]{3,8}\b", body), selector
            assert "opacity" not in body, f"{selector}: a text that is half transparent has less contrast than its colours"
