"""Landscapes: sky, clouds, mountains, water, meadows and trees."""

import numpy as np

from synthetic.scenes.canvas import Canvas, Field, colour, lit, mix, ramp, sample


def landscape(canvas: Canvas) -> None:
    """Paint a landscape, from the sky to the nearest grass."""
    rng = canvas.rng
    horizon = rng.uniform(0.3, 0.65)
    haze = sky(canvas, horizon)
    light = rng.uniform(0, np.pi)
    season = rng.choice([0.24, 0.28, 0.32, 0.13, 0.09], p=[0.3, 0.3, 0.15, 0.15, 0.1])
    _hills(canvas, horizon, haze, light, season)
    if rng.random() < 0.35:
        _water(canvas, horizon)
    else:
        _meadow(canvas, horizon, haze, season)
        trees(canvas, horizon, season, light)
    if rng.random() < 0.4:
        canvas.blur(rng.uniform(0.0, 0.012))
    if rng.random() < 0.6:
        _grass(canvas, season)


def sky(canvas: Canvas, horizon: float) -> Field:
    """Paint sky, sun glow and clouds above the horizon; return the colour of the haze there."""
    rng = canvas.rng
    mood = rng.choice(["day", "sunset", "grey", "dusk"], p=[0.5, 0.2, 0.2, 0.1])
    top, low, cloud = {
        "day": (colour(rng.uniform(0.55, 0.62), 0.65, 0.8), colour(0.55, 0.18, 0.97), colour(0.1, 0.02, 1.0)),
        "sunset": (colour(rng.uniform(0.58, 0.72), 0.45, 0.55), colour(rng.uniform(0.03, 0.1), 0.6, 1.0),
                   colour(rng.uniform(0.95, 1.08), 0.4, 0.9)),
        "grey": (colour(0.58, 0.08, 0.6), colour(0.58, 0.04, 0.88), colour(0.6, 0.05, 0.92)),
        "dusk": (colour(0.63, 0.7, 0.25), colour(rng.uniform(0.6, 0.95), 0.4, 0.6), colour(0.68, 0.35, 0.4)),
    }[mood]  # fmt: skip
    height = np.clip((horizon - canvas.y) / horizon, 0, 1)
    canvas.rgb[:] = mix(low, top, np.broadcast_to(height**0.7, (canvas.size, canvas.size)))
    sun_x, sun_y = rng.uniform(0, 1), horizon * rng.uniform(0.2, 1.0)
    away = (canvas.x - sun_x) ** 2 + (canvas.y - sun_y) ** 2
    glow = 0.5 * np.exp(-away * 14) + (np.exp(-away * 900) if mood == "sunset" else 0)
    canvas.rgb += np.clip(glow, 0, 1)[..., None] * (colour(0.11, 0.2, 1.0) - canvas.rgb) * 0.8
    # Clouds flatten towards the horizon, as a layer seen from below does.
    distance = 0.25 / (height + 0.22)
    tile = canvas.noise(1.5)
    u, v = (canvas.x - 0.5) * distance + rng.uniform(0, 1), distance * 1.3
    shape = sample(tile, u, v)
    bias = rng.normal(-0.1, 0.6)
    density = ramp(shape + bias, 0.1, rng.uniform(0.8, 1.8))
    shade = 0.75 + 0.25 * np.clip(shape - sample(tile, u + 0.02, v - 0.03) + 0.5, 0, 1)
    canvas.over((slice(None), slice(None)), 0.9 * density, cloud * shade[..., None])
    return low


