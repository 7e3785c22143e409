"""Make tests/goldens/preprocessing: what TensorFlow, librosa, torchaudio and torchvision give, for small inputs.

In an environment of its own (these libraries are no dependency of ours):
`pip install tensorflow-cpu librosa torch torchaudio torchvision`, then `python scripts/preprocessing_goldens.py`. Each library
runs in a process of its own: TensorFlow and torch in one do not work together.
The names are those of `tests/contract/test_sound_features.py` and `tests/contract/test_pictures.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent.parent / "tests" / "goldens" / "preprocessing"
RATE = 16000


def recording() -> np.ndarray:
    """0.4 s of 16-bit sound: a rising tone with noise, then digital silence, then noise."""
    rng = np.random.default_rng(7)
    t = np.arange(6400) / RATE
    sound = 9000 * np.sin(2 * np.pi * (200 + 6000 * t) * t) + rng.normal(0, 400, 6400)
    sound[3200:4800] = 0
    sound[4800:] = rng.normal(0, 2000, 1600)
    return np.rint(sound).astype(np.int16)


def tensorflow(counts: np.ndarray) -> dict[str, np.ndarray]:
    import tensorflow as tf
    from tensorflow.python.ops import gen_audio_ops

    def tf_mel(spectrum, bands, low, high):
        return tf.tensordot(spectrum, tf.signal.linear_to_mel_weight_matrix(bands, spectrum.shape[-1], RATE, low, high), 1)

    x = tf.constant(counts / np.float32(32768), tf.float32)
    log_mel = tf.math.log(tf_mel(tf.abs(tf.signal.stft(x, 1024, 256, 1024)), 80, 80.0, 7600.0) + 1e-6)
    yamnet = tf.math.log(tf_mel(tf.abs(tf.signal.stft(x, 400, 160, 512)), 64, 125.0, 7500.0) + 0.001)
    loudest = tf.cast(counts, tf.float32) / float(counts.max())
    keyword = tf.math.log(tf_mel(tf.abs(tf.signal.stft(loudest, 480, 320)), 40, 20.0, 4000.0) + 1e-6)
    audio = gen_audio_ops.audio_spectrogram(x[:, None], window_size=480, stride=320, magnitude_squared=True)
    emphasized = x - (1 - 2**-5) * tf.concat([[0.0], x[:-1]], 0)
    hamming = tf.abs(tf.signal.stft(emphasized, 480, 320, window_fn=lambda n, dtype: tf.signal.hamming_window(n, False, dtype)))
    wake = tf_mel(tf.maximum(tf.square(hamming) / 480, 1e-30), 40, 0.0, 8000.0)
    return {
        "tensorflow_log_mel": log_mel,
        "tensorflow_mfcc": tf.signal.mfccs_from_log_mel_spectrograms(log_mel)[:, :13],
        "tensorflow_spectrogram": tf.abs(tf.signal.stft(x, 255, 128)),
        "tensorflow_yamnet": yamnet,
        "tensorflow_speech_commands": gen_audio_ops.mfcc(audio, RATE, dct_coefficient_count=13)[0],
        "mlperf_tiny_keyword": tf.signal.mfccs_from_log_mel_spectrograms(keyword)[:, :10],
        "mlperf_tiny_wake_word": tf.clip_by_value((10 * tf.math.log(wake) / np.log(10) + 52) / 64, 0, 1),
    }


def by_librosa(counts: np.ndarray) -> dict[str, np.ndarray]:
    import librosa

    x = counts / np.float32(32768)
    mel, feature = librosa.feature.melspectrogram, librosa.feature
    anomaly = 10 * np.log10(mel(y=x, sr=RATE, n_fft=1024, hop_length=512, n_mels=128) + sys.float_info.epsilon)
    return {
        "librosa_log_mel": librosa.power_to_db(mel(y=x)).T,
        "librosa_log_mel_loudest": librosa.power_to_db(mel(y=x, sr=RATE, n_fft=512, hop_length=160, n_mels=40), ref=np.max).T,
        "librosa_mel_htk": mel(y=x, sr=RATE, n_fft=512, hop_length=160, n_mels=40, htk=True, norm=None, fmin=60, fmax=7000).T,
        "librosa_log_mel_reflect": librosa.power_to_db(
            mel(y=x, sr=RATE, n_fft=1024, win_length=400, hop_length=160, n_mels=64, pad_mode="reflect"), top_db=None
        ).T,
        "librosa_amplitude": librosa.amplitude_to_db(np.abs(librosa.stft(x, n_fft=512, hop_length=256, center=False))).T,
        "librosa_mfcc": feature.mfcc(y=x).T,
        "librosa_mfcc_lifter": feature.mfcc(y=x, sr=RATE, n_mfcc=13, n_fft=512, hop_length=160, n_mels=40, lifter=22).T,
        "librosa_mfcc_plain": feature.mfcc(y=x, sr=RATE, n_mfcc=13, n_fft=512, hop_length=160, n_mels=40, norm=None).T,
        "mlperf_tiny_anomaly": np.concatenate([anomaly[:, t : t + anomaly.shape[1] - 4].T for t in range(5)], axis=1),
    }


def by_torchaudio(counts: np.ndarray) -> dict[str, np.ndarray]:
    import torch
    import torchaudio

    x, to = torch.from_numpy(counts / np.float32(32768))[None], torchaudio.transforms
    small = {"n_fft": 512, "hop_length": 160, "n_mels": 40}
    slaney = to.MelSpectrogram(RATE, n_fft=1024, win_length=400, hop_length=160, n_mels=64, norm="slaney", mel_scale="slaney")
    magnitude = to.MelSpectrogram(RATE, **small, power=1.0, center=False, window_fn=torch.hamming_window)
    made = {
        "torchaudio_log_mel": to.AmplitudeToDB()(to.MelSpectrogram()(x)),
        "torchaudio_slaney": torch.log10(slaney(x) + 1e-6),
        "torchaudio_magnitude": to.AmplitudeToDB("magnitude", top_db=60)(magnitude(x)),
        "torchaudio_mfcc": to.MFCC()(x),
        "torchaudio_mfcc_log": to.MFCC(RATE, 13, log_mels=True, melkwargs=small)(x),
    }
    kaldi = torchaudio.compliance.kaldi.fbank
    whole = x * 32768
    return {name: value[0].T for name, value in made.items()} | {
        "kaldi_fbank": kaldi(whole),
        "kaldi_fbank_hann": kaldi(whole, num_mel_bins=80, window_type="hanning", high_freq=-400.0),
    }


def picture() -> np.ndarray:
    rng = np.random.default_rng(11)
    tall, wide = np.mgrid[0:45, 0:61]
    smooth = np.stack([4 * tall, 3 * wide, 2 * (tall + wide)], axis=-1)
    return np.clip(smooth + rng.integers(-40, 40, smooth.shape), 0, 255).astype(np.uint8)


def by_torchvision(image: np.ndarray) -> dict[str, np.ndarray]:
    import torchvision.transforms as tv
    from PIL import Image

    steps = tv.Compose(
        [tv.Resize(32), tv.CenterCrop(28), tv.ToTensor(), tv.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    )
    photo, upright = Image.fromarray(image), Image.fromarray(np.ascontiguousarray(image.swapaxes(0, 1)))
    return {
        "torchvision_imagenet": steps(photo).permute(1, 2, 0).numpy(),
        "torchvision_resize_tall": np.asarray(tv.Resize(20)(upright)),
        "torchvision_crop_padded": np.asarray(tv.CenterCrop((50, 40))(photo)),
    }


def tensorflow_pictures(image: np.ndarray) -> dict[str, np.ndarray]:
    import tensorflow as tf

    return {
        "tensorflow_bilinear": tf.image.resize(image, (20, 90)).numpy(),
        "tensorflow_nearest": tf.image.resize(image, (20, 90), method="nearest").numpy(),
        "tensorflow_antialias": tf.image.resize(image, (20, 31), antialias=True).numpy(),
    }


Part = Callable[[np.ndarray], dict[str, np.ndarray]]
SOUND: list[Part] = [tensorflow, by_librosa, by_torchaudio]
PICTURES: list[Part] = [by_torchvision, tensorflow_pictures]


def run(part: Part) -> dict[str, np.ndarray]:
    """One part, in a process of its own."""
    subprocess.run([sys.executable, "-W", "ignore", __file__, part.__name__], check=True)
    file = FOLDER / f"{part.__name__}.npz"
    with np.load(file) as made:
        arrays = dict(made)
    file.unlink()
    return arrays


def main(only: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for parts, given in ((SOUND, recording()), (PICTURES, picture())):
        for part in parts:
            if part.__name__ == only:
                np.savez(FOLDER / f"{only}.npz", **{key: np.asarray(value) for key, value in part(given).items()})
                return
    for parts, name, given in ((SOUND, "recording", recording()), (PICTURES, "image", picture())):
        arrays = {name: given}
        for part in parts:
            arrays |= run(part)
        floats = {key: value if value.dtype.kind in "iu" else value.astype(np.float32) for key, value in arrays.items()}
        np.savez_compressed(FOLDER / ("sound.npz" if parts is SOUND else "pictures.npz"), **floats)
    libraries = ("tensorflow_cpu", "librosa", "torch", "torchaudio", "torchvision", "pillow", "numpy")
    (FOLDER / "versions.json").write_text(json.dumps({name: version(name) for name in libraries}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
