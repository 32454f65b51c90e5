# Training on a GPU machine that is lent in short calls: it starts bare, receives the working tree and .gpu/ (64 MiB a call), gives
# back at most 8 files of 16 MiB, and keeps running what was started with setsid while later calls only look. Read by train_nano.sh and
# train_smol.sh, which set RECIPES (in order), CHANGES (--set for all of them; or `changes_for RECIPE` sets it), LIMITS (seconds of all
# but the last recipe, for `within`), RESULT (the last run's folder), SHIPPED (what of it is brought back), PIECES (large files to carry),
# CARRY (ignored paths that travel too), START and BOX (a folder whose files travel in the place of the box's) and `before` (what makes the
# model they start from).
#
# Here:   pack                 wheels that are missing there and pieces of large files, into .gpu/; says what each call carries
#         lighten, restore     empties files that nothing there needs (recorded tensors of tests) and puts START into the box's place; takes
#                              them back from git
# There:  install              what the calls after it need; where a call carries more than fits beside .gpu
#         start                installs, joins the pieces, starts the chain in the background
#         within SECONDS       the same, to be over in so many seconds from now: after a minute the last recipe gets the steps that fit
#         await                waits for that end; then `bring`
#         look                 last losses, plots to $OUT
#         finish               stops the chain after its present step and makes the final (averaged) weights of what it has
#         bring [FIRST]        four pieces of 15 MiB of what is shipped to $OUT
#         evaluate             held-out figures of the final model to $OUT
# Here:   join FROM TO         puts the pieces together again and compares their checksum
#         dry                  the whole chain on this machine's CPU, 20 steps of 4 documents each, then bring and join
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
OUT=${OUT:-.gpu/out}
WHEELS=(diffusers importlib-metadata pydantic pydantic-core annotated-types typing-inspection braceexpand gguf)
PIECE=15728640
CARRIED=44040192
ALWAYS=()

THERE=.lent  # what stays on that machine between the calls
SITE=${SITE:-$THERE/site}
python_here() { PYTHONPATH="src:$SITE${PYTHONPATH:+:$PYTHONPATH}" "${PYTHON:-python3}" "$@"; }
mmi() { python_here -m mm_interleaved.cli.main "$@"; }

pack() {
  mkdir -p .gpu/wheels
  for name in "${WHEELS[@]}"; do
    version=$(sed -n "s/^$name==//pI" constraints.txt)
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
      --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest .gpu/wheels "$name${version:+==$version}"
  done
  for file in ${PIECES:-}; do
    mkdir -p ".gpu/pieces"
    split --bytes=$CARRIED --numeric-suffixes "$file" ".gpu/pieces/$(basename "$file")."
    (cd "$(dirname "$file")" && sha256sum "$(basename "$file")") > ".gpu/$(basename "$file").sha256"
  done
  tree=$(git ls-files --cached --others --exclude-standard -z | du --files0-from=- --bytes --total | tail -1 | cut -f1)
  echo "working tree $((tree / 1048576)) MiB (less after lighten), wheels $(du --bytes --summarize .gpu/wheels | awk '{print int($1 / 1048576)}') MiB of 64 MiB a call"
  for path in ${CARRY:-}; do echo "$path $(du --bytes --summarize "$path" | awk '{print int($1 / 1048576)}') MiB"; done
  if [ -n "${PIECES:-}" ]; then ls --size --block-size=MiB .gpu/pieces; echo "carry one piece a call; the first calls only bring pieces: keep"; fi
}

