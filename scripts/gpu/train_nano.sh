#!/usr/bin/env bash
# The model in the box learns to paint from the wide pack and goes on learning all tasks, on a GPU: scripts/gpu/train_nano.sh
# pack | lighten | install | within 700 | await | bring … (lent.sh says what each does and where). `install` is a call of its own, which
# brings .gpu; `within` brings packs/wide (`mmi data build PACKAGES --part wide -o packs/wide`) instead, both at once are too much. Then here:
# `join`, scripts/make_box.py, docs/results.md.
RECIPES=(recipes/parts/painting-wide.yaml recipes/playground-nano-drawn.yaml)
LIMITS=(380)
RESULT=runs/playground-nano-drawn
SHIPPED=final
CARRY=packs/wide
BOX=src/mm_interleaved/box/nano
START=${START:-runs/playground-nano-wide/final}  # what goes on learning

changes_for() { # it stands in the place of the box, which stands for the runs that it came from
  CHANGES=(--set init=[] --set model_changes={} --set training.batch_size=256 --set training.threads=2 --set training.workers=14 --set training.prefetch=28)
  case $1 in
    */painting-wide.yaml) CHANGES+=(--set model=$BOX --set training.steps=2000 --set data.together=256) ;;
    *) CHANGES+=(--set model=runs/painting-wide/final --set training.steps=400) ;;
  esac
}
source "$(dirname "${BASH_SOURCE[0]}")/lent.sh"
