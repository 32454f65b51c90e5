"""Tasks that end in one picture: text to picture, and a named thing in the style of a given picture."""

from __future__ import annotations

import numpy as np

from mm_interleaved.data.playground.scene import compose
from mm_interleaved.data.playground.tasks import wording
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample
from mm_interleaved.data.playground.world import World, choose


def picture(world: World, random: np.random.Generator, side: int) -> Sample:
    """A thing, a style and a ground in words, then the picture."""
    language = draw_language(world, random)
    thing, style = world.draw_pair(random)
    ground = world.draw_ground(random)
    scene = world.centred((thing, style), ground, random)
    named = wording.one(world.pack.things[thing], language, world.pack.styles[style])
    prompt = choose(random, wording.PICTURE_PROMPTS[language]).format(styled=named, ground=wording.ground_word(ground, language))
    truth = {
        "language": language,
        "thing": world.pack.things[thing].id,
        "style": world.pack.styles[style].id,
        "ground": ground,
        "scenes": [scene.as_json()],
    }
    return Sample("picture", (prompt, compose(scene, world.pack, side)), 1, truth)


def style(world: World, random: np.random.Generator, side: int) -> Sample:
    """A picture of one thing, then the wish for another thing in its style, then that picture on the same ground.

    In training the reference shows a named thing in a seen style; in the test split it shows a thing that training never showed.
    """
    language = draw_language(world, random)
    thing, target_style = world.draw_pair(random)
    if world.config.split == "test" and world.unseen_things:
        reference = choose(random, world.unseen_things)
    else:
        reference = choose(random, [other for other, styles in world.seen_styles_of.items() if other != thing and target_style in styles])
    ground = world.draw_ground(random)
    shown = world.centred((reference, target_style), ground, random)
    wanted = world.centred((thing, target_style), ground, random)
    prompt = choose(random, wording.STYLE_PROMPTS[language]).format(one=wording.one(world.pack.things[thing], language))
    truth = {
        "language": language,
        "thing": world.pack.things[thing].id,
        "style": world.pack.styles[target_style].id,
        "reference": world.pack.things[reference].id,
        "ground": ground,
        "scenes": [shown.as_json(), wanted.as_json()],
    }
    return Sample("style", (compose(shown, world.pack, side), prompt, compose(wanted, world.pack, side)), 2, truth)
