"""The page of `make loop`: accuracy over time, what happened when, and the gate's figures."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT = 900, 260, 46
COLOURS = ("#0b7a75", "#b5651d", "#5b4b8a", "#b42318", "#777777")


def write(story: Any, devices: list[Any], rows: list[Any], decision: dict[str, Any], lost: int) -> Path:
    """Beside the story's folder."""
    style = (Path(__file__).parent.parent / "pipeline/edgeloop_pipeline/report/style.css").read_text()
    table = "".join(
        f"<tr><td>{html.escape(n)}</td><td>{a:.1%}</td><td>{o:.1%}</td><td>{w:.1%}</td><td>{li:.1%}</td></tr>"
        for n, a, o, w, li, _ in rows
    )
    verdict = decision["verdict"]
    gate = "".join(
        f"<tr><td>{html.escape(r['name'])}</td><td>{r['champion']:.1%}</td><td>{r['challenger']:.1%}</td>"
        f"<td>{r['difference']:+.1%} ({r['low']:+.1%} to {r['high']:+.1%})</td><td>{r['samples']}</td><td>{r['recordings']}</td></tr>"
        for r in (verdict["home"], verdict["field"], *verdict["slices"])
    )
    log = "".join(f"<tr><td>{t:.0f} s</td><td class='left wrap'>{html.escape(text)}</td></tr>" for t, text in story.happened)
    text = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>edgeloop: the closed loop</title><style>{style}</style></head><body><main><h1>The closed loop</h1>
<p>Each device's right answers among its last 80, in the order of answering: its windows before the new model in the left half, those after it
in the right one. The watch whose gyroscope falls silent is not drawn. {"Nothing was lost." if not lost else f"{lost} samples were lost."}</p>
<div class="plot">{_plot(story, devices)}</div>
<h2>New wearers</h2><p class="soft">A: recordings played before retraining. B: recordings of the other arm, which nobody labelled.</p>
<div class="scroll"><table><tr><th>device</th><th>A, first model, live</th><th>B, first model</th><th>B, new model</th><th>B, live</th></tr>{table}</table></div>
<h2>The gate</h2><p>{html.escape(decision["why"])}</p>
<div class="scroll"><table><tr><th>samples</th><th>champion</th><th>challenger</th><th>difference (95 %)</th><th>samples</th><th>recordings</th></tr>{gate}</table></div>
{"".join(f"<p>Caution: {html.escape(text)}.</p>" for text in decision["verdict"]["cautions"])}
<p class="soft">{decision["labels"]} labelled samples of the field, {decision["random_labels"]} of them drawn at random and
{decision["rest_labels"]} the rest of labelled recordings; the others were chosen because the first model was unsure, which favours the challenger in the field's row.</p>
<h2>What happened</h2><div class="scroll"><table>{log}</table></div></main></body></html>"""
    path = story.folder / "loop.html"
    path.write_text(text)
    return path


def _plot(story: Any, devices: list[Any]) -> str:
    """Points in order of answering: each device's share of right answers among its last windows."""
    parts = []
    for quarter in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = HEIGHT - quarter * HEIGHT + 10
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}" stroke="#e1e4e8"/><text x="0" y="{y + 4}" font-size="12">{quarter:.0%}</text>'
        )
    for colour, device in zip(COLOURS, devices, strict=False):
        said = [a for a in device.answers if a.get("label")]
        right = [a["label"] == a["input"].rsplit("-", 1)[1].removesuffix(".csv") for a in said]
        turn = next((i for i, a in enumerate(said) if a["input"].startswith("B")), len(said))
        points = []
        for end in range(40, len(said) + 1, 10):
            x = LEFT + (WIDTH - LEFT) * (
                0.5 * end / max(1, turn) if end <= turn else 0.5 + 0.5 * (end - turn) / max(1, len(said) - turn)
            )
            begin = max(0 if end <= turn else turn, end - 80)
            share = sum(right[begin:end]) / max(1, end - begin)
            if end - begin >= 20:
                points.append(f"{x:.1f},{HEIGHT - share * HEIGHT + 10:.1f}")
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
    middle = LEFT + (WIDTH - LEFT) / 2
    parts.append(f'<line x1="{middle}" x2="{middle}" y1="0" y2="{HEIGHT + 10}" stroke="#1d2329" stroke-dasharray="4"/>')
    parts.append(f'<text x="{middle + 6}" y="{HEIGHT}" font-size="12">retrained, rolled out</text>')
    legend = "".join(
        f'<text x="{LEFT + i * 170}" y="{HEIGHT + 34}" font-size="13" fill="{c}">■ {html.escape(d.name)}</text>'
        for i, (c, d) in enumerate(zip(COLOURS, devices, strict=False))
    )
    label = "Share of right answers among the last 80, by device, before and after retraining"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 44}" role="img" aria-label="{label}" font-family="system-ui">{"".join(parts)}{legend}</svg>'
