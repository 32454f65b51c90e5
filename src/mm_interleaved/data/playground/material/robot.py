"""Builds the robot collection: a Franka Panda arm before a camera, four frames for each thing it does, rendered once by pybullet.

Nothing is simulated: joints come from inverse kinematics, things that are held follow the gripper. Objects are rendered white, with
one alpha mask each, so that the tasks colour them when they compose a sample. Every action has its reverse: the same frames backwards.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mm_interleaved.data.playground.material.clips import NAME, VERSION
from mm_interleaved.data.playground.material.collection import Origin, write_collection
from mm_interleaved.errors import DataError

SIDE = 224
"""Side of a stored frame in pixels."""
RENDERED_SIDE = 448
"""Side at which frames are rendered before they are shrunk: edges become smooth."""
QUALITY = 80
"""WebP quality of frames; masks are exact."""
FRAMES = 4
PAIRS = (
    ("reach", "retreat"),
    ("grasp", "release"),
    ("lift", "lower"),
    ("push", "pull"),
    ("left", "right"),
    ("stack", "unstack"),
    ("insert", "remove"),
    ("open", "close"),
)
"""(action, its reverse). Clips are rendered forwards."""
SHAPES = ("cube", "ball", "can")
VARIANTS = 8
"""Clips of each action and shape: place, camera and light differ."""
DRAWERS = 16
"""Clips of the drawer, which has no shape."""
HALF = {"cube": 0.028, "ball": 0.032, "can": 0.045}
"""Half height of an object in metres; the gripper opens 8 centimetres."""
GRIP = {"cube": 0.028, "ball": 0.031, "can": 0.026}
"""How far each finger is from the middle when it holds the object, in metres."""
WIDE = 0.04
REST = (0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.785)
"""Joint angles from which inverse kinematics starts, in radians."""
HAND = 11
"""Link between the finger tips."""
FINGERS = (9, 10)

Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class _Moment:
    """One frame: where the hand and what it moves are."""

    hand: Point
    fingers: float
    moved: Point


@dataclass(frozen=True, slots=True)
class _Clip:
    """One thing done, forwards."""

    name: str
    action: str
    shape: str
    moments: tuple[_Moment, ...]
    still: Point
    """Where the second object stands: block, box, cabinet, or an object that has nothing to do with it."""
    still_kind: str
    camera: tuple[float, float, float]
    """Yaw and pitch in degrees, distance in metres."""
    light: Point
    floor: Point


def build_robot(packages: Path, folder: Path | None = None) -> Path:
    """Renders all clips (about five minutes) and writes the collection.

    Args:
        packages: not used: the arm comes with the pybullet package.
        folder: where collections are; None means those inside this package.

    Raises:
        DataError: pybullet is not installed.
        StorageError: the collection cannot be written.
    """
    try:
        import pybullet
        import pybullet_data
    except ImportError as error:
        raise DataError("the robot is rendered by pybullet, which is not installed; run `pip install pybullet`.") from error
    client = pybullet.connect(pybullet.DIRECT)
    try:
        stage = _Stage(pybullet, Path(pybullet_data.getDataPath()))
        files: dict[str, bytes] = {}
        listed = []
        for clip in _clips():
            for number, (frame, mask) in enumerate(stage.render(clip)):
                files[f"{clip.name}-{number}.webp"] = frame
                files[f"{clip.name}-{number}-mask.webp"] = mask
            listed.append({"name": clip.name, "action": clip.action, "shape": clip.shape, "second": clip.still_kind})
    finally:
        pybullet.disconnect(client)
    origin = Origin(package="pybullet (PyPI)", version="3.2.7", licence="zlib; the Panda model Apache-2.0")
    content = {"clips": listed, "frames": FRAMES, "pairs": [list(pair) for pair in PAIRS]}
    return write_collection(NAME, VERSION, [origin], content, files, folder)


def _clips() -> Iterator[_Clip]:
    for action, _ in PAIRS:
        shapes = ("drawer",) if action == "open" else SHAPES
        for shape in shapes:
            for variant in range(DRAWERS if action == "open" else VARIANTS):
                name = f"{action}-{shape}-{variant}"
                key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
                yield _clip(name, action, shape, np.random.Generator(np.random.Philox(key)))


def _clip(name: str, action: str, shape: str, random: np.random.Generator) -> _Clip:
    half, grip = HALF.get(shape, 0.05), GRIP.get(shape, 0.008)
    x, y = random.uniform(0.44, 0.58), random.uniform(-0.12, 0.12)
    aside = y + (0.24 if y < 0 else -0.24) + random.uniform(-0.02, 0.02)
    still: Point = (float(x + random.uniform(-0.06, 0.06)), float(aside), 0.0)
    kind = str(random.choice([other for other in SHAPES if other != shape]))
    moments: list[_Moment] = []

    def hold(*path: tuple[float, float, float]) -> None:
        moments.extend(_Moment(point, grip, point) for point in path)

    steps = np.linspace(0, 1, FRAMES)
    at = (x, y, half)
    if action == "reach":
        far = (x + random.uniform(-0.1, 0.05), y + random.choice([-1, 1]) * random.uniform(0.13, 0.18), random.uniform(0.22, 0.27))
        near = (x, y, half + 0.075)
        moments = [_Moment(_between(far, near, step), WIDE, at) for step in steps]
    elif action == "grasp":
        heights, fingers = (half + 0.075, half + 0.01, half, half), (WIDE, WIDE, (WIDE + grip) / 2, grip)
        moments = [_Moment((x, y, height), finger, at) for height, finger in zip(heights, fingers, strict=True)]
    elif action == "lift":
        hold(*[(x, y, half + 0.18 * step) for step in steps])
    elif action == "push":
        x = random.uniform(0.36, 0.4)
        hold(*[(x + 0.25 * step, y, half) for step in steps])
        still = (float(x + 0.12), still[1], 0.0)
    elif action == "left":
        x, y = random.uniform(0.42, 0.52), random.uniform(0.12, 0.17)
        hold(*[(x, y - 0.3 * step, half) for step in steps])
        still = (float(x + 0.17), float(random.uniform(-0.1, 0.1)), 0.0)
    elif action in ("stack", "insert"):
        kind = "block" if action == "stack" else "box"
        top = 0.1 if action == "stack" else 0.012
        high = 0.22
        there = (still[0], still[1], top + half)
        hold(at, (x, y, high), (*there[:2], high), there)
    else:
        mirror = float(random.choice([-1, 1]))
        x, kind = random.uniform(0.44, 0.54), "cabinet"
        still = (float(x), -0.15 * mirror, mirror)
        for step in steps:
            handle = (x, (-0.15 + 0.125 + 0.16 * step) * mirror, 0.06)
            moments.append(_Moment((handle[0], handle[1] + 0.03 * mirror, handle[2]), grip, (x, handle[1], 0.06)))
    tint = random.uniform(0.78, 0.97)
    return _Clip(
        name=name,
        action=action,
        shape=shape,
        moments=tuple(moments),
        still=still,
        still_kind=kind,
        camera=(float(random.uniform(76, 104)), float(random.uniform(-34, -26)), float(random.uniform(0.88, 0.98))),
        light=(float(random.uniform(0.6, 1.2)), float(random.uniform(-0.8, 0.8)), 1.8),
        floor=(tint, tint * float(random.uniform(0.93, 1)), tint * float(random.uniform(0.85, 1))),
    )


def _between(start: Point, end: Point, step: float) -> Point:
    x, y, z = (one + (other - one) * step for one, other in zip(start, end, strict=True))
    return x, y, z


class _Stage:
    """The arm on its floor before the camera."""

    def __init__(self, bullet: Any, models: Path) -> None:
        self.bullet = bullet
        self.arm = bullet.loadURDF(str(models / "franka_panda" / "panda.urdf"), useFixedBase=True)

    def render(self, clip: _Clip) -> Iterator[tuple[bytes, bytes]]:
        """Frame and mask of each moment, as WebP. Mask channels: what is moved, the second object, nothing."""
        floor = self._body([("box", (3, 3, 0.01), (0, 0, -0.011))], (*clip.floor, 1))
        moved = self._object(clip.shape, 1.0)
        cabinet = clip.still_kind == "cabinet"
        second = self._cabinet() if cabinet else self._object(clip.still_kind, 1.0)
        turn = self._turn(clip.still[2]) if cabinet else (0, 0, 0, 1)
        height = 0.0 if clip.still_kind in ("block", "box", "cabinet") else HALF[clip.still_kind]
        self.bullet.resetBasePositionAndOrientation(second, (*clip.still[:2], height), turn)
        try:
            for moment in clip.moments:
                self._pose(moment, turn_hand=cabinet)
                self.bullet.resetBasePositionAndOrientation(moved, moment.moved, turn)
                yield self._photograph(clip, (moved, second))
        finally:
            for body in (floor, moved, second):
                self.bullet.removeBody(body)

    def _pose(self, moment: _Moment, *, turn_hand: bool) -> None:
        down = self.bullet.getQuaternionFromEuler([np.pi, 0, np.pi / 2 if turn_hand else 0])
        for joint, angle in enumerate(REST):
            self.bullet.resetJointState(self.arm, joint, angle)
        for _ in range(5):
            angles = self.bullet.calculateInverseKinematics(self.arm, HAND, moment.hand, down, maxNumIterations=200, residualThreshold=1e-5)
            for joint in range(len(REST)):
                self.bullet.resetJointState(self.arm, joint, angles[joint])
        for joint in FINGERS:
            self.bullet.resetJointState(self.arm, joint, moment.fingers)

    def _photograph(self, clip: _Clip, bodies: tuple[int, int]) -> tuple[bytes, bytes]:
        yaw, pitch, distance = clip.camera
        view = self.bullet.computeViewMatrixFromYawPitchRoll((0.46, 0, 0.1), distance, yaw, pitch, 0, 2)
        lens = self.bullet.computeProjectionMatrixFOV(40, 1, 0.05, 5)
        side = RENDERED_SIDE
        _, _, colours, _, owners = self.bullet.getCameraImage(
            side, side, view, lens, renderer=self.bullet.ER_TINY_RENDERER, shadow=1, lightDirection=clip.light
        )
        frame = Image.fromarray(np.reshape(colours, (side, side, 4))[..., :3].astype(np.uint8))
        masks = [(np.reshape(owners, (side, side)) == body).astype(np.uint8) * 255 for body in bodies]
        mask = Image.fromarray(np.stack([*masks, np.zeros_like(masks[0])], 2))
        small = [picture.resize((SIDE, SIDE), Image.Resampling.BOX) for picture in (frame, mask)]
        return _webp(small[0], quality=QUALITY), _webp(small[1], lossless=True)

    def _object(self, kind: str, size: float) -> int:
        if kind == "cube":
            return self._body([("box", (HALF["cube"],) * 3, (0, 0, 0))])
        if kind == "ball":
            return self._body([("ball", HALF["ball"], (0, 0, 0))])
        if kind == "can":
            return self._body([("cylinder", (GRIP["can"], 2 * HALF["can"]), (0, 0, 0))])
        if kind == "block":
            return self._body([("box", (0.05, 0.05, 0.05), (0, 0, 0.05))])
        if kind == "box":
            walls = [((0.07, 0.006, 0.035), (0, side * 0.07, 0.035)) for side in (-1, 1)]
            walls += [((0.006, 0.07, 0.035), (side * 0.07, 0, 0.035)) for side in (-1, 1)]
            return self._body([("box", half, place) for half, place in [*walls, ((0.07, 0.07, 0.004), (0, 0, 0.004))]])
        # The drawer: its front with the handle at the origin, the tray behind it.
        parts: list[tuple[Point, Point]] = [((0.09, 0.006, 0.05), (0, 0, 0)), ((0.03, 0.006, 0.006), (0, 0.03, 0))]
        parts += [((0.004, 0.015, 0.004), (side * 0.026, 0.018, 0)) for side in (-1, 1)]
        parts += [((0.004, 0.08, 0.035), (side * 0.08, -0.085, -0.01)) for side in (-1, 1)]
        parts += [((0.08, 0.08, 0.004), (0, -0.085, -0.042)), ((0.08, 0.004, 0.035), (0, -0.165, -0.01))]
        return self._body([("box", half, place) for half, place in parts])

    def _cabinet(self) -> int:
        """A shell open towards +y; the drawer's front closes it."""
        walls: list[tuple[Point, Point]] = [((0.008, 0.115, 0.065), (side * 0.1, 0, 0.065)) for side in (-1, 1)]
        walls += [((0.108, 0.115, 0.006), (0, 0, height)) for height in (0.006, 0.124)]
        walls.append(((0.108, 0.006, 0.065), (0, -0.115, 0.065)))
        return self._body([("box", half, place) for half, place in walls], (0.62, 0.5, 0.4, 1))

    def _body(self, parts: list[tuple[str, Any, Point]], colour: tuple[float, ...] = (1, 1, 1, 1)) -> int:
        kinds = {"box": self.bullet.GEOM_BOX, "ball": self.bullet.GEOM_SPHERE, "cylinder": self.bullet.GEOM_CYLINDER}
        shapes = []
        for kind, size, place in parts:
            options: dict[str, Any] = {"halfExtents": size} if kind == "box" else {}
            if kind == "ball":
                options = {"radius": size}
            elif kind == "cylinder":
                options = {"radius": size[0], "length": size[1]}
            shapes.append((kinds[kind], options, place))
        if len(shapes) == 1:
            form, options, place = shapes[0]
            visual = self.bullet.createVisualShape(form, rgbaColor=colour, visualFramePosition=place, **options)
        else:
            visual = self.bullet.createVisualShapeArray(
                shapeTypes=[form for form, _, _ in shapes],
                halfExtents=[options["halfExtents"] for _, options, _ in shapes],
                visualFramePositions=[place for _, _, place in shapes],
                rgbaColors=[colour] * len(shapes),
            )
        return self.bullet.createMultiBody(0, -1, visual, (0, 0, 0))

    def _turn(self, mirror: float) -> tuple[float, ...]:
        return self.bullet.getQuaternionFromEuler((0, 0, 0 if mirror > 0 else np.pi))


def _webp(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", method=6, **options)
    return buffer.getvalue()
