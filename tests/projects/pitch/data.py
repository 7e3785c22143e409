import numpy as np

from edgeloop_pipeline.data import Split, Splits


class Pitches:
    def files(self):
        return []

    def load(self):
        rng = np.random.default_rng(0)
        return Splits(("pitch_hz", "loudness"), self._split(rng, 300), self._split(rng, 60), self._split(rng, 90))

    def _split(self, rng, count):
        pitch, loudness = rng.uniform(1, 6, count), rng.uniform(0.3, 1.0, count)
        t = np.arange(32) / 50
        waves = loudness[:, None] * np.sin(2 * np.pi * pitch[:, None] * t + rng.uniform(0, 6.28, (count, 1)))
        waves = waves[..., None] + rng.normal(0, 0.02, (count, 32, 1))
        return Split(waves, np.stack([pitch, loudness], 1))


def pitches():
    return Pitches()
