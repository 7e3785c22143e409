"""`SoundFeatures` with the parameters of known libraries: their defaults, or those of a published example where they have none.

Take one and replace what your model was trained with: `msgspec.structs.replace(CONVENTIONS["librosa_mfcc"], rate_hz=16000)`.
The tests compare each with arrays that the library made.
"""

from msgspec.structs import replace

from edgeloop_contract.preprocessing.sound import SoundFeatures

__all__ = ["CONVENTIONS"]

_TENSORFLOW = SoundFeatures(
    rate_hz=16000,
    window=1024,
    hop=256,
    power=1.0,
    bands=80,
    low_hz=80.0,
    high_hz=7600.0,
    triangles="mel",
    log="natural",
    offset=1e-6,
)
_LIBROSA = SoundFeatures(
    rate_hz=22050, window=2048, hop=512, frames_of="fft", centre="zeros", bands=128, mel="slaney", norm="slaney",
    log="decibel", floor=1e-10, range_db=80.0,
)  # fmt: skip
_TORCHAUDIO = SoundFeatures(
    rate_hz=16000, window=400, hop=200, frames_of="fft", centre="reflect", bands=128, log="decibel", floor=1e-10
)  # fmt: skip

CONVENTIONS: dict[str, SoundFeatures] = {
    # tf.signal, as its guide has them: |stft|, linear_to_mel_weight_matrix, log(x + 1e-6), mfccs_from_log_mel_spectrograms
    "tensorflow_log_mel": _TENSORFLOW,
    "tensorflow_mfcc": replace(_TENSORFLOW, coefficients=13, dct="htk"),
    # audio_ops.audio_spectrogram and mfcc of the speech-commands tutorial; first_bin: int(1.5 + low_hz × fft / rate)
    "tensorflow_speech_commands": SoundFeatures(
        rate_hz=16000, window=480, hop=320, fft=512, power=1.0, bands=40, low_hz=20.0, high_hz=4000.0, triangles="mel", first_bin=2,
        log="natural", floor=1e-12, coefficients=13, dct="htk",
    ),
    # MLPerf Tiny's keyword model: tf.signal; its sound goes through to_float {by: max} before
    "mlperf_tiny_keyword": SoundFeatures(
        rate_hz=16000, window=480, hop=320, fft=512, power=1.0, bands=40, low_hz=20.0, high_hz=4000.0, triangles="mel",
        log="natural", offset=1e-6, coefficients=10, dct="htk",
    ),
    # MLPerf Tiny's machine sounds: librosa.feature.melspectrogram, 10·log10(x + epsilon)
    "mlperf_tiny_anomaly": SoundFeatures(
        rate_hz=16000, window=1024, hop=512, frames_of="fft", centre="zeros", bands=128, mel="slaney", norm="slaney",
        log="decibel", offset=2.220446049250313e-16,
    ),
    # librosa.power_to_db(librosa.feature.melspectrogram(y)) and librosa.feature.mfcc(y)
    "librosa_log_mel": _LIBROSA,
    "librosa_mfcc": replace(_LIBROSA, coefficients=20),
    # torchaudio.transforms.MelSpectrogram() and AmplitudeToDB(); MFCC()
    "torchaudio_log_mel": _TORCHAUDIO,
    "torchaudio_mfcc": replace(_TORCHAUDIO, range_db=80.0, coefficients=40),
    # torchaudio.compliance.kaldi.fbank; Kaldi's sound is in counts: to_float {full_scale: 1} before
    "kaldi_fbank": SoundFeatures(
        rate_hz=16000, window=400, hop=160, fft=512, function="povey", periodic=False, remove_mean=True, preemphasis=0.97, bands=23,
        low_hz=20.0, triangles="mel", log="natural", floor=1.1920928955078125e-07,
    ),
}  # fmt: skip
