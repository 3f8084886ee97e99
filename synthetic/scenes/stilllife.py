"""Still lifes: fruit, balls, bottles, cups and boxes on a table before a wall; and flowers."""

import numpy as np

from synthetic.scenes.canvas import Canvas, Field, colour, fractal, mix, ramp, sample


def still_life(canvas: Canvas) -> None:
    """Paint a wall, a table and two to seven things on it, the farthest first."""
    rng = canvas.rng
    edge = rng.uniform(0.3, 0.55)
    _wall(canvas, edge)
    canvas.blur(rng.uniform(0.004, 0.03))
    _table(canvas, edge)
    light = rng.choice([-1, 1]) * rng.uniform(0.4, 0.9)
    texture = fractal(rng, canvas.size, rng.uniform(0.8, 1.4))
    count = int(rng.integers(2, 8))
    feet = np.sort(rng.uniform(edge + 0.08, 0.95, count))
    for index, foot in enumerate(feet):
        if index == count // 2 and rng.random() < 0.5:
            canvas.blur(rng.uniform(0.002, 0.008))  # focus on the nearer half
        size = rng.uniform(0.10, 0.2) * (0.7 + 0.9 * (foot - edge))
        thing = rng.choice([_ball, _ball, _fruit, _fruit, _bottle, _box, _cup])
        thing(canvas, rng.uniform(0.08, 0.92), float(foot), size, light, texture)


def flower(canvas: Canvas) -> None:
    """Paint one to four flowers before defocused foliage."""
    rng = canvas.rng
    leaf = colour(rng.uniform(0.2, 0.38), 0.6, 0.4)
    murk = canvas.noise(1.6)
    canvas.rgb[:] = mix(leaf * 0.25, leaf * rng.uniform(1, 2), ramp(murk, -1.5, 2))
    canvas.blur(0.02)
    texture = canvas.noise(1.0)
    for _ in range(int(rng.integers(1, 5))):
        cx, cy, radius = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.7), rng.uniform(0.12, 0.32)
        area, xs, ys = canvas.window(cx - 0.05, cy, cx + 0.05, 1)
        stem = np.abs(xs - cx - 0.03 * np.sin(6 * (ys - cy))) - 0.012
        canvas.over(area, canvas.cover(stem), leaf * (1 + 0.3 * texture[area])[..., None])
        _petals(canvas, cx, cy, radius, texture)


def _petals(canvas: Canvas, cx: float, cy: float, radius: float, texture: Field) -> None:
    rng = canvas.rng
    area, xs, ys = canvas.window(cx - 1.1 * radius, cy - 1.1 * radius, cx + 1.1 * radius, cy + 1.1 * radius)
    squash, turn = rng.uniform(0.65, 1), rng.uniform(0, 6.28)
    dx, dy = xs - cx, (ys - cy) / squash
    r, angle = np.hypot(dx, dy) / radius, np.arctan2(dy, dx) + turn
    hue, count = rng.choice([0.0, 0.05, 0.14, 0.78, 0.85, 0.92]), int(rng.integers(5, 14))
    vivid = rng.uniform(0.15, 0.9)
    for ring in range(2):
        lobe = np.abs(np.cos((angle + ring * np.pi / count) * count / 2))
        length = (1 - 0.25 * ring) * (0.45 + 0.55 * lobe**0.6)
        tone = colour(hue, vivid, 0.95) * (0.45 + 0.4 * lobe + 0.35 * r + 0.08 * texture[area])[..., None]
        canvas.over(area, canvas.cover((r - length) * radius), np.clip(tone, 0, 1))
    eye = 0.28 * (1 + 0.05 * texture[area])
    bump = np.clip(1.2 - 0.8 * (r / 0.28) ** 2 + 0.3 * texture[area], 0.2, 1.4)
    canvas.over(area, canvas.cover((r - eye) * radius), colour(0.11, 0.8, 0.7) * bump[..., None])


