"""Files that people write in YAML: read with their lines, checked by Pydantic models, refused with all faults at once.

Contract. `Document.parse(text, source)` reads YAML 1.2. `read(Model, document)` makes the model of it, or raises
DocumentError, whose message has a line for each fault: the file, its line, the field's path, what is wrong, the remedy
(`alerts.yaml, line 7: route.reciever: there is no such field; did you mean receiver?`). A model is a subclass of
`Typed`, with the types `Text`, `Whole`, `Number` and `Flag`, which convert nothing; its validators raise ValueError, or
OptimizationValidationError for fields inside their own. Checks across fields that need the model go into its
`@model_validator(mode="after")`, or behind `read`, with `document.placed(error)`. Pure: no file is opened here.
"""

from o9.config.document import FAULTS_SHOWN, Document, DocumentError, Fault, read
from o9.model.faults import Flag, Number, Text, Typed, Whole, shown, validated

__all__ = [
    "FAULTS_SHOWN",
    "Document",
    "DocumentError",
    "Fault",
    "Flag",
    "Number",
    "Text",
    "Typed",
    "Whole",
    "read",
    "shown",
    "validated",
]
