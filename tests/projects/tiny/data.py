import numpy as np

from edgeloop_pipeline.data import Split, Splits


class Tones:
    def files(self):
        return []

    def load(self):
        rng = np.random.default_rng(0)
        return Splits(("slow", "fast", "still"), self._split(rng, 90), self._split(rng, 30), self._split(rng, 45))

    def _split(self, rng, count):
        recordings, labels = [], []
        for i in range(count):
            label = i % 3
            t = np.arange(96)
            frequency = (0.03, 0.11, 0.0)[label] * rng.uniform(0.9, 1.1)
            wave = np.sin(2 * np.pi * frequency * t + rng.uniform(0, 6.28))
            recordings.append(np.stack([wave, 0.5 * wave], 1) + rng.normal(0, 0.2, (96, 2)))
            labels.append(label)
        return Split(recordings, np.array(labels))


def tones():
    return Tones()
