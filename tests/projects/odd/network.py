from torch import nn


def dense(sample_shape, outputs, width=16):
    """Answers flat."""
    return nn.Sequential(nn.Flatten(), nn.Linear(outputs, width), nn.ReLU(), nn.Linear(width, 4), nn.Linear(4, outputs))


def convolutional(sample_shape, outputs, width=8):
    """Answers an image."""
    return nn.Sequential(
        nn.Conv2d(sample_shape[0], width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 4, 3, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(4, width, 2, 2), nn.ReLU(), nn.ConvTranspose2d(width, sample_shape[0], 2, 2),
    )  # fmt: skip