def _wall(canvas: Canvas, edge: float) -> None:
    rng = canvas.rng
    paint = colour(rng.uniform(0, 1), rng.uniform(0.05, 0.5), rng.uniform(0.35, 0.9))
    grain = canvas.noise(rng.uniform(0.7, 1.6))
    fade = 0.6 + 0.5 * np.clip(rng.uniform(0, 1) + rng.choice([-1, 1]) * canvas.x, 0, 1)
    canvas.rgb[:] = paint * (fade * (1 + 0.1 * grain))[..., None]
    style = rng.integers(4)
    if style == 0:  # wallpaper
        stripes = np.sin(canvas.x * rng.uniform(20, 70)) > rng.uniform(-0.5, 0.5)
        canvas.rgb *= np.where(stripes, 1, rng.uniform(0.5, 0.85))[..., None]
    elif style == 1:  # a window
        left, top = rng.uniform(-0.1, 0.6), rng.uniform(-0.1, 0.1)
        right, bottom = left + rng.uniform(0.25, 0.5), rng.uniform(0.6, 0.95) * edge
        area, xs, ys = canvas.window(left, top, right, bottom)
        bars = (np.abs((xs - left) % 0.16 - 0.08) < 0.068) & (np.abs((ys - top) % 0.2 - 0.1) < 0.088)
        view = mix(colour(0.3, 0.4, 0.6), colour(0.56, 0.25, 1), ramp(grain[area], -1, 1))
        canvas.over(area, np.ones(bars.shape, np.float32), np.where(bars[..., None], view, 0.7))
    elif style == 2:  # blurred lights
        for _ in range(12):
            cx, cy, r = rng.uniform(0, 1), rng.uniform(0, edge), rng.uniform(0.02, 0.07)
            area, xs, ys = canvas.window(cx - r, cy - r, cx + r, cy + r)
            spot = canvas.cover(np.hypot(xs - cx, ys - cy) - r, 4) * 0.5
            canvas.over(area, spot, colour(rng.uniform(0, 0.2), 0.4, 1))


def _table(canvas: Canvas, edge: float) -> None:
    rng = canvas.rng
    down = np.maximum(canvas.y - edge, 0) / (1 - edge)
    distance = 1 / (0.55 + down)
    u, v = (canvas.x - 0.5) * distance, np.broadcast_to(distance * 1.4, (canvas.size, canvas.size))
    tile = canvas.noise(1.1)
    style = rng.integers(4)
    if style == 0:  # planks
        board = np.floor(u * 6 + 100)
        grain = sample(tile, u * 3 + board * 0.37, v * 0.25 + board * 0.21)
        rings = np.sin(grain * 6)
        tone = colour(0.08, rng.uniform(0.4, 0.65), rng.uniform(0.4, 0.7))
        value = 1 + 0.14 * rings + 0.1 * grain + 0.12 * np.sin(board * 12.9)
        value = value * (0.45 + 0.55 * ramp(np.abs(u * 6 % 1 - 0.5), 0.5, 0.46))
    elif style == 1:  # checked cloth
        tone = colour(rng.uniform(0, 1), 0.6, 0.7)
        checks = ((u * 9 % 1) < 0.5).astype(np.float32) + ((v * 9 % 1) < 0.5)
        value = 0.6 + 0.7 * checks + 0.08 * sample(tile, u * 2, v * 2)
    elif style == 2:  # speckled stone
        tone = colour(rng.uniform(0, 1), 0.1, rng.uniform(0.3, 0.75))
        value = 1 + 0.25 * sample(canvas.noise(0.4), u, v) + 0.2 * sample(tile, u, v)
    else:  # plain
        tone = colour(rng.uniform(0, 1), rng.uniform(0.1, 0.6), rng.uniform(0.4, 0.85))
        value = 1 + 0.06 * sample(tile, u, v)
    surface = tone * (np.clip(value, 0.1, 2.2) * (0.75 + 0.35 * down))[..., None]
    canvas.over((slice(None), slice(None)), canvas.cover(edge - canvas.y) + 0 * u, surface)


def _shadow(canvas: Canvas, x: float, foot: float, width: float, tall: float, light: float) -> None:
    """The soft shadow of something standing at (x, foot), falling away from the light."""
    middle, reach = x - light * 0.6 * tall, width + abs(light) * 0.6 * tall
    area, xs, ys = canvas.window(middle - 1.6 * reach, foot - 0.9 * width, middle + 1.6 * reach, foot + 0.9 * width)
    away = np.hypot((xs - middle) / reach, (ys - foot + 0.15 * width) / (0.42 * width))
    canvas.rgb[area] *= (1 - 0.65 * (1 - ramp(away, 0.55, 1.25)))[..., None]


