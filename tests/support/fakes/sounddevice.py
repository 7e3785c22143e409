"""PortAudio's stand-in: a microphone that hears a tone, and is pulled out after three tenths of a second each time it is opened.

The device "only48" has one channel at 48 kHz, and an overflow in each block.
"""

import threading
from types import SimpleNamespace

import numpy as np

CHUNKS = 3


class PortAudioError(Exception):
    pass


def query_devices(device, kind):
    if device == "broken":
        raise PortAudioError("no such device")
    return {"default_samplerate": 48000.0, "max_input_channels": 1}


class InputStream:
    def __init__(self, samplerate, channels, dtype, device, blocksize, callback):
        if device == "broken":
            raise PortAudioError("no such device")
        if device == "only48" and (samplerate, channels) != (48000, 1):
            raise PortAudioError("Invalid sample rate")
        times = np.arange(blocksize)[:, None] / samplerate
        self.block = (8000 * np.sin(2 * np.pi * 440 * times)).astype(dtype).repeat(channels, axis=1)
        self.status = SimpleNamespace(input_overflow=device == "only48")
        self.callback, self.active = callback, True

    def __enter__(self):
        threading.Thread(target=self._play, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.active = False

    def _play(self):
        for _ in range(CHUNKS):
            self.callback(self.block, len(self.block), None, self.status)
        self.active = False
