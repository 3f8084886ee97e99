"""Streets and rooms."""

import numpy as np

from synthetic.scenes.canvas import Canvas, Field, colour, mix, ramp, sample
from synthetic.scenes.outdoors import sky


def street(canvas: Canvas) -> None:
    """Paint a skyline, a street in perspective, cars and passers-by."""
    rng = canvas.rng
    horizon = rng.uniform(0.45, 0.62)
    haze = sky(canvas, horizon)
    night = float(canvas.rgb.mean()) < 0.15
    texture = canvas.noise(0.9)
    for near in (0.15, 0.5, 1.0):
        left = -rng.uniform(0, 0.2)
        while left < 1:
            wide = rng.uniform(0.08, 0.2) * (0.6 + near)
            gap = near == 1.0 and 0.3 < left + wide / 2 < 0.7
            if not gap:
                _building(canvas, left, wide, horizon, near, haze, texture, night)
            left += wide * rng.uniform(0.95, 1.2)
    _road(canvas, horizon, texture)
    for foot in np.sort(rng.uniform(horizon + 0.04, 0.95, rng.integers(1, 7))):
        size = 0.02 + 0.34 * (foot - horizon)
        x = rng.uniform(0, 1)
        (_car if rng.random() < 0.5 else _person)(canvas, x, float(foot), size)


def _building(canvas: Canvas, left: float, wide: float, horizon: float, near: float, haze: Field,
              texture: Field, night: bool) -> None:  # fmt: skip
    rng = canvas.rng
    top = horizon * (1 - rng.uniform(0.3, 0.95) * (0.5 + 0.5 * near))
    foot = horizon + 0.04 * near
    area, xs, ys = canvas.window(left, top, left + wide, foot)
    wall = colour(rng.choice([0.05, 0.08, 0.12, 0.58, 0.0]), rng.uniform(0.05, 0.5), rng.uniform(0.3, 0.8))
    pitch_x, pitch_y = rng.uniform(0.022, 0.04) * (0.5 + near), rng.uniform(0.03, 0.05) * (0.5 + near)
    column, row = (xs - left) / pitch_x, (ys - top) / pitch_y
    fill_x, fill_y = rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.38)
    window = np.maximum(np.abs(column % 1 - 0.5) - fill_x, np.abs(row % 1 - 0.5) - fill_y)
    window = canvas.cover(window * pitch_x) * (row > 0.6)
    # A hash of the window's place says what is seen in it.
    inside = np.sin(np.floor(column) * 12.9898 + np.floor(row) * 78.233 + left * 37) * 43758.5453 % 1
    glass = mix(colour(0.58, 0.3, 0.3), colour(0.56, 0.2, 0.75), inside.astype(np.float32))
    lamp = (inside > (0.5 if night else 0.93))[..., None]
    glass = np.where(lamp, colour(0.12, 0.5, 1.0), glass)
    shade = (0.85 if rng.random() < 0.5 else 0.55) * (1 + 0.07 * texture[area])
    body = mix(wall * shade[..., None], glass, window)
    body = mix(body, haze, np.full(shade.shape, 0.7 * (1 - near), np.float32))
    canvas.over(area, np.ones(shade.shape, np.float32), np.maximum(body, 0))


def _road(canvas: Canvas, horizon: float, texture: Field) -> None:
    rng = canvas.rng
    down = np.maximum(canvas.y - horizon - 0.02, 0) / (1 - horizon)
    distance = 1 / (down + 0.05)
    vanish = rng.uniform(0.4, 0.6)
    u, v = (canvas.x - vanish) * distance * 0.3, np.broadcast_to(distance * 0.3, texture.shape)
    grit = sample(canvas.noise(0.4), u, v) * 0.15 + 0.1 * texture
    tar, slab = colour(0.6, 0.05, rng.uniform(0.25, 0.45)), colour(0.1, 0.1, rng.uniform(0.5, 0.7))
    pave = 1 - ramp(np.abs(u), 0.26, 0.27)
    ground = mix(slab * (0.8 + 0.2 * ((v * 12 % 1) > 0.1))[..., None], tar, pave)
    dash = (np.abs(u) < 0.008) & ((v * 3 % 1) < 0.5) | (np.abs(np.abs(u) - 0.235) < 0.006)
    ground = np.where(dash[..., None], np.float32(0.7), ground) * (1 + grit)[..., None]
    canvas.over((slice(None), slice(None)), canvas.cover(horizon + 0.02 - canvas.y) + 0 * u, np.maximum(ground, 0))


