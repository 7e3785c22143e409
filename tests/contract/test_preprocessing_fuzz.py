"""Any list of steps on any array: samples, or one sentence."""

from __future__ import annotations

import random
from typing import Any, get_args

import msgspec
import msgspec.inspect as types
import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import Counts, Step, prepare, sizes_after

WHOLE = (0, 1, 2, 3, 4, 5, 7, 10, 16, 64, 100, 256, 512, 8000, 16000)
REAL = (0.0, 1.0, -1.0, 1e-300, 1e300, 0.5, 1e-6, 20.0, 20.0000001, 3000.0, 80.0, 1 / 255)
SHAPES = (
    (0, 1),
    (1, 1),
    (100, 1),
    (600, 1),
    (3000, 1),
    (40, 3),
    (500, 6),
    (0, 20, 3),
    (1, 1, 3),
    (30, 20, 1),
    (70, 50, 4),
    (9, 12),
    (700,),
)
DTYPES = (np.uint8, np.int16, np.int64, np.float32, np.float64)


def value(kind: types.Type, rng: random.Random) -> Any:
    if isinstance(kind, types.IntType):
        return rng.choice([number for number in WHOLE if number <= (512 if kind.le is None or kind.le < 8000 else 16000)])
    if isinstance(kind, types.FloatType):
        return rng.choice(REAL)
    if isinstance(kind, types.BoolType):
        return rng.random() < 0.5
    if isinstance(kind, types.LiteralType):
        return rng.choice(kind.values)
    if isinstance(kind, types.StrType):
        return rng.choice(("tokenizer.json", "a/b.json"))  # files that nobody loaded
    assert isinstance(kind, types.ListType)
    return [value(kind.item_type, rng) for _ in range(rng.randrange(5))]


def any_step(rng: random.Random) -> dict[str, Any]:
    step = rng.choice(get_args(Step))
    info = types.type_info(step)
    assert isinstance(info, types.StructType)
    chosen = {field.name: value(field.type, rng) for field in info.fields if field.required or rng.random() < 0.4}
    if "rate_hz" in chosen:
        chosen["rate_hz"] = rng.choice([8000, 16000])
    return {"step": step.__struct_config__.tag, **chosen}


def any_recording(rng: random.Random) -> np.ndarray:
    dtype = np.dtype(rng.choice(DTYPES))
    numbers = np.random.default_rng(rng.randrange(99)).normal(0, rng.choice([0, 1, 100, 1e4]), rng.choice(SHAPES))
    if dtype.kind != "f":
        return np.clip(numbers, *((0, 255) if dtype == np.uint8 else (-32768, 32767))).astype(dtype)
    if numbers.size and rng.random() < 0.2:
        numbers.flat[0] = rng.choice([np.nan, np.inf, 1e30])
    return numbers.astype(dtype)


def test_any_list_on_any_array_gives_samples_or_a_sentence() -> None:
    rng, answered, refused, decoder = random.Random(27), 0, 0, msgspec.json.Decoder(Step)
    for _ in range(3000):
        texts = [msgspec.json.encode(any_step(rng)) for _ in range(rng.choice([1, 1, 2, 3]))]
        try:
            steps = [decoder.decode(text) for text in texts]
        except msgspec.ValidationError:
            continue
        try:
            made = prepare(steps, any_recording(rng))
        except DataError as error:
            refused += "\n" not in str(error)
            continue
        answered += 1
        assert len(made.values) == len(made.indices) and (made.values.dtype.kind != "f" or np.isfinite(made.values).all())
        if len(made.values) and not any(isinstance(step, Counts) for step in steps):  # counts are of series: their axis 1
            sample, sizes = made.values[0], sizes_after(steps)
            assert all(sample.shape[axis] == size for axis, size in sizes.items() if axis < sample.ndim)
    assert answered > 400 and refused > 400
