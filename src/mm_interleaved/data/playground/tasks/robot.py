"""What a robot arm does, told from four frames. Every action has its reverse in the same frames backwards, so only their order decides."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image

from mm_interleaved.data.playground.material.clips import Clip, clips, frame, reverses
from mm_interleaved.data.playground.tasks import canvas
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose, fraction

FRAMES = 4
HELD_OUT = 0.15
"""Share of (action, object, colour) that training never shows."""
HELD_OUT_CLIPS = 1
"""Clips of each action and object, of eight, that training never shows."""

COLOURS: dict[str, tuple[canvas.Colour, str]] = {
    "red": ((214, 48, 48), "红色"),
    "green": ((58, 168, 74), "绿色"),
    "blue": ((52, 96, 214), "蓝色"),
    "yellow": ((240, 206, 48), "黄色"),
    "purple": ((140, 70, 190), "紫色"),
    "orange": ((240, 134, 38), "橙色"),
}
OBJECTS = {"cube": "方块", "ball": "小球", "can": "罐子", "drawer": "抽屉"}
ACTIONS: dict[str, dict[str, str]] = {
    "reach": {"en": "reaches for the {what}", "zh": "伸向{what}"},
    "retreat": {"en": "moves away from the {what}", "zh": "离开{what}"},
    "grasp": {"en": "grasps the {what}", "zh": "抓住{what}"},
    "release": {"en": "lets go of the {what}", "zh": "松开{what}"},
    "lift": {"en": "lifts the {what}", "zh": "提起{what}"},
    "lower": {"en": "puts down the {what}", "zh": "放下{what}"},
    "push": {"en": "pushes the {what} away from itself", "zh": "把{what}推远"},
    "pull": {"en": "pulls the {what} towards itself", "zh": "把{what}拉近"},
    "left": {"en": "moves the {what} to the left", "zh": "把{what}移到左边"},
    "right": {"en": "moves the {what} to the right", "zh": "把{what}移到右边"},
    "stack": {"en": "puts the {what} on the block", "zh": "把{what}放到积木上"},
    "unstack": {"en": "takes the {what} off the block", "zh": "把{what}从积木上拿下来"},
    "insert": {"en": "puts the {what} into the box", "zh": "把{what}放进盒子"},
    "remove": {"en": "takes the {what} out of the box", "zh": "把{what}从盒子里拿出来"},
    "open": {"en": "opens the {what}", "zh": "拉开{what}"},
    "close": {"en": "closes the {what}", "zh": "关上{what}"},
}
PROMPTS = {
    "en": (
        "what does the robot do? answer:",
        "the pictures follow each other. what is the robot doing? answer:",
        "describe the robot's action. answer:",
    ),
    "zh": ("机器人在做什么？答：", "这几张图是先后拍的，机器人做了什么？答：", "说出机器人的动作。答："),
}
ANSWER = {"en": " the robot {action}.", "zh": "机器人{action}。"}


def robot_action(world: World, random: np.random.Generator, side: int) -> Sample:
    """Four frames, the question, what the robot does to which object."""
    language = draw_language(world, random)
    action = choose(random, tuple(ACTIONS))
    shape, colour = choose(random, _combinations(action, world.config.split == "test"))
    backwards = {reverse: forward for forward, reverse in reverses().items()}
    clip = choose(random, _clips(backwards.get(action, action), shape, world.config.split == "test"))
    other = choose(random, [name for name in COLOURS if name != colour])
    brightness = 1 + 0.08 * float(random.uniform(-1, 1)) * min(1.0, world.config.jitter)
    order = range(FRAMES) if action not in backwards else range(FRAMES - 1, -1, -1)
    frames = [_frame(clip, number, colour, other, brightness, side) for number in order]
    what = _what(shape, colour, language)
    text = ANSWER[language].format(action=ACTIONS[action][language].format(what=what))
    segments: tuple[Segment, ...] = (*frames, choose(random, PROMPTS[language]), text)
    truth = {
        "language": language,
        "action": action,
        "shape": shape,
        "colour": colour,
        "answer": text.strip().rstrip(".。"),
        "answers": sum(len(_shapes(name)) for name in ACTIONS) * len(COLOURS),
        "scenes": [{"clip": clip.name, "frame": number, "colours": [colour, other]} for number in order],
    }
    return Sample("robot", segments, len(segments) - 1, truth)


def read(text: str, language: Language) -> tuple[str, str, str] | None:
    """Action, object and colour that a sentence names; None when it is no sentence about the robot."""
    for action, worded in ACTIONS.items():
        for shape in OBJECTS:
            for colour in COLOURS:
                what = _what(shape, colour, language)
                if text.strip() == ANSWER[language].format(action=worded[language].format(what=what)).strip().rstrip(".。"):
                    return action, shape, colour
    return None


def sentences() -> Iterator[str]:
    """Every text that this task is made of."""
    yield from (*PROMPTS["en"], *PROMPTS["zh"], *ANSWER.values(), *OBJECTS, *OBJECTS.values(), *COLOURS)
    for colour in COLOURS.values():
        yield colour[1]
    for action in ACTIONS.values():
        yield from action.values()


def is_held_out(action: str, shape: str, colour: str) -> bool:
    """Whether training never shows this action with this object in this colour."""
    return fraction("robot", action, shape, colour) < HELD_OUT


def _what(shape: str, colour: str, language: Language) -> str:
    return f"{colour} {shape}" if language == "en" else f"{COLOURS[colour][1]}{OBJECTS[shape]}"


def _shapes(action: str) -> tuple[str, ...]:
    return ("drawer",) if action in ("open", "close") else ("cube", "ball", "can")


@lru_cache(maxsize=64)
def _combinations(action: str, held_out: bool) -> tuple[tuple[str, str], ...]:
    found = [(shape, colour) for shape in _shapes(action) for colour in COLOURS]
    ranked = sorted(found, key=lambda pair: fraction("robot", action, *pair))
    few = [pair for pair in ranked if is_held_out(action, *pair)] or ranked[:1]
    return tuple(few) if held_out else tuple(pair for pair in found if pair not in few)


@lru_cache(maxsize=128)
def _clips(action: str, shape: str, held_out: bool) -> tuple[Clip, ...]:
    ranked = sorted(
        (clip for clip in clips() if clip.action == action and clip.shape == shape), key=lambda clip: fraction("clip", clip.name)
    )
    count = HELD_OUT_CLIPS * (2 if shape == "drawer" else 1)
    return tuple(ranked[:count] if held_out else ranked[count:])


def _frame(clip: Clip, number: int, colour: str, other: str, brightness: float, side: int) -> np.ndarray:
    if side < canvas.UNSEEN:
        return np.full((side, side, 3), 128, np.uint8)
    second = None if clip.second == "cabinet" else COLOURS[other][0]
    picture = frame(clip, number, COLOURS[colour][0], second)
    picture = picture.point([min(255, round(value * brightness)) for value in range(256)] * 3)
    if picture.width != side:
        picture = picture.resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture)
