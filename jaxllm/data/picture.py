"""Pictures of any format and size, as squares of bytes.

H height, W width, C channels of a pixel.
"""

import io
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.example_record import ExampleRecord

Fit = Literal["crop", "squeeze"]
NumChannels = Literal[1, 3]
_MODES = {1: "L", 3: "RGB"}


def picture_of(
    record: ExampleRecord, field: str, *, key: str, size: int, num_channels: int, fit: Fit
) -> np.ndarray:
    """A picture of a record, uint8 (size, size, C).

    The field holds the bytes of a file, or numbers (H, W) or (H, W, C) as bytes. fit: whether it is
    made smaller until its shorter side fits and what is then too long is cut off on both sides, or
    until each side fits. DatasetError, under the key that names the field, for what is no picture.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ValueError("pictures need Pillow: pip install 'jaxllm[finetune]'") from error
    image = _opened(record, field, key=key)
    # A camera that was held upright says so beside the pixels.
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert(_MODES[num_channels])
    if image.size != (size, size):
        resampling = Image.Resampling.BICUBIC
        if fit == "crop":
            image = ImageOps.fit(image, (size, size), resampling)
        else:
            image = image.resize((size, size), resampling)
    return np.asarray(image, np.uint8).reshape(size, size, num_channels)


def _opened(record: ExampleRecord, field: str, *, key: str) -> Any:
    """The picture as Pillow has it, decoded."""
    from PIL import Image, UnidentifiedImageError

    value = record.value(field, key=key)
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]  # as Parquet files of pictures have them, beside their path
    if isinstance(value, np.ndarray):
        return _of_numbers(value, record, field, key=key)
    if not isinstance(value, bytes):
        raise DatasetError(
            key,
            f"{record.where}: {field!r} is a {type(value).__name__}, not the bytes of a picture; "
            "where tables name files of pictures give source.files, for a folder of them "
            "source.type=files",
        )
    try:
        image = Image.open(io.BytesIO(value))
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow tells of an unknown format by the address of what it read from.
        told = "no known format" if isinstance(error, UnidentifiedImageError) else error
        raise DatasetError(
            key, f"{record.where}: {field!r} cannot be read as a picture: {told}"
        ) from error
    return image


def _of_numbers(values: np.ndarray, record: ExampleRecord, field: str, *, key: str) -> Any:
    from PIL import Image

    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    is_picture = values.ndim == 2 or (values.ndim == 3 and values.shape[-1] in (3, 4))
    if not is_picture or values.dtype != np.uint8 or not values.size:
        raise DatasetError(
            key,
            f"{record.where}: {field!r} has numbers {values.dtype} of shape {values.shape}; give "
            "bytes (uint8) of one, three or four channels",
        )
    return Image.fromarray(values)
