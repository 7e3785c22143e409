"""Writes docs/operators.md: which ONNX operators are imported, counted on onnx's own operator tests. `--check` only compares."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operators.md"
sys.path.insert(0, str(ROOT / "tests" / "support"))
INTRO = """\
# ONNX operators that `edgeloop compress` imports
Written by `scripts/operators_page.py`; a test holds it. Counted on the operator tests of onnx {version}: each runs with its
weights, shapes and axes as constants, as in files. exact: the answers are onnx's own. refused: one sentence, with the operator and
its node. Texts, sequences, training, quantized and 4- or 8-bit float operators are not counted.

{exact} of {all} tests are exact, {refused} are refused, {wrong} are wrong.

| operator | exact | refused | the first reason |
|---|---:|---:|---|
"""


def page() -> str:
    import onnx

    from operator_sweep import sweep

    found = sweep()
    rows = defaultdict(list)
    for one in found:
        rows[one.operator].append(one)
    count = {result: sum(one.result == result for one in found) for result in ("exact", "refused", "wrong", "error")}
    lines = []
    for operator, ones in sorted(rows.items()):
        refused = [one for one in ones if one.result == "refused"]
        why = refused[0].why.split("cannot be imported")[-1].split(";")[0].strip(" ,") if refused else ""
        why = why or ("its type of values" if refused else "")
        lines.append(f"| {operator} | {sum(one.result == 'exact' for one in ones)} | {len(refused)} | {why.replace('|', ' ')} |")
    wrong = count["wrong"] + count["error"]
    head = INTRO.format(version=onnx.__version__, exact=count["exact"], refused=count["refused"], wrong=wrong, all=len(found))
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = page()
    if "--check" in sys.argv:
        same = PAGE.read_text("utf-8") == text
        sys.exit(0 if same else "docs/operators.md is not what the tests give: run scripts/operators_page.py")
    PAGE.write_text(text, encoding="utf-8")
