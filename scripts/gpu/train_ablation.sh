#!/usr/bin/env bash
# What the synchronizers bring, on a GPU: a model that reads the picture tokens goes on learning on the same samples, with new synchronizers, without at
# as many steps, and without with four times the tokens a picture in as much time. scripts/gpu/train_ablation.sh pack | lighten | three | await |
# measure (lent.sh says what the others do); some 12 minutes. Then docs/results.md.
RECIPES=(recipes/ablation/mmfs-with.yaml recipes/ablation/mmfs-without.yaml recipes/ablation/mmfs-without-64.yaml)
RESULT=runs/mmfs-without-64
SHIPPED=final
TASKS=caption,question,handwriting,robot,screens,referring,two_roles,layout_map

before() { # the model in the box, its tokens made to differ, its words taught to read them
  [ -d runs/reading-tokens-64 ] && return
  python_here scripts/whiten_tokens.py src/mm_interleaved/box/nano runs/nano-white
  (one_recipe recipes/parts/reading-tokens.yaml)
  python_here scripts/repeat_queries.py runs/reading-tokens/final runs/reading-tokens-64
}

three() { launch turns; }

turns() { # the third is fitted to the time that the first took
  local began=$SECONDS took
  mkdir -p $THERE && rm -f $THERE/over
  echo $(($(date +%s) + 600)) >$THERE/deadline
  (one_recipe "${RECIPES[0]}")
  took=$((SECONDS - began))
  (one_recipe "${RECIPES[1]}")
  echo $(($(date +%s) + took)) >$THERE/deadline
  echo "${RECIPES[0]} took $took seconds"
  RECIPES=("${RECIPES[2]}")
  hurry
}

measure() { # all three beside each other, on the CPU's cores
  local name
  for name in mmfs-with mmfs-without mmfs-without-64; do
    mmi evaluate --suite demonstrations --tasks $TASKS --model runs/$name/final --n "${SAMPLES:-200}" --processes "${PROCESSES:-4}" \
      --no-ablation -o "$OUT/$name" >"$OUT/$name.log" 2>&1 &
  done
  wait
  tail --lines 12 "$OUT"/mmfs-*.log
}
changes_for() {
  CHANGES=(--set training.batch_size=256 --set training.threads=2 --set training.workers=14 --set training.prefetch=28)
  case $1 in
    */reading-tokens.yaml) CHANGES+=(--set training.steps=340) ;;
    *) CHANGES+=(--set training.steps=400) ;;
  esac
}
source "$(dirname "${BASH_SOURCE[0]}")/lent.sh"
