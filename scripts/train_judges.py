"""Trains the re-segmenter and the style judge on real composites, and measures both.

    python scripts/train_judges.py            # about half an hour beside other work; writes the weights into the package
    python scripts/train_judges.py --resume   # goes on from those weights
    python scripts/train_judges.py --measure  # only measures: real pictures, through the autoencoder in the box, swapped labels

A judge has to know every drawing, as the template match does: half of its pictures come from each side of the held-out line. What it never
saw is a picture of the model, or one of those that are measured, which are composed from another seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from mm_interleaved.data.playground.canvas import Picture, class_map
from mm_interleaved.data.playground.judges import networks
from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.tasks import sample
from mm_interleaved.data.playground.world import World, WorldConfig

SEED = 40
PICTURES = 24_000
"""Pictures that are composed; with more steps they come again."""
BLUR, TINT, BRIGHTNESS, NOISE = 1.0, 0.06, 0.12, 0.05
"""How much of a 3 × 3 mean, shifts of each colour and of all, and the largest deviation of noise, in sRGB from 0 to 1."""
STYLE_TASKS = ("style_named", "context_style", "context_style", "layout_map")
MEASURED = 400


def segment_samples(worlds: Sequence[World], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures of the task `layout_map` with their exact maps, from each world in turn."""
    index = 0
    while True:
        world = worlds[index % len(worlds)]
        made = sample("layout_map", world, seed, index, side=networks.PICTURE_SIDE)
        picture = made.segments[2]
        assert isinstance(picture, np.ndarray)
        yield picture, class_map(Picture.from_json(made.truth["scenes"][1]), world.pack, networks.PICTURE_SIDE)
        index += 1


def style_samples(worlds: Sequence[World], seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """The last pictures of tasks that end in one picture, with the style or the family of the filter, from each world in turn."""
    index = 0
    while True:
        task, world = STYLE_TASKS[index % len(STYLE_TASKS)], worlds[index // len(STYLE_TASKS) % len(worlds)]
        made = sample(task, world, seed, index, side=networks.PICTURE_SIDE)
        picture = made.segments[-1]
        assert isinstance(picture, np.ndarray)
        chosen = made.truth.get("filter")
        yield picture, networks.STYLES.index(made.truth["style"] if chosen is None else chosen[0])
        index += 1


def spoiled(pixels: Float[Tensor, "B 3 H W"], random: torch.Generator) -> Float[Tensor, "B 3 H W"]:
    """Pictures that are as inexact as generated ones: half of them a little blurred, brighter or darker, tinted and noisy."""
    count = len(pixels)

    def some(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=random)

    soft = functional.avg_pool2d(functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    changed = torch.lerp(pixels, soft, some(1, 1, 1) * BLUR) + TINT * (some(3, 1, 1) - 0.5) + BRIGHTNESS * (some(1, 1, 1) - 0.5)
    changed = changed + NOISE * some(1, 1, 1) * torch.randn(pixels.shape, generator=random)
    return torch.where(some(1, 1, 1) < 0.5, changed, pixels).clamp(0, 1)


def train(network: torch.nn.Module, samples: Iterator, steps: int, batch: int, name: str) -> None:
    """AdamW with one cycle of the learning rate, cross entropy over pixels or pictures.

    The first pictures are composed once and come again in another order, mirrored or not and spoiled in another way.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    random = torch.Generator().manual_seed(SEED)
    started = time.time()
    pictures, labels = zip(*islice(samples, min(PICTURES, steps * batch)), strict=True)
    pictures, labels = np.stack(pictures), torch.from_numpy(np.stack(labels)).long()
    print(f"{name}: {len(pictures)} pictures composed in {time.time() - started:.0f} s", flush=True)
    order = torch.cat([torch.randperm(len(pictures), generator=random) for _ in range(1 + steps * batch // len(pictures))])
    for step in range(steps):
        chosen = order[step * batch : (step + 1) * batch]
        pixels, target = networks.as_pixels(pictures[chosen.numpy()]), labels[chosen]
        if torch.rand((), generator=random) < 0.5:
            pixels, target = pixels.flip(-1), target.flip(-1) if target.ndim > 1 else target
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = functional.cross_entropy(network(spoiled(pixels, random)).float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == steps - 1:
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
    taken = list(islice(segment_samples([world], SEED + 1), MEASURED))
    pictures, maps = [picture for picture, _ in taken], [classes for _, classes in taken]
    for words, seen in (("real", pictures), ("through the autoencoder", through_autoencoder(pictures))):
        found = networks.segment(seen)
        overlaps = [networks.mean_overlap(one, other) for one, other in zip(found, maps, strict=True)]
        swapped = [networks.mean_overlap(one, other) for one, other in zip(found, maps[1:] + maps[:1], strict=True)]
        right = np.mean([(one == other).mean() for one, other in zip(found, maps, strict=True)])
        print(f"segmenter, {words}: mIoU {np.mean(overlaps):.3f}, pixels right {right:.3f}, swapped labels mIoU {np.mean(swapped):.3f}")
    labelled = list(islice(style_samples([world], SEED + 1), MEASURED))
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
    parser.add_argument("--steps", type=int, default=6000, help="of the segmenter, 32 pictures each; 0 leaves it as it is")
    parser.add_argument("--style-steps", type=int, default=2000, help="of the style judge, 32 pictures each; 0 leaves it as it is")
    given = parser.parse_args()
    if not given.measure:
        torch.manual_seed(SEED)
        pack = Pack.load()
        worlds = [World(pack, WorldConfig(chinese=0.0, split=split)) for split in ("train", "test")]
        # Other samples than before: a resumed training must not see the first ones again.
        seed = SEED + 2 if given.resume else SEED
        style_judge, segmenter = (
            (networks.style_judge(), networks.segmenter()) if given.resume else (networks.StyleJudge(), networks.Segmenter())
        )
        if given.steps:
            train(segmenter.train(), segment_samples(worlds, seed), given.steps, 32, networks.SEGMENTER)
        if given.style_steps:
            train(style_judge.train(), style_samples(worlds, seed), given.style_steps, 32, networks.STYLE_JUDGE)
    measure()


if __name__ == "__main__":
    main()
