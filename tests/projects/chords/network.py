from torch import nn


class Estimator(nn.Module):
    def __init__(self, channels, outputs, width):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, (7, 1), (1, 1), (3, 0)), nn.ReLU(),
            nn.Conv2d(width, width, (7, 1), (2, 1), (3, 0)), nn.ReLU(),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.values = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, x):
        return self.values(self.pool(self.features(x.unsqueeze(-1))).flatten(1))


def estimator(sample_shape, outputs, width=16):
    return Estimator(sample_shape[0], outputs, width)
