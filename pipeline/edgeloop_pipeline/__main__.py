"""The `edgeloop` command. On a device, where only the base is installed, it says what is missing."""

from __future__ import annotations

import sys


def main() -> int:
    try:
        import click  # noqa: F401
    except ImportError:
        sys.stderr.write("edgeloop: this machine has the device part only; pip install 'edgeloop[workstation]'\n")
        return 6
    from edgeloop_pipeline.cli.run import run_command

    return run_command()


if __name__ == "__main__":
    sys.exit(main())
