#!/usr/bin/env bash
# The model in the box goes on learning all tasks on a GPU: scripts/gpu/train_nano.sh pack | lighten | within 400 | await | bring …
# (lent.sh says what each does and where). Then here: `join`, scripts/make_box.py, docs/results.md.
RECIPES=(recipes/playground-nano-full.yaml)
RESULT=runs/playground-nano-full
SHIPPED=final
CHANGES=(--set model=src/mm_interleaved/box/nano --set 'init=[]')
source "$(dirname "${BASH_SOURCE[0]}")/lent.sh"