def _car(canvas: Canvas, x: float, foot: float, size: float) -> None:
    area, xs, ys = canvas.window(x - 1.4 * size, foot - size, x + 1.4 * size, foot + 0.2 * size)
    u, v = (xs - x) / size, (foot - ys) / size
    canvas.rgb[area] *= (1 - 0.6 * (1 - ramp(np.hypot(u / 1.3, v / 0.16), 0.6, 1.1)))[..., None]
    paint = colour(canvas.rng.uniform(0, 1), canvas.rng.uniform(0.1, 0.8), canvas.rng.uniform(0.3, 0.9))
    body = np.maximum(np.abs(u) - 1.15 + 0.1 * v, np.abs(v - 0.34) - 0.2)
    cabin = np.maximum(np.abs(u + 0.05) - 1.05 + 0.6 * v, np.abs(v - 0.7) - 0.2)
    glass = np.maximum(np.maximum(np.abs(u + 0.05) - 0.95 + 0.6 * v, np.abs(v - 0.68) - 0.13), 0.04 - np.abs(u))
    shade = (0.55 + 0.9 * np.clip(v, 0, 1))[..., None]
    for shape, tone in ((cabin, paint * shade), (glass, colour(0.57, 0.3, 0.35)), (body, paint * shade)):
        canvas.over(area, canvas.cover(shape * size), np.clip(tone, 0, 1))
    for wheel in (-0.7, 0.7):
        r = np.hypot(u - wheel, v - 0.16)
        canvas.over(area, canvas.cover((r - 0.2) * size), np.float32((0.01, 0.01, 0.012)))
        canvas.over(area, canvas.cover((r - 0.1) * size), np.float32((0.35, 0.35, 0.36)))


def _person(canvas: Canvas, x: float, foot: float, size: float) -> None:
    rng = canvas.rng
    tall = 1.5 * size
    area, xs, ys = canvas.window(x - 0.4 * tall, foot - 1.05 * tall, x + 0.4 * tall, foot + 0.06 * tall)
    u, v = (xs - x) / tall, (foot - ys) / tall
    canvas.rgb[area] *= (1 - 0.5 * (1 - ramp(np.hypot(u / 0.2, v / 0.05), 0.5, 1.1)))[..., None]
    stride = rng.uniform(0.2, 0.6)
    legs = np.maximum(np.abs(np.abs(u) - 0.05 - 0.06 * stride * (0.5 - v)) - 0.042, np.abs(v - 0.25) - 0.25)
    trunk = np.maximum(np.abs(u) - 0.085 - 0.04 * (v - 0.45), np.abs(v - 0.64) - 0.2)
    arms = np.maximum(np.abs(np.abs(u) - 0.14 + 0.1 * (v - 0.5)) - 0.026, np.abs(v - 0.62) - 0.2)
    head = np.hypot(u, v - 0.92) - 0.068
    coat = colour(rng.uniform(0, 1), rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.9))
    side = (0.7 + 2.5 * np.clip(u + 0.1, 0, 0.25))[..., None]
    skin = colour(0.06, rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.9))
    cloth = colour(0.6, 0.3, rng.uniform(0.15, 0.5))
    for shape, tone in ((legs, cloth), (arms, coat * 0.8), (trunk, coat), (head, skin)):
        canvas.over(area, canvas.cover(shape * tall), np.clip(tone * side, 0, 1) + 0 * v[..., None])


def room(canvas: Canvas) -> None:
    """Paint a room in one-point perspective: floor, walls, window, pictures and furniture."""
    rng = canvas.rng
    vx, vy, back = rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.5), rng.uniform(0.3, 0.5)
    dx, dy = (canvas.x - vx) / 0.5, (canvas.y - vy) / 0.5
    depth = np.maximum(np.abs(dx), np.abs(dy) * 1.25)
    near = np.maximum(depth / back, 1)  # 1 on the back wall, growing towards the viewer
    wall = np.abs(dx) > np.abs(dy) * 1.25
    floor = ~wall & (dy > 0) & (depth > back)
    ceiling = ~wall & (dy < 0) & (depth > back)
    texture = canvas.noise(1.1)
    paint = colour(rng.uniform(0, 1), rng.uniform(0.05, 0.45), rng.uniform(0.55, 0.9))
    shade = np.where(depth < back, 0.85, np.where(wall, np.where(dx < 0, 0.55, 0.75), 1.0))
    canvas.rgb[:] = paint * (shade * (1 + 0.04 * texture))[..., None]
    u, v = dx / near, 1 / near
    boards = np.floor(u / back * 7 + 50)
    grain = sample(texture, u * 3 + boards * 0.3, v * 2 + boards * 0.17)
    wood = colour(0.08, rng.uniform(0.3, 0.6), rng.uniform(0.35, 0.7))
    plank = wood * np.clip(0.9 + 0.15 * np.sin(boards * 12.9) + 0.12 * grain, 0.1, 2)[..., None]
    canvas.rgb = np.where(floor[..., None], plank, canvas.rgb)
    canvas.rgb = np.where(ceiling[..., None], np.float32(0.75), canvas.rgb).astype(np.float32)
    canvas.rgb *= (1 - 0.4 * np.exp(-(((depth - back) / 0.06) ** 2)))[..., None]  # dim corners
    _openings(canvas, vx, vy, back, texture)
    canvas.blur(rng.uniform(0, 0.008))
    foot = vy + back * 0.4
    for place in np.sort(rng.uniform(foot + 0.08, 0.98, rng.integers(1, 5))):
        _furniture(canvas, rng.uniform(0.05, 0.95), float(place), 0.10 + 0.3 * (float(place) - foot), texture)


