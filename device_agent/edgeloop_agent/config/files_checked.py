"""Files that a config names and the agent reads at its start: a config whose files are not there is not taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgeloop_agent.config.settings import Config

__all__ = ["problems_of_files", "secret_in"]


def secret_in(path: str) -> str:
    """The token or password in a file: one line. Raises OSError, and ValueError for a file that holds something else."""
    text = Path(path).read_text(encoding="utf-8").strip()
    if not text or not text.isprintable():
        raise ValueError("it holds no single line")
    return text


def problems_of_files(config: Config) -> Iterator[str]:
    """One sentence for each file that cannot be used. Paths are absolute."""
    if config.api.enabled and config.api.token_file:
        yield from _of_secret("api.token_file", config.api.token_file, ascii_only=True)
    if config.source.password_file:
        yield from _of_secret("source.password_file", config.source.password_file)
    if config.source.camera.ca_file:
        yield from _of_certificate("source.camera.ca_file", config.source.camera.ca_file)
    if config.source.kind == "camera" and Path(config.source.where).is_file():
        yield f'source.where: {config.source.where} is a file, and a camera gives its newest frame alone; set kind = "video"'
    for number, output in enumerate(config.outputs):
        where = f"output[{number}]" if len(config.outputs) > 1 else "output"
        if output.kind == "lines":
            if Path(output.where).is_dir():
                yield f"{where}.where: {output.where} is a folder; name a file in it"
            continue
        if output.token_file:
            yield from _of_secret(f"{where}.token_file", output.token_file, ascii_only=True)
        if output.password_file:
            yield from _of_secret(f"{where}.password_file", output.password_file)
        if output.ca_file:
            yield from _of_certificate(f"{where}.ca_file", output.ca_file)


def _of_secret(where: str, path: str, ascii_only: bool = False) -> Iterator[str]:
    try:
        secret = secret_in(path)
    except OSError as error:
        yield f"{where}: {path} cannot be read ({error.strerror})"
    except ValueError:  # neither the text nor a library's words about it: it may be a secret
        yield f"{where}: {path} must hold one line of UTF-8 text"
    else:
        if ascii_only and (not secret.isascii() or " " in secret):
            yield f"{where}: {path} must hold a token of ASCII letters, digits and signs, without spaces"


def _of_certificate(where: str, path: str) -> Iterator[str]:
    import ssl

    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:
        yield f"{where}: {path} holds no certificate that can be used ({getattr(error, 'strerror', None) or error})"