def _round(canvas: Canvas, x: float, y: float, radius: float, light: float, texture: Field, skin: Field,
           gloss: float, rough: float) -> None:  # fmt: skip
    """A lit ball with a textured skin; the texture is wrapped around it."""
    area, xs, ys = canvas.window(x - 1.05 * radius, y - 1.05 * radius, x + 1.05 * radius, y + 1.05 * radius)
    nx, ny = (xs - x) / radius, (ys - y) / radius
    away = np.sqrt(nx * nx + ny * ny)
    nz = np.sqrt(np.clip(1 - away * away, 0, 1))
    wrap = sample(texture, np.arctan2(nx, nz + 0.3) * 0.35 + x, np.arcsin(np.clip(ny, -1, 1)) * 0.35 + y)
    toward = (light, -0.75, 0.6)
    length = float(np.linalg.norm(toward))
    diffuse = np.clip((nx * toward[0] + ny * toward[1] + nz * toward[2]) / length, 0, 1)
    half = np.clip((nx * toward[0] + ny * toward[1] + nz * (toward[2] + length)) / (length * 1.55), 0, 1)
    bounce = 0.16 + 0.12 * np.clip(ny, 0, 1)
    body = skin * ((bounce + diffuse) * (1 + rough * wrap))[..., None] + (gloss * half**40)[..., None]
    canvas.over(area, canvas.cover((away - 1) * radius), np.clip(body, 0, 1.2))


def _ball(canvas: Canvas, x: float, foot: float, size: float, light: float, texture: Field) -> None:
    rng = canvas.rng
    _shadow(canvas, x, foot, size, size, light)
    skin = colour(rng.uniform(0, 1), rng.uniform(0.3, 0.9), rng.uniform(0.5, 0.95))
    _round(canvas, x, foot - 0.85 * size, size, light, texture, skin, rng.uniform(0, 0.9), rng.uniform(0, 0.35))


def _fruit(canvas: Canvas, x: float, foot: float, size: float, light: float, texture: Field) -> None:
    rng = canvas.rng
    size *= rng.uniform(0.6, 0.85)
    _shadow(canvas, x, foot, size, size, light)
    skin = colour(rng.choice([0.0, 0.02, 0.08, 0.13, 0.22, 0.28, 0.8]), rng.uniform(0.6, 0.9), 0.8)
    _round(canvas, x, foot - 0.85 * size, size, light, texture, skin, 0.35, 0.12)
    area, xs, ys = canvas.window(x - 0.4 * size, foot - 2.2 * size, x + 0.6 * size, foot - 1.4 * size)
    stem = np.abs(xs - x - 0.5 * (foot - 1.6 * size - ys) ** 2 / size) - 0.05 * size
    stem = np.maximum(stem, np.abs(ys - foot + 1.78 * size) - 0.22 * size)
    canvas.over(area, canvas.cover(stem), colour(0.08, 0.5, 0.25))
    if rng.random() < 0.5:
        leaf = np.hypot((xs - x - 0.28 * size) / 0.28, (ys - foot + 1.85 * size) / 0.11) - size
        canvas.over(area, canvas.cover(leaf * 0.15), colour(0.3, 0.6, 0.45))


def _turned(canvas: Canvas, x: float, foot: float, tall: float, profile: Field, light: float,
            body: Field, gloss: float) -> None:  # fmt: skip
    """A body of revolution; `profile` is its half width from top to foot."""
    widest = float(profile.max())
    area, xs, ys = canvas.window(x - 1.1 * widest, foot - tall, x + 1.1 * widest, foot + 0.3 * widest)
    half = np.interp((ys - foot + tall) / tall, np.linspace(0, 1, len(profile)), profile).astype(np.float32)
    across = (xs - x) / half
    depth = np.sqrt(np.clip(1 - across * across, 0, 1))
    distance = np.maximum((np.abs(across) - 1) * half, ys - foot - 0.25 * half * depth)
    shade = 0.25 + 0.75 * np.clip(across * np.sign(light) * 0.6 + depth * 0.65, 0, 1)
    shine = gloss * np.exp(-(((across - 0.45 * np.sign(light)) / 0.12) ** 2))
    canvas.over(area, canvas.cover(distance), np.clip(body * shade[..., None] + shine[..., None], 0, 1))


