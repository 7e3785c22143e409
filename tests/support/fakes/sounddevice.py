"""PortAudio's stand-in: a microphone that hears a tone, and is pulled out after three blocks each time it is opened."""

import threading

import numpy as np


class PortAudioError(Exception):
    pass


class InputStream:
    def __init__(self, samplerate, channels, dtype, device, blocksize, callback):
        if device == "broken":
            raise PortAudioError("no such device")
        self.block = (8000 * np.sin(np.arange(blocksize * channels) / 5)).astype(dtype).reshape(blocksize, channels)
        self.callback, self.active = callback, True

    def __enter__(self):
        threading.Thread(target=self._play, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.active = False

    def _play(self):
        for _ in range(3):
            self.callback(self.block, len(self.block), None, None)
        self.active = False
