"""One training step of the mid-size model, ours against the published form: `python benchmarks/train_step.py` prints JSON lines.

The same weights, the same sample and the same step (forward, both losses, backward, AdamW); inside the other path every MMFS and every
deformable attention of the visual tokenizer runs in the published form, the UNet's attention as diffusers chooses it and AdamW as torch
does; ours takes the attention that is faster with gradients and the fused AdamW and keeps the memory that it frees, as `mmi train` does. A
sample is one document of two pictures, read and painted. `train_step_memory_kept` is the same where the other path keeps its memory too.
`seconds` is the time of one step, so `ratio` is also the ratio of samples per second.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from measuring import compare, machine, report
from mid import mid_network
from published import as_published

from mm_interleaved.batch import IGNORED_TARGET, Batch, NoiseDraw
from mm_interleaved.model.configuration import MMInterleavedConfig


def sample(config: MMInterleavedConfig, tokens: int, images: int) -> tuple[Batch, NoiseDraw]:
    """A document of evenly spaced pictures between random words, and the random numbers of its painted pictures."""
    draw = torch.Generator().manual_seed(0)
    slot, decoder = config.image_tokens, config.image_decoder_part
    ids = torch.randint(3, 31000, (1, tokens), generator=draw)
    begins = [(place + 1) * (tokens - (slot + 1) * images) // (images + 1) + place * (slot + 1) for place in range(images)]
    targets = ids.roll(-1, dims=1)
    for begin in begins:
        ids[0, begin], ids[0, begin + 1 : begin + 1 + slot] = config.begin_image_token_id, config.image_token_id
        targets[0, begin : begin + slot] = IGNORED_TARGET
        targets[0, begin - 1] = config.begin_image_token_id
    side, latent = decoder.image_side, decoder.unet["sample_size"]
    batch = Batch(
        token_ids=ids,
        document_index=torch.zeros_like(ids),
        position_ids=torch.arange(tokens)[None],
        targets=targets,
        pixels=torch.rand(images, 3, config.image_side, config.image_side, generator=draw),
        target_pixels=torch.rand(images, 3, side, side, generator=draw),
        target_image=torch.arange(images),
        target_weight=torch.ones(images),
        image_row=torch.zeros(images, dtype=torch.long),
        image_begin=torch.tensor(begins),
        row_images=torch.arange(images)[None],
    )
    noise, posterior = torch.randn(2, images, decoder.unet["in_channels"], latent, latent, generator=draw)
    timestep = torch.randint(0, 1000, (images,), generator=draw)
    return batch.check(), NoiseDraw(noise=noise, timestep=timestep, posterior=posterior, drop=torch.ones(images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512, help="length of the document")
    parser.add_argument("--images", type=int, default=2, help="pictures of the document")
    parser.add_argument("--repeats", type=int, default=5, help="counted steps of each path")
    chosen = parser.parse_args()
    report(machine())
    model = mid_network().train()
    batch, draw = sample(model.config, chosen.tokens, chosen.images)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # A learning rate of 0: both paths do all the work of a step and keep the same weights.
    optimizers = {path: torch.optim.AdamW(learnt, lr=0.0, fused=path == "ours" or None) for path in ("ours", "published_form")}
    painter: Any = model.image_decoder
    losses = {}

    def step(path: str) -> None:
        optimizer = optimizers[path]
        painter.choose_attention("cpu", backward=path == "ours")
        torch.manual_seed(0)  # the resampler's dropout
        optimizer.zero_grad(set_to_none=True)
        total = model.forward_batch(batch, draw).loss
        total.backward()
        optimizer.step()
        losses[path] = float(total.detach())

    def published() -> None:
        with as_published():
            step("published_form")

    for case, kept in {"train_step": False, "train_step_memory_kept": True}.items():
        compare(
            case,
            "ours",
            lambda: step("ours"),
            "published_form",
            published,
            repeats=chosen.repeats,
            at_most=250.0,
            against_keeps_memory=kept,
            tokens=chosen.tokens,
            images=chosen.images,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
        )
    report({"case": "train_step_losses", **losses})


if __name__ == "__main__":
    main()
