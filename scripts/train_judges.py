"""Trains the re-segmenter and the style judge on real composites, and measures both.

    python scripts/train_judges.py            # about twenty minutes on one busy core; writes the weights into the package
    python scripts/train_judges.py --resume   # goes on from those weights
    python scripts/train_judges.py --measure  # only measures: real pictures, through the autoencoder in the box, swapped labels

Training samples come from the train split, measured ones from the test split (held-out pairs and shapes, filter settings never shown).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from mm_interleaved.data.playground.canvas import Picture, class_map
from mm_interleaved.data.playground.judges import networks
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.world import World, WorldConfig

SEED = 40
STYLE_TASKS = ("style_named", "context_style", "context_style", "layout_map")
MEASURED = 400


def segment_samples(world: World, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures of the task `layout_map` with their exact maps."""
    index = 0
    while True:
        made = sample("layout_map", world, seed, index, side=networks.PICTURE_SIDE)
        picture = made.segments[2]
        assert isinstance(picture, np.ndarray)
        yield picture, class_map(Picture.from_json(made.truth["scenes"][1]), world.pack, networks.PICTURE_SIDE)
        index += 1


def style_samples(world: World, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """The last pictures of tasks that end in one picture, with the style or the family of the filter."""
    index = 0
    while True:
        made = sample(STYLE_TASKS[index % len(STYLE_TASKS)], world, seed, index, side=networks.PICTURE_SIDE)
        picture = made.segments[-1]
        assert isinstance(picture, np.ndarray)
        chosen = made.truth.get("filter")
        yield picture, networks.STYLES.index(made.truth["style"] if chosen is None else chosen[0])
        index += 1


def train(network: torch.nn.Module, samples: Iterator, steps: int, batch: int, name: str) -> None:
    """AdamW with one cycle of the learning rate, cross entropy over pixels or pictures."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    started = time.time()
    for step in range(steps):
        pictures, labels = zip(*(next(samples) for _ in range(batch)), strict=True)
        target = torch.from_numpy(np.stack(labels)).long()
        pixels = networks.as_pixels(pictures)
        # In half of the pictures brightness and noise vary a little: generated ones are never exact, real ones are.
        varied = (torch.rand(batch, 1, 1, 1) < 0.5).float()
        pixels = pixels + varied * (0.02 * torch.randn(batch, 3, 1, 1) + 0.01 * torch.randn_like(pixels))
        loss = functional.cross_entropy(network(pixels.clamp(0, 1)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"{name} {step}/{steps} loss {loss.item():.3f} {time.time() - started:.0f} s", flush=True)
    weights = {
        key: (value.detach().half() if value.is_floating_point() else value).contiguous() for key, value in network.state_dict().items()
    }
    save_file(weights, networks.FOLDER / name)
    print(f"{networks.FOLDER / name}: {(networks.FOLDER / name).stat().st_size / 1e3:.0f} kB", flush=True)


def through_autoencoder(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """The pictures as the box's image decoder could draw them at best."""
    from mm_interleaved.generation.load import load

    vae = load().network.image_decoder.vae
    made = []
    with torch.inference_mode():
        for first in range(0, len(pictures), 16):
            pixels = networks.as_pixels(pictures[first : first + 16])
            decoded = vae.decode(vae.encode(2 * pixels - 1).latent_dist.mode()).sample
            made += [((row.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy() for row in decoded]
    return made


def measure() -> None:
    """Both judges on the test split."""
    world = World(Pack.load(), WorldConfig(split="test"))
    taken = [next(source) for source in [segment_samples(world, SEED + 1)] for _ in range(MEASURED)]
    pictures, maps = [picture for picture, _ in taken], [classes for _, classes in taken]
    for words, seen in (("real", pictures), ("through the autoencoder", through_autoencoder(pictures))):
        found = networks.segment(seen)
        overlaps = [networks.mean_overlap(one, other) for one, other in zip(found, maps, strict=True)]
        swapped = [networks.mean_overlap(one, other) for one, other in zip(found, maps[1:] + maps[:1], strict=True)]
        right = np.mean([(one == other).mean() for one, other in zip(found, maps, strict=True)])
        print(f"segmenter, {words}: mIoU {np.mean(overlaps):.3f}, pixels right {right:.3f}, swapped labels mIoU {np.mean(swapped):.3f}")
    source = style_samples(world, SEED + 1)
    labelled = [next(source) for _ in range(MEASURED)]
    pictures = [picture for picture, _ in labelled]
    labels = [networks.STYLES[label] for _, label in labelled]
    for words, seen in (("real", pictures), ("through the autoencoder", through_autoencoder(pictures))):
        named = networks.name_styles(seen)
        right = np.mean([one == other for one, other in zip(named, labels, strict=True)])
        swapped = np.mean([one == other for one, other in zip(named, labels[7:] + labels[:7], strict=True)])
        print(f"style judge, {words}: {right:.3f}, swapped labels {swapped:.3f} (the classes are not equally common)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="only measure the weights in the package")
    parser.add_argument("--resume", action="store_true", help="go on from the weights in the package")
    parser.add_argument("--steps", type=int, default=1000, help="of the segmenter")
    parser.add_argument("--style-steps", type=int, default=500, help="of the style judge")
    given = parser.parse_args()
    if not given.measure:
        torch.manual_seed(SEED)
        world = World(Pack.load(), WorldConfig(chinese=0.0))
        # Other samples than before: a resumed training must not see the first ones again.
        seed = SEED + 2 if given.resume else SEED
        style_judge, segmenter = (
            (networks.style_judge(), networks.segmenter()) if given.resume else (networks.StyleJudge(), networks.Segmenter())
        )
        train(segmenter.train(), segment_samples(world, seed), given.steps, 16, networks.SEGMENTER)
        train(style_judge.train(), style_samples(world, seed), given.style_steps, 32, networks.STYLE_JUDGE)
    measure()


if __name__ == "__main__":
    main()
