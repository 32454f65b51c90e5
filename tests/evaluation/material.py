"""Small official files, pictures and networks of our own making."""

import json

import numpy as np
import torch

from mm_interleaved.document import Image


def write(path, values):
    """Values as a JSON file, or as JSON lines where the name says so."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values) if path.suffix == ".jsonl" else json.dumps(values), "utf-8")
    return path


def paint(folder, *names, side=40, width=None):
    """A folder of random pictures, twice as wide as high unless told otherwise."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 256, (side, width or side * 2, 3), np.uint8)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(Image.from_array(pixels).data)
    return folder


def save_clip(folder, *, seed=0):
    """A tiny random CLIP with its tokenizer (letters) and processor, as transformers saves it."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    vocabulary = {
        token: number
        for number, token in enumerate([*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"])
    }
    end = vocabulary["<|endoftext|>"]
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 8}
    ids = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    words = {**sizes, **ids, "vocab_size": len(vocabulary), "max_position_embeddings": 77}
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=words, vision_config={**sizes, "image_size": 16, "patch_size": 8}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def save_segmenter(folder, *, classes=150, seed=0):
    """A tiny random SegFormer with its processor, as transformers saves it."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessorPil

    sizes = {
        "num_encoder_blocks": 2,
        "depths": [1, 1],
        "sr_ratios": [2, 1],
        "hidden_sizes": [8, 16],
        "patch_sizes": [3, 3],
        "strides": [2, 2],
    }
    heads = {"num_attention_heads": [1, 2], "mlp_ratios": [1, 1], "decoder_hidden_size": 16, "num_labels": classes}
    torch.manual_seed(seed)
    SegformerForSemanticSegmentation(SegformerConfig(**sizes, **heads)).save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