def _hills(canvas: Canvas, horizon: float, haze: Field, light: float, season: float) -> None:
    """Two to four ranges, the farther the paler."""
    rng = canvas.rng
    count = int(rng.integers(2, 5))
    rocky = rng.random() < 0.5
    for layer in range(count):
        near = (layer + 1) / count
        rough = rng.uniform(1.1, 1.8)
        crest = horizon - (1 - near) * rng.uniform(0.05, 0.3) * horizon - 0.01
        crest = crest - canvas.ridge(rough) * rng.uniform(0.015, 0.06) * (1.3 - near)
        relief = canvas.noise(1.3)
        shade = lit(relief, light, 0.3)
        stone = colour(rng.uniform(0.04, 0.12), 0.2, rng.uniform(0.4, 0.6))
        wood = colour(season + rng.normal(0, 0.02), rng.uniform(0.3, 0.55), rng.uniform(0.25, 0.45))
        bare = ramp(relief + (0.8 if rocky else -1.2) * (1 - near), -0.3, 0.6)
        body = mix(wood, stone, bare)
        if rocky and layer == 0:
            snow = ramp(relief * 0.05 + crest + 0.05 - canvas.y, -0.02, 0.02)
            body = mix(body, np.float32((0.9, 0.92, 0.96)), snow)
        body = mix(body * shade[..., None], haze, np.full(relief.shape, 0.75 * (1 - near) + 0.08, np.float32))
        canvas.over((slice(None), slice(None)), canvas.cover(crest - canvas.y), body)


def _plane(canvas: Canvas, horizon: float) -> tuple[Field, Field, Field]:
    """Ground coordinates (u, v) seen in perspective, and the depth in [0, 1] (1 at the horizon)."""
    down = np.maximum(canvas.y - horizon, 0) / (1 - horizon)
    distance = 1 / (down + 0.06)
    return (canvas.x - 0.5) * distance * 0.25, np.broadcast_to(distance * 0.25, (canvas.size, canvas.size)), 1 - down


def _meadow(canvas: Canvas, horizon: float, haze: Field, season: float) -> None:
    rng = canvas.rng
    u, v, depth = _plane(canvas, horizon)
    fine, broad = sample(canvas.noise(0.6), u, v), sample(canvas.noise(1.5), u * 0.4, v * 0.4)
    green = colour(season + rng.normal(0, 0.015), rng.uniform(0.4, 0.7), rng.uniform(0.4, 0.65))
    dry = colour(season - 0.08, 0.45, rng.uniform(0.5, 0.75))
    ground = mix(green, dry, ramp(broad, -1, 1.5)) * (1 + 0.22 * np.clip(fine, -2.5, 2.5))[..., None]
    if rng.random() < 0.4:  # a path
        middle = rng.uniform(-0.1, 0.1) + 0.05 * np.sin(v * rng.uniform(2, 6) + rng.uniform(0, 6))
        on = 1 - ramp(np.abs(u - middle) + 0.006 * fine, 0.03, 0.05)
        ground = mix(ground, colour(0.09, 0.3, 0.65) * (1 + 0.15 * fine)[..., None], on)
    ground = mix(ground, haze, np.broadcast_to(0.35 * depth**3, fine.shape))
    canvas.over((slice(None), slice(None)), canvas.cover(horizon - canvas.y) + 0 * fine, np.maximum(ground, 0))


def _water(canvas: Canvas, horizon: float) -> None:
    """Mirror what stands above the shore, broken by waves."""
    rng = canvas.rng
    u, v, depth = _plane(canvas, horizon)
    waves = sample(canvas.noise(0.9), u * 0.5, v * 3)
    rows = 2 * horizon - canvas.y + (0.012 + 0.05 * (1 - depth)) * waves * rng.uniform(0.3, 1.3)
    rows = np.clip((rows * canvas.size).astype(np.int32), 0, canvas.size - 1)
    mirrored = canvas.rgb[rows, np.arange(canvas.size)[None]]
    tint = colour(rng.uniform(0.45, 0.58), 0.5, 0.35)
    water = mix(mirrored * 0.85, tint, np.clip(0.25 + 0.35 * (1 - depth) + 0.1 * waves, 0, 0.8))
    canvas.over((slice(None), slice(None)), canvas.cover(horizon - canvas.y) + 0 * waves, water)


def trees(canvas: Canvas, horizon: float, season: float, light: float) -> None:
    """Plant up to a dozen trees, the farthest first."""
    rng = canvas.rng
    conifers = rng.random() < 0.4
    leaves = canvas.noise(0.7)
    for near in np.sort(rng.uniform(0, 1, rng.integers(0, 12)) ** 2):
        size = 0.08 + 0.5 * near * rng.uniform(0.7, 1.2)
        foot = horizon + 0.01 + 0.3 * near * (1 - horizon)
        green = colour(season + rng.normal(0, 0.03), rng.uniform(0.35, 0.65), rng.uniform(0.25, 0.45))
        (_conifer if conifers else _broadleaf)(canvas, rng.uniform(0, 1), foot, size, green, leaves, light)


