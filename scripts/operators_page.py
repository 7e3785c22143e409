"""Writes docs/operators.md: which ONNX operators are imported, counted on onnx's own tests, and what networks with them become.

`--counts` leaves the columns of what networks become as they are (they take a quarter of an hour). `--check` only compares the
counts. Operators that are named are tried again, and only they.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operators.md"
sys.path.insert(0, str(ROOT / "tests" / "support"))
NOT_TRIED = "– | – | –"
INTRO = """\
# ONNX operators that `edgeloop compress` imports
Written by `scripts/operators_page.py`; tests hold it. Counted on the tests of onnx {version}. An operator's test runs with its
weights, shapes and axes as constants, as in files. exact: the answers are onnx's own. refused: one sentence, with the operator and
its node. Texts, sequences, training, quantized and 4- or 8-bit float operators are not counted, and no test whose numbers no
float32 holds.

{exact} of {all} tests are exact, {refused} are refused, {wrong} are wrong.
Of {models} whole models that the package brings, {models_exact} are exact, {models_refused} are refused, {models_wrong} are wrong.

The next columns say what became of a small network with the operator between two layers: yes is an int8 file that answers in its
runtime as the quantized graph does, float is a float file only, no is neither. The operator itself may stay in float inside an int8
file. prune: yes means that the layer before it lost channels, kept that it did not, no that pruning refuses such a network. A dash
was not tried: the operator takes no floats, or has no such place in a network.

Operators of the domain com.microsoft that optimizers write are imported too: Attention, BiasGelu, EmbedLayerNormalization,
FastGelu, FusedConv, FusedGemm, FusedMatMul, Gelu, MultiHeadAttention, QuickGelu, RotaryEmbedding, SkipLayerNormalization and
SkipSimplifiedLayerNormalization.

| operator | exact | refused | int8 ONNX | int8 TFLite | prune | the first reason |
|---|---:|---:|---|---|---|---|
"""


def page(ways: Mapping[str, str]) -> str:
    """The whole page. `ways`: by operator, the cells of what networks with it become."""
    import onnx

    from operator_sweep import model_cases, operator_cases, sweep

    found, models = sweep(operator_cases()), sweep(model_cases())
    rows = defaultdict(list)
    for one in found:
        rows[one.operator].append(one)
    lines = []
    for operator in sorted({*rows, *ways}):
        refused = [one for one in rows[operator] if one.result == "refused"]
        why = refused[0].why.split("cannot be imported")[-1].split(";")[0].strip(" ,") if refused else ""
        why = why or ("its type of values" if refused else "")
        exact = sum(one.result == "exact" for one in rows[operator])
        lines.append(f"| {operator} | {exact} | {len(refused)} | {ways.get(operator, NOT_TRIED)} | {why.replace('|', ' ')} |")
    counts = {"exact": 0, "refused": 0, "wrong": 0, "all": len(found), "models": len(models)}
    for prefix, outcomes in (("", found), ("models_", models)):
        for result in ("exact", "refused"):
            counts[prefix + result] = sum(one.result == result for one in outcomes)
        counts[f"{prefix}wrong"] = sum(one.result in ("wrong", "error") for one in outcomes)
    return INTRO.format(version=onnx.__version__, **counts) + "\n".join(lines) + "\n"


def written_ways() -> dict[str, str]:
    """What the page says now."""
    row = re.compile(r"\| (\w+) \| \d+ \| \d+ \| (\S+ \| \S+ \| \S+) \| .*\|")
    found = (row.fullmatch(line) for line in PAGE.read_text("utf-8").splitlines())
    return {match[1]: match[2] for match in found if match and match[2] != NOT_TRIED}


def tried_ways(names: Sequence[str]) -> dict[str, str]:
    from operator_paths import tried_apart

    found = {}
    for name in names:
        way = tried_apart(name)
        sys.stderr.write(f"{name}: {way.cells} {way.why}\n")
        found[name] = way.cells
    return found


if __name__ == "__main__":
    named = [word for word in sys.argv[1:] if not word.startswith("--")]
    if "--check" in sys.argv:
        same = PAGE.read_text("utf-8") == page(written_ways())
        sys.exit(0 if same else "docs/operators.md is not what the tests give: run scripts/operators_page.py --counts")
    if "--counts" in sys.argv:
        ways = written_ways()
    else:
        from operator_parts import PARTS

        ways = (written_ways() if named else {}) | tried_ways(named or list(PARTS))
    PAGE.write_text(page(ways), encoding="utf-8")
