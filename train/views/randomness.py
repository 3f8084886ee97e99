"""Random numbers that depend only on (seed, epoch, sample, stream).

There is no generator state. The number of workers and processes, the order of work and an interruption
therefore cannot change how a sample is augmented.
"""

import zlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea & Flood, OOPSLA 2014): a bijection of uint64 that passes BigCrush."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seed: int, epoch: int, indices: np.ndarray, stream: str, count: int) -> np.ndarray:
    """Draw `count` uniform numbers per sample.

    The first numbers of a sample do not depend on `count`.

    Args:
        seed: the run's seed.
        epoch: 0, 1, …; each epoch has new numbers.
        indices: sample numbers in the dataset, shape (B,), non-negative integers.
        stream: purpose of the numbers ("crop 0", "perturbation 0", …); different streams are independent.
        count: numbers per sample.

    Returns:
        float64, shape (B, count), uniform in [0, 1).
    """
    with np.errstate(over="ignore"):  # SplitMix64 is defined modulo 2^64
        key = np.zeros(1, np.uint64)
        for part in (seed, epoch, zlib.crc32(stream.encode())):
            key = _mix(key + _GOLDEN + np.uint64(part % 2**64))
        keys = _mix(key + _GOLDEN * (np.asarray(indices).astype(np.uint64) + np.uint64(1)))
        counters = _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
        bits = _mix(keys[:, None] + counters[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """Order in which an epoch visits its `n` samples: int64, shape (n,)."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def between(u: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map uniforms in [0, 1) to [low, high)."""
    return low + (high - low) * u


def log_between(u: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map uniforms in [0, 1) to [low, high), uniform in the logarithm."""
    return np.exp(between(u, np.log(low), np.log(high)))