def _bottle(canvas: Canvas, x: float, foot: float, size: float, light: float, texture: Field) -> None:
    rng = canvas.rng
    tall, width = size * rng.uniform(2.2, 3.2), size * rng.uniform(0.5, 0.7)
    t = np.linspace(0, 1, 40)
    neck = rng.uniform(0.3, 0.4)
    profile = width * (0.32 + 0.68 * ramp(t, neck - 0.12, neck + 0.1)) + 0.04 * width * (t < 0.06)
    _shadow(canvas, x, foot, width, 0.7 * tall, light)
    glass = colour(rng.choice([0.3, 0.38, 0.08, 0.55, 0.6]), rng.uniform(0.3, 0.8), rng.uniform(0.25, 0.6))
    _turned(canvas, x, foot, tall, profile, light, glass, 0.7)
    label = foot - tall * 0.42
    paper = colour(rng.uniform(0, 0.2), 0.15, 0.9)
    area, xs, ys = canvas.window(x - width, label, x + width, label + 0.25 * tall)
    lines = 0.6 + 0.4 * (np.sin((ys - label) / tall * 110) > -0.2)
    shade = (0.35 + 0.65 * np.clip((xs - x) / width * np.sign(light) * 0.6 + 0.6, 0, 1)) * lines
    canvas.over(area, canvas.cover(np.abs(xs - x) - width) + 0 * ys, paper * shade[..., None])


def _cup(canvas: Canvas, x: float, foot: float, size: float, light: float, texture: Field) -> None:
    rng = canvas.rng
    tall, width = size * rng.uniform(0.9, 1.3), size * rng.uniform(0.55, 0.75)
    _shadow(canvas, x, foot, width, tall, light)
    glaze = colour(rng.uniform(0, 1), rng.uniform(0, 0.7), rng.uniform(0.6, 0.95))
    area, xs, ys = canvas.window(x, foot - tall, x + 2 * width, foot)
    ring = np.hypot((xs - x - width) / 0.8, ys - foot + 0.55 * tall)
    canvas.over(area, canvas.cover(np.abs(ring - 0.4 * width) - 0.1 * width), glaze * 0.6)
    profile = width * (1 - 0.25 * np.linspace(0, 1, 20) ** 2)
    _turned(canvas, x, foot, tall, profile, light, glaze, 0.5)
    area, xs, ys = canvas.window(x - width, foot - tall - 0.3 * width, x + width, foot - tall + 0.3 * width)
    mouth = np.hypot(xs - x, (ys - foot + tall) / 0.25)
    canvas.over(area, canvas.cover((mouth - width) * 0.5), np.minimum(glaze * 1.1, 1))
    canvas.over(area, canvas.cover((mouth - 0.88 * width) * 0.5), colour(0.07, 0.6, rng.uniform(0.15, 0.5)))


def _box(canvas: Canvas, x: float, foot: float, size: float, light: float, texture: Field) -> None:
    rng = canvas.rng
    wide, tall, skew = size * rng.uniform(0.8, 1.3), size * rng.uniform(0.6, 1.6), size * rng.uniform(0.25, 0.5)
    _shadow(canvas, x, foot, wide, 0.8 * tall, light)
    card = colour(rng.uniform(0, 1), rng.uniform(0.2, 0.8), rng.uniform(0.5, 0.9))
    area, xs, ys = canvas.window(x - wide, foot - tall - skew, x + wide + skew, foot + 0.02)
    grain = 1 + 0.08 * texture[area]
    front = np.maximum(np.abs(xs - x) - wide, np.abs(ys - foot + tall / 2) - tall / 2)
    back = np.clip((xs - x - wide) / skew, 0, 1) * skew * 0.6  # the side recedes upwards
    side = np.maximum(np.abs(xs - x - wide - skew / 2) - skew / 2, np.abs(ys + back - foot + tall / 2) - tall / 2)
    up = np.clip((foot - tall - ys) / (0.6 * skew), 0, 1)
    top = np.maximum(np.abs(xs - x - up * skew) - wide, np.abs(ys - foot + tall + 0.3 * skew) - 0.3 * skew)
    for face, shade in ((side, 0.45 + 0.35 * (light > 0)), (top, 1.1), (front, 0.75)):
        canvas.over(area, canvas.cover(face), card * np.clip(shade * grain, 0, 1.3)[..., None])
    if rng.random() < 0.7:
        print_ = np.abs(xs - x) - 0.6 * wide
        print_ = np.maximum(print_, np.abs(ys - foot + 0.55 * tall) - 0.22 * tall)
        ink = colour(rng.uniform(0, 1), 0.5, 0.9) * np.where(np.sin(ys * 160) > 0.3, 0.4, 1)[..., None]
        canvas.over(area, canvas.cover(print_), ink + 0 * xs[..., None])
