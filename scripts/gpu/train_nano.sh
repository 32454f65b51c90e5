#!/usr/bin/env bash
# The model in the box gets new eyes, learns to read with them and goes on learning all tasks, on a GPU:
# scripts/gpu/train_nano.sh pack | lighten | within 700 | await | bring … (lent.sh says what each does and where). Then here: `join`,
# scripts/make_box.py, docs/results.md.
RECIPES=(recipes/parts/vision-varied.yaml recipes/parts/reading-varied.yaml recipes/playground-nano-varied.yaml)
LIMITS=(140 165)
RESULT=runs/playground-nano-varied
SHIPPED=final
BOX=src/mm_interleaved/box/nano

changes_for() { # the box stands for the runs that it came from, and its tokenizer need not be made again
  case $1 in
    */vision-varied.yaml) CHANGES=(--set tokenizer.texts=2000) ;;
    */reading-varied.yaml) CHANGES=(--set model=$BOX --set 'init=[{from: runs/vision-varied, parts: [visual_tokenizer]}]') ;;
    *) CHANGES=(--set model=$BOX) ;;
  esac
}
source "$(dirname "${BASH_SOURCE[0]}")/lent.sh"
