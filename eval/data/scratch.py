"""Arrays too large for memory, on disk, gone with the process."""

import tempfile

import numpy as np


def scratch(shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> np.ndarray:
    """An array of zeros in a nameless file of the temporary folder (TMPDIR), read and written page by page.

    Args:
        shape: Of the array.
        dtype: Of its elements.

    Returns:
        The array; its space is given back when it is no longer used, even after a crash.

    Raises:
        OSError: The disk has no room for it.
    """
    if 0 in shape:
        return np.zeros(shape, dtype=dtype)
    with tempfile.TemporaryFile(prefix="spd-eval-") as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)
