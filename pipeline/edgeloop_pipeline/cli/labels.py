"""`edgeloop labels export` and `import`."""

from __future__ import annotations

import io
from pathlib import Path
from urllib.parse import quote

import click

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.cli.fleet import EXIT_CODES, ca_option, hub_option

AT_ONCE = 500


@click.group(epilog=EXIT_CODES)
def labels() -> None:
    """Samples of the hub to another labelling tool, and its labels back."""


@labels.command("export", epilog=EXIT_CODES)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="Whose samples.")
@click.option("--format", "kind", type=click.Choice(["csv", "coco", "label-studio"]), default="csv", show_default=True)
@click.option("--which", type=click.Choice(["open", "labelled", "all"]), default="open", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="Open ones: the most informative first.")
@hub_option
@ca_option
def export(folder: Path, model: str, kind: str, which: str, limit: int, hub: str, ca_file: str) -> None:
    """Write samples into FOLDER: media/ with an image or a CSV each, and one file that lists them."""
    import numpy as np

    from edgeloop_pipeline.cache.store import write
    from edgeloop_pipeline.fleet.hub_client import Hub
    from edgeloop_pipeline.fleet.label_formats import FORMATS, Item

    there = Hub.of(hub, ca_file)
    if which == "open":
        rows = there.get(f"/api/v1/queue?model={quote(model)}&limit={min(limit, 1000)}")
    else:
        rows = there.get(f"/api/v1/samples?model={quote(model)}&which={which}")[:limit]
    names: list[str] = next((b["labels"] for b in there.get("/api/v1/bundles") if b["model"] == model), [])
    if not names:
        raise DataError(f"{model}: the hub has no bundle of this model; there is nothing to label with")
    items = []
    for row in rows:
        raw = there.raw(f"/api/v1/samples/{row['device']}/{row['key']}/values")
        items.append(Item(row, np.load(io.BytesIO(raw), allow_pickle=False)))
    (folder / "media").mkdir(parents=True, exist_ok=True)
    for item in items:
        write(folder / item.file, item.media())
    for name, text in FORMATS[kind](items, names).items():
        write(folder / name, text.encode())
        click.echo(f"{folder / name}: {len(items)} samples")


@labels.command("import", epilog=EXIT_CODES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--who", default="import", show_default=True, help="Whose labels these are: people who agree are counted.")
@hub_option
@ca_option
def import_labels(file: Path, who: str, hub: str, ca_file: str) -> None:
    """Read labels from FILE, in any of the formats, and give them to the hub. Twice does no harm."""
    from edgeloop_pipeline.fleet.hub_client import Hub
    from edgeloop_pipeline.fleet.label_formats import read

    there, settled = Hub.of(hub, ca_file), 0
    found = [{"device": device, "key": key, "label": label} for device, key, label in read(file)]
    if not found:
        raise DataError(f"{file}: no sample in it has a label")
    for start in range(0, len(found), AT_ONCE):
        settled += int(there.post("/api/v1/labels", {"labels": found[start : start + AT_ONCE], "who": who})["settled"])
    click.echo(f"{file}: {len(found)} labels, {settled} samples settled by them")
