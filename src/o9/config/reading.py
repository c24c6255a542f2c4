"""From a document to a model."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

from o9.config.document import Document, DocumentError
from o9.model.errors import OptimizationValidationError
from o9.model.faults import validated

M = TypeVar("M", bound=BaseModel)


def read(model: type[M], document: Document, *, context: Any = None) -> M:
    """The document as a `model`. Raises DocumentError with all faults. `context`: for the model's validators."""
    faults = list(document.faults)
    made: M | None = None
    try:
        made = validated(model, document.data, context=context)
    except OptimizationValidationError as error:
        known = {fault.field for fault in faults}
        faults += [fault for fault in document.placed(error) if fault.field not in known]
    if made is None or faults:
        raise DocumentError(document.source, faults)
    return made
