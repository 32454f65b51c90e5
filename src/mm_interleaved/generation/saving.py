"""A continuation on disk: paused in one process, gone on with in another, and nothing of the prefix is read again.

FOLDER/HASH.state.safetensors   token cache, feature cache, hidden states, in the model's dtype
FOLDER/document.json            document and settings; written last, it names the state that it belongs to

A picture in the middle of being painted is begun again; it comes out the same, since its noise depends on seed and place alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from mm_interleaved.document import Document
from mm_interleaved.errors import CheckpointError
from mm_interleaved.export.files import write_atomically
from mm_interleaved.generation.engine import Continuation, Phase, Position
from mm_interleaved.generation.options import Options
from mm_interleaved.model.interleaved import MMInterleavedForConditionalGeneration
from mm_interleaved.processing.processor import MMInterleavedProcessor

STATE, DOCUMENT = "state.safetensors", "document.json"

VERSION = 1


def save_continuation(run: Continuation, folder: Path) -> Path:
    """Writes a continuation between two of its events; it can also go on here.

    Raises:
        StorageError: no space, or no permission; an earlier state in the folder is still whole.
    """
    if run.state.position == 0:
        run.serve(Phase.READ)
    run.settle()
    content = save(run.state.tensors())
    record: dict[str, Any] = {
        "version": VERSION,
        "state": hashlib.sha256(content).hexdigest(),
        "model_hash": run.model_hash,
        "document": run.document.to_json(),
        "options": asdict(run.options),
        "position": asdict(run.position),
    }
    digest = record["state"]
    write_atomically(folder / f"{digest[:16]}.{STATE}", content)
    write_atomically(folder / DOCUMENT, json.dumps(record, ensure_ascii=False).encode())
    for old in folder.glob(f"*.{STATE}"):
        if not old.name.startswith(digest[:16]):
            old.unlink(missing_ok=True)
    return folder


def load_continuation(
    model: MMInterleavedForConditionalGeneration,
    processor: MMInterleavedProcessor,
    folder: Path,
    *,
    model_hash: str = "",
    stop: Callable[[], bool] | None = None,
    **changes: Any,
) -> Continuation:
    """Goes on with what `save_continuation` wrote.

    Args:
        model_hash: fingerprint of the weights; another one than the state was made with is refused.
        stop: as in `engine.stream`.
        **changes: options that shall differ from the saved ones.

    Raises:
        CheckpointError: nothing there, damaged, or made by another model.
        ConfigError: an unknown option or a value out of range.
    """
    path = folder / DOCUMENT
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["version"] != VERSION:
            raise CheckpointError(
                f"{path}: expected version {VERSION}, got {record['version']!r:.20}; go on with the version that wrote it."
            )
        document = Document.from_json(record["document"])
        options, position = dict(record["options"]), Position(**record["position"])
        tensors = load_file(folder / f"{record['state'][:16]}.{STATE}")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder}: expected a saved continuation, {Path(error.filename or STATE).name} is missing; save it again."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: the saved continuation cannot be read ({error}); continue its document from the beginning."
        ) from error
    if record["model_hash"] != model_hash:
        raise CheckpointError(
            f"{folder}: was saved with the model {record['model_hash'] or 'without a hash'}, this one is {model_hash or 'without a hash'}; "
            "load that model, or continue the document from the beginning."
        )
    run = Continuation(model, processor, document, Options.read({**options, **changes}), model_hash=model_hash, stop=stop)
    run.resume(position, tensors)
    return run
