"""Damage that any part can have. Each function changes a relief at a frame; `bare` is the albedo under the surface."""

import numpy as np

from synthetic.relief import Colour, Frame, Relief, blot, polyline, ramp, rgb


def scratch(relief: Relief, frame: Frame, rng: np.random.Generator, bare: Colour) -> None:
    """Cut a slightly curved groove that tapers towards both ends."""
    reach = float(np.clip(rng.lognormal(-1.9, 0.4), 0.07, 0.35))
    t = np.linspace(-1, 1, 7)
    points = np.stack([t * reach / 2, (t * t - 0.5) * rng.normal(0, 0.02)], 1)
    patch = relief.patch(frame, reach / 2, 0.06)
    half = rng.uniform(0.0025, 0.005) * ramp(1 - 2 * np.abs(patch.u) / reach, -0.05, 0.5)
    relief.paint(patch, patch.cover(polyline(patch.u, patch.v, points) - half), bare, lift=-0.003)


def stain(relief: Relief, frame: Frame, rng: np.random.Generator, bare: Colour) -> None:
    """Darken an irregular area, most along its rim, as a drop does when it dries."""
    radius = float(np.clip(rng.lognormal(-2.9, 0.4), 0.03, 0.12))
    tint = rng.choice(((0.30, 0.26, 0.24), (0.52, 0.42, 0.30), (0.40, 0.46, 0.36)))
    patch = relief.patch(frame, 1.8 * radius, 1.8 * radius)
    edge = blot(patch.u, patch.v, radius, rng) / np.float32(radius)
    cover = (1 - ramp(edge, -0.4, 0.1)) * (0.75 + 0.25 * np.exp(-np.square((edge + 0.2) / 0.18)))
    relief.paint(patch, cover, relief.albedo[(slice(None), *patch.area)] * rgb(tint), gloss=0.02)


def foreign(relief: Relief, frame: Frame, rng: np.random.Generator, bare: Colour) -> None:
    """Drop a crumb or a fibre of another material; it casts a shadow."""
    colour = rng.choice(((0.02, 0.06, 0.35), (0.5, 0.04, 0.04), (0.70, 0.70, 0.68), (0.03, 0.03, 0.03)))
    if rng.random() < 0.5:
        radius = rng.uniform(0.013, 0.028)
        patch = relief.patch(frame, 1.8 * radius, 1.8 * radius)
        edge = blot(patch.u, patch.v, radius, rng)
        height = np.float32(0.7) * np.sqrt(np.clip(-edge * radius, 0, None))
    else:
        heading, height = np.cumsum(rng.normal(0, 0.4, 12)), np.float32(0.006)
        points = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0) * rng.uniform(0.01, 0.03)
        points -= (points.min(0) + points.max(0)) / 2
        patch = relief.patch(frame, *np.abs(points).max(0) + 0.01)
        edge = polyline(patch.u, patch.v, points) - np.float32(rng.uniform(0.0025, 0.004))
    relief.paint(patch, patch.cover(edge), colour, lift=height, gloss=0.2)