def _conifer(canvas: Canvas, x: float, foot: float, size: float, green: Field, leaves: Field, light: float) -> None:
    area, xs, ys = canvas.window(x - 0.3 * size, foot - size, x + 0.3 * size, foot + 0.02)
    up = (foot - ys) / size
    texture = leaves[area]
    tiers = 0.75 + 0.25 * ((up * 6) % 1 < 0.5)
    half = 0.26 * size * np.clip(1 - up, 0, 1) * tiers * (1 + 0.25 * texture)
    crown = canvas.cover(np.maximum(np.abs(xs - x) - half, (0.1 - up) * size))
    trunk = canvas.cover(np.maximum(np.abs(xs - x) - 0.02 * size, np.abs(up - 0.08) * size - 0.08 * size))
    canvas.over(area, trunk, colour(0.07, 0.4, 0.25))
    side = 1 + 0.6 * np.clip((xs - x) / (0.26 * size), -1, 1) * np.cos(light)
    canvas.over(area, crown, green * np.clip(side * (0.8 + 0.3 * texture), 0.15, 2)[..., None])


def _broadleaf(canvas: Canvas, x: float, foot: float, size: float, green: Field, leaves: Field, light: float) -> None:
    rng = canvas.rng
    reach = 0.42 * size
    area, xs, ys = canvas.window(x - reach, foot - 1.05 * size, x + reach, foot + 0.02)
    texture = leaves[area]
    lean = rng.normal(0, 0.06) * (foot - ys)
    stem = np.abs(xs - x - lean) - size * (0.02 + 0.02 * np.clip(1 - (foot - ys) / size * 3, 0, 1))
    stem = np.maximum(np.maximum(stem, ys - foot), foot - 0.6 * size - ys)
    canvas.over(area, canvas.cover(stem), colour(0.07, 0.35, 0.28) * (1 + 0.3 * np.clip(texture, -2, 2))[..., None])
    for _ in range(int(rng.integers(4, 9))):
        cx, cy = x + rng.normal(0, 0.14) * size, foot - size * rng.uniform(0.5, 0.82)
        radius = size * rng.uniform(0.12, 0.22)
        dx, dy = (xs - cx) / radius, (ys - cy) / radius
        inside = np.hypot(dx, dy) - 1 + 0.18 * texture
        shade = 0.85 + 0.45 * (dx * np.float32(np.cos(light)) - dy * 0.7) * 0.6 + 0.25 * texture
        canvas.over(area, canvas.cover(inside * radius), green * np.clip(shade, 0.15, 2)[..., None])


def _grass(canvas: Canvas, season: float) -> None:
    """Blades in front of everything, in a few rows."""
    rng = canvas.rng
    flowers = rng.random() < 0.4
    for row in range(3):
        blades = canvas.rng.standard_normal((1, canvas.size), dtype=np.float32)
        tip = 1.02 - (0.05 + 0.03 * (2 - row)) * rng.uniform(0.6, 1.8) - 0.022 * blades - 0.02 * canvas.ridge()
        tone = colour(season + rng.normal(0, 0.02), rng.uniform(0.45, 0.7), rng.uniform(0.3, 0.55))
        body = tone * (0.7 + 0.3 * np.roll(blades, 1, 1) * 0.6)[..., None] * (1 + 2 * (1 - canvas.y))[..., None]
        area, _, ys = canvas.window(0, 0.7, 1, 1)
        canvas.over(area, canvas.cover(tip - ys, 2), np.clip(body[area[0]], 0, 1))
    if flowers:
        petal = colour(rng.uniform(0, 1), rng.uniform(0.3, 0.9), 0.95)
        for _ in range(int(rng.integers(4, 16))):
            cx, cy, r = rng.uniform(0, 1), rng.uniform(0.8, 1.0), rng.uniform(0.008, 0.02)
            area, xs, ys = canvas.window(cx - 2 * r, cy - 2 * r, cx + 2 * r, cy + 2 * r)
            canvas.over(area, canvas.cover(np.hypot(xs - cx, 1.4 * (ys - cy)) - r), petal)
