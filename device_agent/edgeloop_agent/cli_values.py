"""Values of the command line that argparse has no type for."""

from __future__ import annotations

import argparse
import sys

__all__ = ["Version", "positive"]


class Version(argparse.Action):
    """Reads the version only when asked: that takes more memory than the rest of the supervisor."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"{version('edgeloop')}\n")
        parser.exit()


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
