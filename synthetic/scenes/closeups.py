"""Close-ups: stone walls, planks, fabric, foliage, pebbles, bark and sand."""

import numpy as np

from synthetic.scenes.canvas import Canvas, colour, lit, mix, ramp, sample


def masonry(canvas: Canvas) -> None:
    """Paint bricks or rough stones in mortar."""
    rng = canvas.rng
    warp = 0.006 * canvas.noise(1.4)
    rows, columns = rng.integers(4, 11), rng.integers(2, 6)
    y = canvas.y * rows + warp * rows
    row = np.floor(y)
    x = canvas.x * columns + (row % 2) * 0.5 + warp.T * columns
    column = np.floor(x)
    edge = np.minimum(np.minimum(x % 1, 1 - x % 1) / columns, np.minimum(y % 1, 1 - y % 1) / rows)
    stone = ramp(edge + 0.004 * canvas.noise(0.8), 0.004, 0.02)
    own = (np.sin(row * 127.1 + column * 311.7) * 43758.5453 % 1).astype(np.float32)
    grain = canvas.noise(0.8)
    hue = rng.choice([0.02, 0.05, 0.09, 0.6])
    face = mix(colour(hue, 0.55, 0.4), colour(hue + 0.03, 0.35, 0.75), own) * (1 + 0.15 * grain)[..., None]
    mortar = colour(0.1, 0.1, rng.uniform(0.35, 0.75)) * (1 + 0.12 * grain)[..., None]
    shade = lit(2.5 * stone + 0.05 * grain, rng.uniform(0, 6.28), 0.25)
    canvas.rgb[:] = mix(mortar, face, stone) * shade[..., None]


def wood(canvas: Canvas) -> None:
    """Paint boards with year rings, fibres and knots."""
    rng = canvas.rng
    boards = rng.integers(1, 7)
    own = np.floor(canvas.x * boards)
    # Growth is smooth along the trunk (y), so the noise is looked up stretched; each board is another cut.
    tile = canvas.noise(1.5)
    growth = sample(tile, canvas.x * 0.5 + own * 0.37, canvas.y * rng.uniform(0.06, 0.15) + own * 0.61)
    growth = 0.5 * growth + (canvas.x - (own + rng.uniform(-0.5, 1.5)) / boards) * rng.uniform(1, 4)
    for _ in range(int(rng.integers(0, 4))):
        cx, cy, width = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.03, 0.08)
        away = ((canvas.x - cx) / width) ** 2 + ((canvas.y - cy) / (2.2 * width)) ** 2
        growth = growth + rng.uniform(0.5, 1.2) * np.exp(-away) * (own == np.floor(cx * boards))
    rings = np.sin(growth * rng.uniform(10, 28))
    rings = np.sign(rings) * np.abs(rings) ** 0.7
    fibre = sample(canvas.noise(0.5), canvas.x, canvas.y * 0.05)
    light = colour(rng.uniform(0.06, 0.12), rng.uniform(0.25, 0.5), rng.uniform(0.5, 0.9))
    tone = mix(light * np.float32((0.55, 0.45, 0.35)), light, 0.5 + 0.4 * rings)
    seam = np.minimum(canvas.x * boards % 1, 1 - canvas.x * boards % 1) / boards
    value = (1 + 0.13 * fibre + 0.15 * np.sin(own * 37.7)) * (0.3 + 0.7 * ramp(seam, 0.001, 0.008))
    canvas.rgb[:] = np.clip(tone * value[..., None], 0, 1)
    if rng.random() < 0.5:
        canvas.rgb = np.ascontiguousarray(canvas.rgb.transpose(1, 0, 2))


def fabric(canvas: Canvas) -> None:
    """Paint woven cloth lying in folds, plain, striped or checked."""
    rng = canvas.rng
    folds = canvas.noise(2.2)
    u, v = canvas.x + 0.02 * folds, canvas.y + 0.02 * folds.T
    turn = rng.uniform(0, 1.57)
    u, v = np.cos(turn) * u + np.sin(turn) * v, np.cos(turn) * v - np.sin(turn) * u
    threads = rng.uniform(25, 60)
    weave = np.sin(u * threads * 6.28) * np.sin(v * threads * 6.28)
    dye = colour(rng.uniform(0, 1), rng.uniform(0.2, 0.8), rng.uniform(0.4, 0.85))
    other = colour(rng.uniform(0, 1), rng.uniform(0.1, 0.7), rng.uniform(0.3, 0.95))
    style, period = rng.integers(3), rng.uniform(3, 12)
    bands = (np.sin(u * period * 6.28) > 0.2) * 0.5 * (style > 0) + (np.sin(v * period * 6.28) > 0.2) * 0.5 * (
        style > 1
    )
    shade = lit(folds, rng.uniform(0, 6.28), 0.28) * (1 + 0.14 * weave + 0.06 * canvas.noise(0.5))
    canvas.rgb[:] = np.clip(mix(dye, other, bands.astype(np.float32)) * shade[..., None], 0, 1)


