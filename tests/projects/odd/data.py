import numpy as np

from edgeloop_pipeline.data import Split, Splits


class Stripes:
    """12×12 grey images of stripes; the odd ones have a bright spot."""

    def files(self):
        return []

    def load(self):
        rng = np.random.default_rng(0)
        return Splits(("normal", "spot"), self._split(rng, 200, 0), self._split(rng, 60, 20), self._split(rng, 100, 50))

    def _split(self, rng, normal, odd):
        images = []
        for i in range(normal + odd):
            rows = np.sin(np.arange(12) * 0.9 + rng.uniform(0, 6.28))
            image = 128 + 60 * np.repeat(rows[:, None], 12, 1) + rng.normal(0, 6, (12, 12))
            if i >= normal:
                y, x = rng.integers(1, 10, 2)
                image[y : y + 2, x : x + 2] = 250
            images.append(image.clip(0, 255).astype(np.uint8)[..., None])
        return Split(np.stack(images), np.repeat([0, 1], [normal, odd]))


def stripes():
    return Stripes()
