"""`edgeloop check-tensorrt`: whether an ONNX file with int8 inside keeps TensorRT's rules."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeloop_contract.errors import DataError, ModelError

EXIT_CODES = """\b
Exit codes: 0 TensorRT takes it · 2 wrong usage · 3 no such file · 4 TensorRT would refuse it, or it is no ONNX file"""


@click.command("check-tensorrt", epilog=EXIT_CODES)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else there.")
def check_tensorrt(model: Path, as_json: bool) -> None:
    """Check MODEL, an ONNX file with Q/DQ, by the rules of TensorRT's documentation. No GPU is needed, and none is asked."""
    from edgeloop_exporters.tensorrt_rules import RULES, violations

    try:
        content = model.read_bytes()
    except OSError as error:
        raise DataError(f"{model}: cannot be read ({error.strerror}); give an .onnx file") from error
    try:
        found = violations(content)
    except ModelError as error:
        raise ModelError(f"{model}: {error}") from error
    if as_json:
        rows = [
            {"rule": v.rule.name, "kind": v.rule.kind, "node": v.node, "what": v.what, "says": v.rule.says, "source": v.rule.source}
            for v in found
        ]
        click.echo(json.dumps({"rules": len(RULES), "violations": rows}))
    else:
        for each in found:
            click.echo(f"{each.rule.kind}: {each}")
        click.echo(f"{model}: {len(found) or 'no'} violations of {len(RULES)} rules")
    if refused := sum(each.rule.kind == "refused" for each in found):
        raise ModelError(f"{model}: TensorRT would refuse it for {refused} reasons; quantize.symmetric makes a file that it takes")
