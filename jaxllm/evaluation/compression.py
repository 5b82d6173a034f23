"""What a general compressor makes of the validation text, as a yardstick for a language model."""

import lzma
from concurrent.futures import ThreadPoolExecutor


def xz_bits_per_byte(training_text: bytes, validation_text: bytes) -> float:
    """Bits per byte that `xz -9e` needs for the validation text after seeing the training text.

    (compressed(training + validation) - compressed(training)) x 8 / bytes(validation). Its window
    of 64 MiB sees all of a smaller training text.
    """
    with ThreadPoolExecutor(2) as pool:  # lzma releases the interpreter's lock
        together = pool.submit(_compressed_size, training_text + validation_text)
        alone = pool.submit(_compressed_size, training_text)
        return (together.result() - alone.result()) * 8 / len(validation_text)


def _compressed_size(data: bytes) -> int:
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
