"""Networks of others, each a folder as transformers saves it.

Nothing is downloaded. A folder of another kind, or with weights missing, is refused: a network that was filled up at random would give
figures all the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm_interleaved.errors import CheckpointError


def check_kind(folder: Path, kinds: Sequence[str], what: str) -> None:
    """
    Raises:
        CheckpointError: the folder's configuration is of none of these kinds, or there is none.
    """
    path = folder / "config.json"
    try:
        kind = json.loads(path.read_text("utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); expected a folder with {what}, as transformers saves it.") from error
    if kind not in kinds:
        raise CheckpointError(f"{path}: expected {what} (model_type {' or '.join(kinds)}), got {kind!r}; give the folder of one.")


def load_whole(kind: Any, folder: Path) -> Any:
    """A network with every weight of its own.

    Raises:
        CheckpointError: the weights cannot be read, or some are missing or of another shape.
    """
    try:
        network, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: the weights cannot be read ({' '.join(str(error).split())[:120]}); save them again.") from error
    if missing := sorted([*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])]):
        raise CheckpointError(f"{folder}: {len(missing)} weights are missing, first {missing[0]}; download the folder again.")
    return network.eval()


def read_part(kind: Any, folder: Path) -> Any:
    """A tokenizer or processor beside the weights.

    Raises:
        CheckpointError: it is not there.
    """
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{folder} holds no {kind.__name__} ({reason}); download the whole folder of the network.") from error


def fingerprint(folder: Path) -> str:
    """Hash of all files of a folder, for the protocol."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
