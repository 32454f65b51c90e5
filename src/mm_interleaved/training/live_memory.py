"""What a computation holds at once: the bytes of its tensors, each storage counted while it lives, and the pages of this process."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mm_interleaved.ops.freed_memory import give_back, own_bytes


class LiveBytes(TorchDispatchMode):
    """Within it, forward and backward passes alike, the bytes of all tensors that are made and still alive; `peak` is the most."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """
        Args:
            known: tensors that were there before; views of them are nothing new.
        """
        super().__init__()
        self.peak = 0
        self._now = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._known or place in self._alive:
            return

        def gone(_: object) -> None:
            del self._alive[place]
            self._now -= size

        self._alive[place] = weakref.ref(storage, gone)
        self._now += size
        self.peak = max(self.peak, self._now)


def own_pages() -> int:
    """Bytes of this process that are no file's, after what was freed went back to the system; 0 where the system does not tell."""
    gc.collect()
    give_back()
    return own_bytes()
