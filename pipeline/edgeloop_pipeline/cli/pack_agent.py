"""`edgeloop pack-agent`: the agent's own update, of a folder of wheels."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import click

EXIT_CODES = """\b
Exit codes: 0 done · 2 wrong usage · 3 the wheels · 7 disk or folder"""


@click.command("pack-agent", epilog=EXIT_CODES)
@click.argument("wheels", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The wheelhouse's path.")
@click.option("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}", help="Of the devices; default: this one.")
@click.option("--machine", default=platform.machine(), help="Of the devices: x86_64, aarch64, armv7l; default: this one.")
def pack_agent(wheels: Path, out: Path, python: str, machine: str) -> None:
    """Make a wheelhouse of a folder of WHEELS: edgeloop and all that it needs on a device, which installs it without a network."""
    from edgeloop_pipeline.fleet.agent_package import check_platform, pack

    check_platform(python, machine)
    manifest, notes = pack(wheels, out, python, machine)
    for note in notes:
        click.echo(note, err=True)
    fits = f"Python {manifest.python}, {manifest.machine or 'any machine'}"
    fits += f", glibc {manifest.glibc} or later" if manifest.glibc else ""
    click.echo(f"{out}: agent {manifest.version} for {fits}; {len(manifest.wheels)} wheels, {out.stat().st_size:,} bytes")
