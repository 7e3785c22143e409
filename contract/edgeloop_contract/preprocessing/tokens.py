"""The step for texts: token ids by the model's own tokenizer, a tokenizer.json of the `tokenizers` library."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, DeviceError
from edgeloop_contract.preprocessing.base import Sizes, StepBase

__all__ = [
    "MAX_TEXT_BYTES", "NULS", "TextOrArray", "Tokenize", "Tokenizing", "as_bytes", "as_recording", "guarded", "takes_texts",
    "text_or_array", "with_files",
]  # fmt: skip

MAX_TEXT_BYTES = 1 << 18  # of one text: about a second of a small board's time
MAX_TOKENIZER_BYTES = 64 << 20
NULS = "has zero bytes, as UTF-16 has and no text: save it as UTF-8"
PAD_TOKENS = ("[PAD]", "<pad>", "<|padding|>", "<|pad|>", "PAD", "<PAD>")
TextOrArray = str | Array  # what one of several inputs is given
FileName = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*(?!\n)$", max_length=100)
]


class Tokenize(StepBase, frozen=True, tag="tokenize"):
    """One text to (`length`,) int32 token ids: longer texts are cut, shorter ones are filled with `pad`.

    A text is its UTF-8 bytes, (T,) uint8. `file`: the tokenizer.json, a file of the bundle, or beside the recipe. It says how to
    split, to normalize and to add special tokens; its own truncation and padding do not count. `with_files` loads it.
    """

    makes: ClassVar[str] = "int32"

    file: FileName
    length: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    pad: Annotated[int, msgspec.Meta(ge=0)] = 0

    def __call__(self, x: Array) -> Array:
        raise DataError(f"tokenize: {self.file} is not loaded")

    def sizes(self, before: Sizes) -> Sizes:
        return {0: self.length}


class Tokenizing(StepBase, frozen=True):
    """`Tokenize` with its tokenizer loaded."""

    makes: ClassVar[str] = "int32"

    settings: Tokenize
    tokenizer: Any

    def __call__(self, x: Array) -> Array:
        """(N, T, 1) uint8 → (N, length) int32. Raises DataError for what is no text."""
        return np.stack([self._ids(_text_of(row)) for row in x])

    def sizes(self, before: Sizes) -> Sizes:
        return self.settings.sizes(before)

    def _ids(self, text: str) -> Array:
        ids = guarded(lambda: self.tokenizer.encode(text).ids, f"tokenize: {self.settings.file} cannot take the text")
        if len(ids) != self.settings.length:
            raise DataError(f"tokenize: {self.settings.file} makes {len(ids)} ids, and not {self.settings.length}")
        return np.array(ids, np.int32)


def as_bytes(text: str) -> Array:
    """A text as a recording: (T,) uint8. Raises DataError where it cannot be UTF-8."""
    try:
        return np.frombuffer(text.encode(), np.uint8)
    except UnicodeEncodeError as error:
        raise DataError(f"the text is not Unicode: {error.reason}") from error


def text_or_array(values: Any) -> TextOrArray:
    """A text in an array of one, as numpy keeps it, as a str; any other value as an array."""
    if isinstance(values, str):
        return str(values)
    array = np.asarray(values)
    return str(array.reshape(-1)[0]) if array.dtype.kind == "U" and array.size == 1 else array


def as_recording(steps: Sequence[StepBase], given: TextOrArray, name: str) -> Array:
    """What one of several inputs is given, as its steps take it: of a text the bytes. Raises DataError for the other of the two."""
    if isinstance(given, str) is not takes_texts(steps):
        if isinstance(given, str):
            raise DataError(f"{name}: {given[:40]!r} is a text; the input takes numbers")
        shown = f"{given.dtype} {list(given.shape)}" if given.dtype.kind in "fiub" else f"values of type {given.dtype}"
        raise DataError(f"{name}: {shown}; the input takes one text (a str)")
    if not isinstance(given, str):
        return given
    try:
        return as_bytes(given)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _text_of(row: Array) -> str:
    if row.dtype != np.uint8:
        raise DataError(f"an array of {row.dtype} {list(row.shape)}; the model takes texts")
    if row.size > MAX_TEXT_BYTES:
        raise DataError(f"a text of {row.size} bytes; at most {MAX_TEXT_BYTES} are taken: divide it")
    if not row.all():
        raise DataError(f"the text {NULS}")
    try:
        text = row.tobytes().decode()
    except UnicodeDecodeError as error:
        raise DataError(f"the text is not UTF-8 (byte {error.start})") from error
    if not text.strip():
        raise DataError("the text is empty")
    return text


def takes_texts(steps: Sequence[StepBase]) -> bool:
    """Whether a recording for these steps is a text."""
    return any(isinstance(step, (Tokenize, Tokenizing)) for step in steps)


def with_files(steps: Sequence[StepBase], read: Callable[[str], bytes]) -> list[StepBase]:
    """The steps with their files loaded. `read`: gives a file's bytes by its name.

    Raises DataError for a tokenizer that cannot be read, DeviceError where its library is missing, and what `read` raises.
    """
    return [_loaded(step, read(step.file)) if isinstance(step, Tokenize) else step for step in steps]


def _loaded(step: Tokenize, content: bytes) -> Tokenizing:
    try:
        import tokenizers  # only a bundle of texts needs it
    except ImportError as error:
        raise DeviceError(f"{step.file}: texts need the tokenizers library: pip install 'edgeloop[text]' ({error})") from error
    if len(content) > MAX_TOKENIZER_BYTES:
        raise DataError(f"{step.file}: {len(content)} bytes; a tokenizer has at most {MAX_TOKENIZER_BYTES}")
    tokenizer = guarded(lambda: tokenizers.Tokenizer.from_str(content.decode()), f"{step.file}: is no tokenizer.json")
    token = guarded(lambda: tokenizer.id_to_token(step.pad), f"{step.file}: is no tokenizer.json")
    if token is None:
        raise DataError(f"{step.file}: has no token {step.pad}, with which short texts are filled; correct `pad`")

    def bounded() -> int:
        tokenizer.enable_truncation(step.length)
        tokenizer.enable_padding(length=step.length, pad_id=step.pad, pad_token=token)
        return int(tokenizer.num_special_tokens_to_add(False))

    special = guarded(bounded, f"{step.file}: cannot make {step.length} ids")
    if special >= step.length:
        raise DataError(f"{step.file}: cannot make {step.length} ids: {special} are its special tokens; say a longer length")
    return Tokenizing(step, tokenizer)


def guarded(call: Callable[[], Any], what: str) -> Any:
    """The library's answer. Raises DataError for its errors; it panics on some files, which is no Exception."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        raise DataError(f"{what} ({' '.join(str(error).split())[:200]})") from error