lighten() {
  git ls-files -z tests/parity/fixtures | xargs -0 truncate --size 0
  if [ -n "${START:-}" ]; then cp "$START"/* "$BOX"; fi
}

restore() { git checkout --quiet tests/parity/fixtures ${BOX:-}; }

keep() { # copies the pieces that this call brought to where later calls find them
  mkdir -p $THERE/pieces && cp .gpu/pieces/* $THERE/pieces/ && ls -l $THERE/pieces
}

install() {
  [ -d "$SITE" ] && return
  python3 -m pip install --quiet --no-index --no-deps --target "$SITE" .gpu/wheels/*.whl
  mmi doctor
}

chain() { # runs or resumes the recipes one after the other; a finished one is over at once
  for recipe in "${RECIPES[@]}"; do (one_recipe "$recipe"); done
}

launch() { # what then runs in the background
  install
  if declare -F before >/dev/null; then before; fi
  mkdir -p "$(dirname "$RESULT")"
  setsid nohup bash "$0" "$1" >>"$RESULT.log" 2>&1 </dev/null &
  sleep "${FIRST_LOOK:-60}"
  look
}

start() { launch chain; }

within() { # SECONDS
  mkdir -p $THERE && rm -rf $THERE/over $THERE/bring
  echo $(($(date +%s) + $1)) >$THERE/deadline
  launch hurry
}

hurry() { # the chain, fitted to the deadline; shapes are planned and kernels compiled in the first seconds, so the rate is taken later
  local deadline first second seen rate=${RATE_AFTER:-40} fit last=${RECIPES[-1]}
  deadline=$(cat $THERE/deadline)
  for number in $(seq 0 $((${#RECIPES[@]} - 2))); do
    until_then $(($(date +%s) + ${LIMITS[number]:-86400})) "${RECIPES[number]}"
  done
  one_recipe "$last" & seen=$!
  sleep "$rate"; first=$(steps_done "$last")
  sleep "$rate"; second=$(steps_done "$last")
  # 24 seconds for stopping, starting again and writing the weights
  fit=$(awk -v done="$second" -v rate="$((second - first))" -v each="$rate" -v left="$((deadline - $(date +%s) - 24))" \
    'BEGIN {print int(done + left * rate / each)}')
  echo "$second steps after $((2 * rate)) seconds, $((second - first)) of them in the second half: $fit steps fit"
  kill -TERM $seen && wait $seen || true
  until_then "$deadline" "$last" --set training.steps="$fit"
  touch $THERE/over
}

one_recipe() { # RECIPE …, in the place of the shell that it is called in
  if declare -F changes_for >/dev/null; then changes_for "$1"; fi
  exec env PYTHONPATH="src:$SITE${PYTHONPATH:+:$PYTHONPATH}" "${PYTHON:-python3}" -m mm_interleaved.cli.main train "$1" "${CHANGES[@]}" \
    "${ALWAYS[@]}" "${@:2}"
}

until_then() { # TIME RECIPE …: a run that is not over by then ends where it stands
  local seen
  one_recipe "${@:2}" & seen=$!
  while kill -0 $seen 2>/dev/null && [ "$(date +%s)" -lt "$1" ]; do sleep 1; done
  if kill -TERM $seen 2>/dev/null; then
    wait $seen || true
    (one_recipe "$2" --set training.steps="$(steps_done "$2")") || true
  fi
}

steps_done() { tail -n 1 "runs/$(basename "$1" .yaml)/losses.csv" 2>/dev/null | cut -d, -f1 | grep -E '^[0-9]+$' || echo 0; }

await() {
  while [ ! -f $THERE/over ] && [ "$(date +%s)" -lt $(($(cat $THERE/deadline) + 40)) ]; do sleep 1; done
  look
}

look() {
  mkdir -p "$OUT"
  tail -n 5 "$RESULT.log"
  for run in runs/*/; do
    [ -f "$run/losses.csv" ] || continue
    echo "$run $(tail -n 1 "$run/losses.csv")"
    cp "$run/losses.csv" "$OUT/$(basename "$run").csv"
  done
}

finish() { # one recipe ends early where it stands: its steps become those that it has done
  pkill --signal INT --full "mm_interleaved.cli.main train" || true
  while pgrep --full "mm_interleaved.cli.main train" >/dev/null; do sleep 1; done
  rm -rf $THERE/bring
  (one_recipe "${RECIPES[-1]}" --set training.steps="$(steps_done "${RECIPES[-1]}")")
}

bring() { # [FIRST]: four pieces from number FIRST (0) on; one call's worth
  local first=${1:-0}
  mkdir -p "$OUT" $THERE/bring
  if [ ! -f $THERE/bring/sha256 ]; then
    tar --create --file $THERE/bring.tar --directory "$RESULT" --exclude heads.safetensors "$SHIPPED"
    sha256sum $THERE/bring.tar | cut -d' ' -f1 >$THERE/bring/sha256
    split --bytes=$PIECE --numeric-suffixes --suffix-length=2 $THERE/bring.tar "$THERE/bring/$SHIPPED.tar."
  fi
  cp $THERE/bring/sha256 "$OUT"
  for number in $(seq "$first" $((first + 3))); do cp "$THERE/bring/$SHIPPED.tar.$(printf %02d "$number")" "$OUT" 2>/dev/null || true; done
  echo "of $(ls $THERE/bring/*.tar.* | wc -l) pieces:" && ls --size --block-size=KiB "$OUT"
}

join() { # FROM TO: FROM holds the pieces of all calls and the checksum
  mkdir -p "$2"
  cat "$1/$SHIPPED".tar.* >"$2/$SHIPPED.tar"
  echo "$(cat "$1/sha256")  $2/$SHIPPED.tar" | sha256sum --check
  tar --extract --file "$2/$SHIPPED.tar" --directory "$2" && rm "$2/$SHIPPED.tar"
}

evaluate() {
  mmi evaluate --suite playground --model "$RESULT/final" --n "${SAMPLES:-200}" --steps 12 -o "$OUT/evaluation"
}

dry() { # what the calls do, one after the other, in a copy of the tree, at a size for a CPU
  local copy=$PWD/.gpu/dry
  if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then PYTHON=$PWD/.venv/bin/python; fi  # what make env made
  rm -rf "$copy" && mkdir -p "$copy"
  git ls-files --cached --others --exclude-standard -z | tar --create --null --files-from - --file - | tar --extract --directory "$copy"
  for path in ${CARRY:-}; do mkdir -p "$copy/$(dirname "$path")" && cp --recursive "$path" "$copy/$path"; done
  cd "$copy"
  OUT=$copy/out
  ALWAYS=(--set training.steps=20 --set training.batch_size=4 --set training.threads=1 --set training.workers=0)
  if declare -F before >/dev/null; then before; fi
  mkdir -p "$(dirname "$RESULT")"
  chain 2>&1 | tee "$RESULT.log"
  look
  bring 0
  for first in $(seq 4 4 "$(ls $THERE/bring/*.tar.* | wc -l)"); do bring "$first"; done
  join "$OUT" joined
  SAMPLES=2 evaluate
}

"${@:-look}"