def foliage(canvas: Canvas) -> None:
    """Paint leaves in layers, the nearer the larger and the brighter."""
    rng = canvas.rng
    hue = rng.choice([0.25, 0.3, 0.36, 0.12, 0.06], p=[0.3, 0.3, 0.15, 0.15, 0.1])
    texture = canvas.noise(1.0)
    canvas.rgb[:] = colour(hue, 0.6, 0.2) * np.clip(1 + 0.5 * canvas.noise(1.5), 0.2, 3)[..., None]
    slim, big = rng.uniform(0.25, 0.6), rng.uniform(0.08, 0.2)
    for layer in range(3):
        for _ in range(26):
            length = big * rng.uniform(0.5, 1.0) * (0.6 + 0.4 * layer)
            cx, cy, turn = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0, 6.28)
            area, xs, ys = canvas.window(cx - length, cy - length, cx + length, cy + length)
            c, s = np.float32(np.cos(turn) / length), np.float32(np.sin(turn) / length)
            u, v = c * (xs - cx) + s * (ys - cy), c * (ys - cy) - s * (xs - cx)
            shape = np.abs(v) - slim * np.clip(1 - u * u, 0, 1) * (0.75 + 0.25 * u)
            vein = 1 - 0.35 * np.exp(-((v / 0.03) ** 2)) + 0.12 * np.cos((np.abs(v) * 1.5 - u) * 22)
            side = np.where(v > 0, rng.uniform(0.6, 1.1), rng.uniform(0.6, 1.1))
            tone = colour(hue + rng.normal(0, 0.025), rng.uniform(0.5, 0.8), 0.35 + 0.15 * layer)
            body = tone * np.clip(vein * side * (1 + 0.1 * texture[area]), 0, 2)[..., None]
            canvas.rgb[area] *= (1 - 0.45 * canvas.cover((shape - 0.12) * length, 6))[..., None]
            canvas.over(area, canvas.cover(shape * length), body)
        canvas.blur(0.006 * (2 - layer) * rng.uniform(0, 1.5))


def pebbles(canvas: Canvas) -> None:
    """Paint rounded stones heaped on each other."""
    rng = canvas.rng
    texture = canvas.noise(0.9)
    hue, spread = rng.uniform(0, 1), rng.uniform(0, 0.15)
    big = rng.uniform(0.06, 0.16)
    light = rng.uniform(0, 6.28)
    canvas.rgb[:] = 0.03
    for _ in range(int(np.clip(1.4 / big**2, 40, 200))):
        r, squash, turn = big * rng.uniform(0.35, 1.0), rng.uniform(0.55, 1), rng.uniform(0, 6.28)
        cx, cy = rng.uniform(-0.05, 1.05, 2)
        area, xs, ys = canvas.window(cx - 1.2 * r, cy - 1.2 * r, cx + 1.2 * r, cy + 1.2 * r)
        c, s = np.float32(np.cos(turn) / r), np.float32(np.sin(turn) / r)
        u, v = c * (xs - cx) + s * (ys - cy), (c * (ys - cy) - s * (xs - cx)) / squash
        away = np.sqrt(u * u + v * v)
        dome = np.sqrt(np.clip(1.05 - away * away, 0, 1))
        facing = ((xs - cx) * np.cos(light) + (ys - cy) * np.sin(light)) / r
        tone = colour(hue + rng.normal(0, spread), rng.uniform(0.03, 0.35), rng.uniform(0.3, 0.85))
        shade = np.clip(0.35 + 0.55 * dome + 0.45 * facing.astype(np.float32), 0.08, 1.5)
        body = tone * (shade * (1 + 0.16 * texture[area]))[..., None]
        canvas.rgb[area] *= (1 - 0.5 * canvas.cover((away - 1.1) * r, 8))[..., None]
        canvas.over(area, canvas.cover((away - 1) * r), np.clip(body, 0, 1))


def ground(canvas: Canvas) -> None:
    """Paint rock, bark, cracked earth or wind-blown sand: a bare relief in slanting light."""
    rng = canvas.rng
    relief = canvas.noise(rng.uniform(1.3, 2.2))
    style = rng.integers(4)
    if style == 0:  # ripples of sand
        wave = canvas.x * rng.uniform(-20, 20) + canvas.y * rng.uniform(40, 90) + 2.5 * relief
        relief = 0.4 * relief + rng.uniform(0.5, 1.5) * np.sin(wave)
    elif style == 1:  # furrows of bark
        furrow = sample(canvas.noise(1.1), canvas.x + 0.01 * relief, canvas.y * 0.25)
        relief = 0.3 * relief - 1.2 * np.abs(furrow)
    elif style == 2:  # cracks: where a smooth field changes sign
        cracks = np.minimum(np.abs(canvas.noise(1.7)), np.abs(canvas.noise(1.7)))
        relief = 0.3 * relief + 1.5 * ramp(cracks, 0.0, 0.12)
    dark = colour(rng.uniform(0, 0.15), rng.uniform(0.05, 0.5), rng.uniform(0.25, 0.5))
    pale = colour(rng.uniform(0.05, 0.2), rng.uniform(0.05, 0.4), rng.uniform(0.6, 0.9))
    body = mix(dark, pale, ramp(0.7 * canvas.noise(1.6) + 0.8 * relief / relief.std(), -2.5, 2.5))
    shade = lit(relief + 0.08 * relief.std() * canvas.noise(0.9), rng.uniform(0, 6.28), rng.uniform(0.2, 0.4))
    canvas.rgb[:] = np.clip(body * shade[..., None], 0, 1)
