"""Arrays too large for memory, on disk, deleted with the process."""

import os
import tempfile
from typing import IO

import numpy as np

from spd_weights.errors import SpdError


def scratch(shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> np.ndarray:
    """An array of zeros in a nameless file of the temporary folder (TMPDIR), read and written page by page.

    The file's space is reserved first. In a sparse file, a full disk would end the process with SIGBUS at the first
    write to a page that has no room.

    Args:
        shape: Shape of the array.
        dtype: Type of its elements.

    Returns:
        The array. Its space is freed when it is no longer used, even after a crash.

    Raises:
        SpdError: The disk has no room for it.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not size:
        return np.zeros(shape, dtype=dtype)
    try:
        with tempfile.TemporaryFile(prefix="spd-eval-") as file:
            _reserve(file, size)
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
    except OSError as error:
        raise SpdError(
            f"{tempfile.gettempdir()}: no room for {size / 1e6:.1f} MB of scratch data ({error.strerror}); free some, "
            "or set TMPDIR to a folder on another disk"
        ) from error


def _reserve(file: IO[bytes], size: int) -> None:
    """Allocate the file's blocks; macOS and Windows have no call for it, so zeros are written there."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    zeros = bytes(1 << 20)
    for first in range(0, size, len(zeros)):
        file.write(zeros[: size - first])
    file.flush()
