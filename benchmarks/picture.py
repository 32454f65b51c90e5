"""Pictures: `python benchmarks/picture.py` prints one JSON object per way of denoising and decoding.

`denoising_step`     the engine's step (both branches in one batch, values kept) against the released one (values of the picture before
                     projected again, MMFS in the released form)
`branches_together`  both branches of guidance in one batch against one after the other
`pictures_N`         a step of N pictures of N documents in one batch against N batches
`step_after_N`       a step that reads N earlier pictures against one that reads the first (`ours`)
`bfloat16_step`      against float32
`solver_step`        DPM-Solver++'s own arithmetic against DDPM's, without the network
`vae_tiled`          decoding in tiles against at once: time here, memory on large pictures

How many steps a sampler needs for equal quality is measured by `picture_quality.py`. `--quick` runs each pair once; its figures mean
nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from measuring import compare, machine, report
from mid import mid_model
from published import as_published
from torch import Tensor

from mm_interleaved.generation.image import Painting, denoise_step
from mm_interleaved.generation.load import Model
from mm_interleaved.generation.random import generator_for
from mm_interleaved.generation.samplers import sampler_for
from mm_interleaved.model.feature_cache import FeatureCache

STEPS = 500
"""So many steps that none of the runs comes to an end."""

GUIDANCE = 7.5


def cache_of(model: Model, pictures: int, seed: int = 0) -> FeatureCache:
    """Pictures of noise in a cache, their values projected."""
    network, cache = model.network, model.network.new_feature_cache()
    side = network.config.image_side
    with torch.no_grad():
        for number in range(pictures):
            pixels = torch.rand(1, 3, side, side, generator=generator_for(seed, "image", number)).to(network.dtype)
            network.remember(cache, network.encode_images(pixels))
        cache.image_values()
    return cache


def painting(model: Model, seed: int = 0, sampler: str = "plain") -> Painting:
    decoder = model.network.image_decoder
    negative = decoder.negative_condition(1).detach()
    condition = torch.randn(negative.shape, generator=generator_for(seed, "text", 0)).to(negative.dtype)
    return Painting(
        decoder.schedule,
        sampler_for(sampler, decoder.schedule, STEPS, torch.device("cpu")),
        condition=condition,
        negative=negative,
        guidance=GUIDANCE,
        steps=STEPS,
        shape=(decoder.latent_channels, decoder.latent_side, decoder.latent_side),
        generator=generator_for(seed, "image", 0),
    )


def step(model: Model, caches: list[FeatureCache], *, apart: bool = False) -> Callable[[], None]:
    """One step of one picture per cache; `apart` computes the branches one after the other."""
    paintings = [painting(model, seed) for seed in range(len(caches))]

    def predict(latents: Tensor, timestep: Tensor, condition: Tensor, rows: list[list[int]]) -> Tensor:
        if not apart:
            return model.network.predict_noise(latents, timestep, condition, caches, rows)
        parts = [slice(row, row + 1) for row in range(latents.shape[0])]
        return torch.cat([model.network.predict_noise(latents[one], timestep[one], condition[one], caches) for one in parts])

    return lambda: denoise_step(predict, paintings)


def step_as_published(model: Model) -> Callable[[], None]:
    network, one = model.network, painting(model)
    decoder, side = network.image_decoder, network.config.image_side
    with torch.no_grad():
        maps = network.encode_images(torch.rand(1, 3, side, side)).maps
    flat = torch.cat([maps[level].flatten(2).transpose(1, 2) for level in network.image_levels], dim=1)[None].expand(2, -1, -1, -1)

    def predict(latents: Tensor, timestep: Tensor, condition: Tensor, rows: object) -> Tensor:
        with as_published():
            values, visible = decoder.project_features(flat), torch.ones(2, 1, dtype=torch.bool)
            return decoder.predict(latents, timestep, condition, values, visible, network.image_shapes)

    return lambda: denoise_step(predict, [one])


def _each(steps: list[Callable[[], None]]) -> Callable[[], None]:
    def run() -> None:
        for one in steps:
            one()

    return run


def _vae(model: Model, quick: bool) -> None:
    decoder = model.network.image_decoder
    latents = torch.randn(1, decoder.latent_channels, *(2 * [decoder.latent_side * (1 if quick else 2)]))

    @torch.no_grad()
    def tiled() -> None:
        decoder.vae.enable_tiling()
        decoder.decode(latents)

    @torch.no_grad()
    def whole() -> None:
        decoder.vae.disable_tiling()
        decoder.decode(latents)

    compare("vae_tiled", "tiles", tiled, "at once", whole, repeats=1 if quick else 3, side=8 * latents.shape[-1])
    decoder.vae.disable_tiling()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="each pair once")
    quick = parser.parse_args().quick
    settings = {"repeats": 1 if quick else 5, "at_most": 30.0}
    report(machine())
    model = mid_model()
    alone = step(model, [cache_of(model, 1)])
    compare("denoising_step", "ours", alone, "published", step_as_published(model), against_keeps_memory=False, **settings)
    compare("branches_together", "one batch", alone, "one after the other", step(model, [cache_of(model, 1)], apart=True), **settings)
    for count in (2,) if quick else (2, 4, 8):
        caches = [cache_of(model, 1, seed) for seed in range(count)]
        singles = [step(model, [cache]) for cache in caches]
        compare(f"pictures_{count}", "one batch", step(model, caches), "a batch each", _each(singles), **settings)
    early = mid_model(published=False)
    first = step(early, [cache_of(early, 1)])
    for count in (2,) if quick else (2, 4, 8):
        compare(f"step_after_{count}", "later", step(early, [cache_of(early, count)]), "first", first, **settings)
    half = mid_model(dtype=torch.bfloat16)
    compare("bfloat16_step", "bfloat16", step(half, [cache_of(half, 1)]), "float32", alone, dtype=torch.bfloat16, **settings)
    _solver(model, settings)
    _vae(model, quick)


def _solver(model: Model, settings: dict[str, float]) -> None:
    solver, plain = painting(model, sampler="dpm++"), painting(model)
    predicted = [torch.randn_like(plain.latents)] * 2
    compare("solver_step", "dpm++", lambda: solver.advance(predicted), "ddpm", lambda: plain.advance(predicted), **settings)


if __name__ == "__main__":
    main()
