"""`edgeloop labels export` and `import`."""

from __future__ import annotations

from pathlib import Path

import click

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.cli.hub_options import EXIT_CODES, ca_option, hub_option

PAGE = 500  # labels in one request


@click.group(epilog=EXIT_CODES)
def labels() -> None:
    """Bring samples of the hub to another labelling tool, and its labels back."""


@labels.command("export", epilog=EXIT_CODES)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="The model whose samples are written.")
@click.option("--format", "kind", type=click.Choice(["csv", "coco", "label-studio"]), default="csv", show_default=True)
@click.option("--which", type=click.Choice(["open", "labelled", "all"]), default="open", show_default=True)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="At most so many; open samples come most informative first.",
)
@hub_option
@ca_option
def export(folder: Path, model: str, kind: str, which: str, limit: int, hub: str, ca_file: str) -> None:
    """Write samples into FOLDER: media/ with an image or a CSV each, and one file that lists them."""
    from edgeloop_pipeline.cache.store import write
    from edgeloop_pipeline.fleet.hub_client import HubClient
    from edgeloop_pipeline.fleet.label_formats import FORMATS, Item, arrays_of

    client = HubClient.from_environment(hub, ca_file)
    samples = client.queue(model, min(limit, 1000)) if which == "open" else client.samples(model, which)[:limit]
    names = next((bundle.labels for bundle in client.bundles() if bundle.model == model), [])
    if not names:
        raise DataError(f"{model}: the hub has no bundle of this model; there is nothing to label with")
    items = []
    for sample in samples:
        content = client.sample_values(sample.device, sample.key)
        (name, values), *others = arrays_of(content).items()
        items.append(Item(sample, values, name, dict(others)))
    (folder / "media").mkdir(parents=True, exist_ok=True)
    for item in items:
        for file, content in item.media().items():
            write(folder / file, content)
    for name, text in FORMATS[kind](items, names).items():
        write(folder / name, text.encode())
        click.echo(f"{folder / name}: {len(items)} samples")
    if several := next((item for item in items if item.others), None):
        beside = ", ".join(several.others)
        click.echo(f"the model has several inputs: the list names the files of {several.input}; those of {beside} lie beside them")


@labels.command("import", epilog=EXIT_CODES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--who", default="import", show_default=True, help="Who gave these labels. The hub counts people who agree.")
@hub_option
@ca_option
def import_labels(file: Path, who: str, hub: str, ca_file: str) -> None:
    """Read labels from FILE, in any of the formats, and send them to the hub. Repeating it does no harm."""
    from edgeloop_contract.sample_messages import LabelUpload
    from edgeloop_pipeline.fleet.hub_client import HubClient
    from edgeloop_pipeline.fleet.label_formats import read

    client = HubClient.from_environment(hub, ca_file)
    assignments = list(read(file))
    if not assignments:
        raise DataError(f"{file}: no sample in it has a label")
    pages = (assignments[start : start + PAGE] for start in range(0, len(assignments), PAGE))
    settled = sum(client.upload_labels(LabelUpload(page, who)) for page in pages)
    click.echo(f"{file}: {len(assignments)} labels, {settled} samples settled by them")
