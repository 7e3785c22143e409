"""`edgeloop labels export` and `import`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.cli.hub_options import EXIT_CODES, ca_option, hub_option

if TYPE_CHECKING:
    from edgeloop_contract.sample_messages import LabelAssignment

PAGE, PAGE_BYTES = 500, 4 << 20  # labels in one request
ONE_LABEL = ("classification", "anomaly")  # tasks whose samples have no annotations


@click.group(epilog=EXIT_CODES)
def labels() -> None:
    """Bring samples of the hub to another labelling tool, and its labels back."""


@labels.command("export", epilog=EXIT_CODES)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="The model whose samples are written.")
@click.option("--format", "kind", type=click.Choice(["csv", "coco", "yolo", "label-studio"]), default="csv", show_default=True)
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
    """Write samples into FOLDER: media/ (yolo: images/) with an image or a CSV each, and what is known of them.

    The model's boxes and masks are written as predictions, apart from what people said.
    """
    from edgeloop_pipeline.fleet.hub_client import HubClient
    from edgeloop_pipeline.fleet.label_formats import FORMATS, MEDIA_FOLDERS, Item, arrays_of

    client = HubClient.from_environment(hub, ca_file)
    samples = client.queue(model, min(limit, 1000)) if which == "open" else client.samples(model, which)[:limit]
    bundle = next((bundle for bundle in client.bundles() if bundle.model == model), None)
    names = (bundle.quantities or bundle.labels) if bundle else []
    if bundle is None or not names:
        raise DataError(f"{model}: the hub has no bundle of this model; there is nothing to label with")
    items = []
    for sample in samples:
        content = client.sample_values(sample.device, sample.key)
        (name, values), *others = arrays_of(content).items()
        known = None if bundle.task in ONE_LABEL else client.annotations(sample.device, sample.key)
        items.append(Item(sample, values, name, dict(others), known))
    texts = FORMATS[kind](items, [name for name in names if name != bundle.background])
    for item in items:
        for file, content in item.media().items():
            _write(folder / MEDIA_FOLDERS[kind] / Path(file).name, content)
    for name, text in texts.items():
        _write(folder / name, text.encode())
    lists = [name for name in texts if "/" not in name]
    click.echo("\n".join(f"{folder / name}: {len(items)} samples" for name in lists))
    if several := next((item for item in items if item.others), None):
        beside = ", ".join(several.others)
        click.echo(f"the model has several inputs: the list names the files of {several.input}; those of {beside} lie beside them")
    if kind != "coco" and any(
        box.mask for item in items for said in (item.settled, item.prediction) if said for box in said.boxes or []
    ):
        click.echo(f"{kind} holds boxes without their masks here; --format coco holds the masks too")


def _write(path: Path, content: bytes) -> None:
    from edgeloop_pipeline.cache.store import write

    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, content)


@labels.command("import", epilog=EXIT_CODES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--who", default="import", show_default=True, help="Who gave these labels. The hub counts people who agree.")
@click.option(
    "--empty", is_flag=True, help="COCO: an image without annotations holds nothing. Without this option it is passed over."
)
@hub_option
@ca_option
def import_labels(file: Path, who: str, empty: bool, hub: str, ca_file: str) -> None:
    """Read labels, boxes and masks from FILE, in any of the formats, and send them to the hub. Repeating it does no harm.

    FILE is a CSV, a JSON of COCO or Label Studio, or a folder or zip file of YOLO. Nothing is sent unless all of it fits.
    """
    from edgeloop_contract.errors import NetworkError
    from edgeloop_contract.sample_messages import LabelUpload
    from edgeloop_pipeline.fleet.hub_client import HubClient
    from edgeloop_pipeline.fleet.label_formats import assignments, read

    client = HubClient.from_environment(hub, ca_file)
    said = read(file, empty)
    if not said:
        raise DataError(f"{file}: no sample in it has a label")
    left_out = Counter[str]()
    told: list[LabelAssignment] = []
    for marks in said:
        try:
            known = client.annotations(marks.device, marks.key)
        except NetworkError as error:
            if "no such sample" in str(error):
                raise DataError(f"{file}: {marks.device}-{marks.key} is no sample of this hub; nothing was sent") from error
            raise
        try:
            told += assignments(marks, known, left_out)
        except DataError as error:
            raise DataError(f"{file}: {error}; nothing was sent") from error
    settled = sum(client.upload_labels(LabelUpload(page, who)) for page in _pages(told))
    click.echo(f"{file}: {len(told)} labels, {settled} samples settled by them")
    for what, count in left_out.items():
        if count:
            click.echo(f"{count} {what}")


def _pages(told: list[LabelAssignment]) -> Iterator[list[LabelAssignment]]:
    """As many as one request may hold, by number and bytes."""
    import msgspec

    page: list[LabelAssignment] = []
    size = 0
    for one in told:
        more = len(msgspec.json.encode(one))
        if page and (len(page) == PAGE or size + more > PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(one)
        size += more
    if page:
        yield page
