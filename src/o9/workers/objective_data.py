"""The data that an objective gets in addition to its parameters. Runs in child processes, too.

Contract. Data are loaded at first use, once for each attempt in each process that evaluates; the last MOST_KEPT are
cached. Thread-safe. numpy is imported only for a placebo run.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

MOST_KEPT = 3
SHUFFLE, SHIFT = "shuffle", "shift"
_KIND = re.compile(r"shuffle|bootstrap(:(auto|[1-9]\d*))?|shift")
_kept: OrderedDict[str, Any] = OrderedDict()
_lock = threading.Lock()


def is_kind(kind: Any) -> bool:
    """Whether `kind` is valid in `@objective(…, placebo=…)`."""
    return callable(kind) or (isinstance(kind, str) and _KIND.fullmatch(kind) is not None)


@dataclass(frozen=True)
class ObjectiveData:
    """`source`: the data, or a function without arguments that loads them. `token`: identifies the attempt.

    placebo: how their edge is destroyed (`o9.workers.resampling`), with `seed`; None leaves them unchanged.
    """

    source: Any
    token: str
    placebo: Any = None
    seed: int = 0

    def load(self) -> Any:
        """Return the data. Raises what the loading function raises, and DataError if they cannot be resampled."""
        with _lock:
            if self.token in _kept:
                _kept.move_to_end(self.token)
                return _kept[self.token]
            found = self.source() if callable(self.source) else self.source
            if self.placebo is not None:
                from o9.workers.resampling import without_edge

                found = without_edge(found, self.placebo, self.seed)
            _kept[self.token] = found
            while len(_kept) > MOST_KEPT:
                _kept.popitem(last=False)
            return found
