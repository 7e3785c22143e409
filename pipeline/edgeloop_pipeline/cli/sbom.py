"""`edgeloop sbom`: the bill of materials of a bundle."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgeloop_contract.errors import StorageError


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path, readable=False), metavar="FILE", help="The file to write; default: standard output."
)
def sbom(bundle: Path, output: Path | None) -> None:
    """Write the bill of materials of BUNDLE: CycloneDX 1.6 JSON with model card, data digests, libraries and files."""
    from edgeloop_contract.archive import Bundle
    from edgeloop_contract.files import publish
    from edgeloop_pipeline.bundling.sbom import sbom as bill

    with Bundle.open(bundle) as opened:
        text = bill(opened.manifest, opened.sha256)
    if output is None:
        sys.stdout.write(text.decode())
        return
    try:
        publish(output, text)
    except OSError as error:
        raise StorageError(f"--output {output}: cannot be written ({error.strerror}); choose another file") from error
    click.echo(f"{output}: {len(text):,} bytes")
