"""The cache of results for equal windows."""

import math
from collections import OrderedDict
from collections.abc import Hashable

from service.inference.engine import Logits


class ResultCache:
    """The logits of the windows that were used last.

    Args:
        limit: number of windows; 0 keeps none.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._logits: OrderedDict[Hashable, Logits] = OrderedDict()  # least recently used first

    def __contains__(self, key: Hashable) -> bool:
        return key in self._logits

    def get(self, key: Hashable) -> Logits | None:
        """Return the logits of the window with this key, and count it as used."""
        if key is None or key not in self._logits:
            return None
        self._logits.move_to_end(key)
        return self._logits[key]

    def put(self, key: Hashable, logits: Logits) -> None:
        """Keep the logits of a window, unless it has no key or they are not finite."""
        if self._limit and key is not None and all(map(math.isfinite, logits)):
            self._logits[key] = logits
            while len(self._logits) > self._limit:
                self._logits.popitem(last=False)
