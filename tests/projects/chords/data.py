import numpy as np

from edgeloop_pipeline.data import Split, Splits

TONES = {"low": 1.5, "middle": 4.0, "high": 9.0}


class Chords:
    """Series of one channel with any of three tones in them, or none."""

    def files(self):
        return []

    def load(self):
        rng = np.random.default_rng(0)
        return Splits(tuple(TONES), self._split(rng, 300), self._split(rng, 80), self._split(rng, 120))

    def _split(self, rng, count):
        there = rng.random((count, 3)) < [0.5, 0.3, 0.15]
        t = np.arange(48) / 50
        waves = rng.normal(0, 0.7, (count, 48))
        for tone, hertz in enumerate(TONES.values()):
            waves += there[:, tone, None] * np.sin(2 * np.pi * hertz * t + rng.uniform(0, 6.28, (count, 1)))
        names = [[name for name, here in zip(TONES, row, strict=True) if here] for row in there]
        return Split(waves[..., None], names)


def chords():
    return Chords()