def _openings(canvas: Canvas, vx: float, vy: float, back: float, texture: Field) -> None:
    """A window and pictures on the back wall."""
    rng = canvas.rng
    half_w, half_h = 0.5 * back, 0.4 * back
    for slot in range(int(rng.integers(1, 4))):
        cx = vx + (slot - 1) * 0.6 * half_w
        cy, w, h = vy - 0.2 * half_h, rng.uniform(0.14, 0.25) * half_w, rng.uniform(0.25, 0.45) * half_h
        area, xs, ys = canvas.window(cx - w, cy - h, cx + w, cy + h)
        frame = np.maximum(np.abs(xs - cx) - 0.85 * w, np.abs(ys - cy) - 0.85 * h)
        if rng.random() < 0.5:
            view = mix(colour(0.3, 0.4, 0.6), colour(0.57, 0.3, 1.0), ramp(cy - ys + 0.02 * texture[area], -0.03, 0.03))
            frame = np.maximum(frame, 0.004 - np.abs(xs - cx))
        else:
            view = mix(colour(rng.uniform(0, 1), 0.6, 0.7), colour(rng.uniform(0, 1), 0.5, 0.4),
                       ramp(texture[area], -0.5, 0.5))  # fmt: skip
        canvas.over(area, np.ones(frame.shape, np.float32), colour(0.08, 0.2, rng.choice([0.25, 0.9])))
        canvas.over(area, canvas.cover(frame), view)


def _furniture(canvas: Canvas, x: float, foot: float, size: float, texture: Field) -> None:
    """A cupboard, a table or a sofa, seen from the front and a little above."""
    rng = canvas.rng
    kind = rng.integers(3)
    wide, tall = size * rng.uniform(0.7, 1.2), size * (1.6, 0.8, 0.8)[kind]
    area, xs, ys = canvas.window(x - 1.2 * wide, foot - 1.3 * tall, x + 1.2 * wide, foot + 0.1 * size)
    u, v = (xs - x) / wide, (foot - ys) / tall
    canvas.rgb[area] *= (1 - 0.5 * (1 - ramp(np.hypot(u / 1.1, v / 0.12), 0.7, 1.1)))[..., None]
    tone = colour(
        rng.uniform(0, 0.15) if kind < 2 else rng.uniform(0, 1), rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.75)
    )
    body = tone * (0.7 * (1 + 0.08 * texture[area]))[..., None]
    if kind == 0:
        parts = [np.maximum(np.abs(u) - 1, np.abs(v - 0.5) - 0.5)]
        parts.append(np.maximum(np.abs(np.abs(u) - 0.5) - 0.44, np.abs(np.abs(v - 0.5) - 0.24) - 0.2))
        tones = [body, body * 1.35]
    elif kind == 1:
        parts = [np.maximum(np.abs(np.abs(u) - 0.85) - 0.07, np.abs(v - 0.4) - 0.42)]
        parts.append(np.maximum(np.abs(u) - 1.05 + 0.3 * (v - 0.8), np.abs(v - 0.92) - 0.14))
        tones = [body * 0.6, body * 1.4]
    else:
        parts = [
            np.maximum(np.abs(u) - 0.95, np.abs(v - 0.6) - 0.42),
            np.maximum(np.abs(u) - 0.95, np.abs(v - 0.3) - 0.24),
        ]
        parts.append(np.maximum(np.abs(np.abs(u) - 0.97) - 0.13, np.abs(v - 0.35) - 0.32))
        tones = [body, body * 1.35, body * 0.8]
    for part, tint in zip(parts, tones, strict=True):
        canvas.over(area, canvas.cover(part * min(wide, tall)), np.clip(tint, 0, 1))
