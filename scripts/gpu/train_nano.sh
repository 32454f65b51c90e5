#!/usr/bin/env bash
# The model in the box goes on learning all tasks on a GPU: scripts/gpu/train_nano.sh pack | start | look | finish | bring | evaluate …
# (lent.sh says what each does and where). Then here: `join`, scripts/make_box.py, docs/results.md.
RECIPES=(recipes/playground-nano.yaml)
RESULT=runs/playground-nano
SHIPPED=final
CHANGES=(--set model=src/mm_interleaved/box/nano --set 'init=[]' --set training.steps=30000 --set training.save_every=1000)
source "$(dirname "${BASH_SOURCE[0]}")/lent.sh"
