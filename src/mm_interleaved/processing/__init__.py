"""Documents → tokens and pixels: tokenizer, layout, images, collate, processor. The model is not imported here."""
