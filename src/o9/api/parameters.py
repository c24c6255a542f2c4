"""What a request may ask for: queries, and the fields of a body. What is not here is refused by its name."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.json_schema import SkipJsonSchema

from o9.model.fields import COUNT_LIMIT, NAME_LIMIT
from o9.model.optimization import moment_of
from o9.model.states import AlertLevel, OptimizationPriority, OptimizationStatus, OptimizationType
from o9.store.core.column_types import moment
from o9.store.core.reading import PAGE_LIMIT, read_cursor
from o9.store.optimizations.queries import Filter

# PostgreSQL cannot be asked for a NUL.
Text = Annotated[str, StringConstraints(min_length=1, max_length=NAME_LIMIT, pattern="^[^\\x00]*$")]
Omitted = SkipJsonSchema[None]  # a query has no null


class NoQuery(BaseModel):
    """The query of a route without parameters."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(NoQuery):
    limit: int = Field(100, ge=1, le=PAGE_LIMIT, description="How many items at most.")
    cursor: str | Omitted = Field(None, min_length=1, description="The `next_cursor` of the page before.")

    def behind(self, *start: int) -> tuple[int, ...]:
        """Behind which numbers this page begins; `start` where it is the first."""
        return start if self.cursor is None else read_cursor(self.cursor, int, len(start))


class LogQuery(PageQuery):
    trial: Annotated[int, Field(ge=0, le=COUNT_LIMIT)] | Omitted = Field(None, description="Of this trial alone.")


class OptimizationQuery(PageQuery):
    status: OptimizationStatus | Omitted = None
    type: OptimizationType | Omitted = None
    priority: Literal["low", "normal", "high", "critical", "1", "2", "3", "4"] | Omitted = None
    strategy: Text | Omitted = Field(
        None, description="Its name, as in `metadata.strategy`; `default` where none is given."
    )
    family: Text | Omitted = Field(None, description="What its trials count in, from the first trial on.")
    q: Text | Omitted = Field(None, description="A part of the name or the id, in upper or lower case.")
    created_after: Annotated[datetime, BeforeValidator(moment_of)] | Omitted = Field(
        None, description="ISO 8601, such as 2026-01-31T09:30:00Z; encode a + as %2B."
    )

    def filter(self) -> Filter:
        since = None if self.created_after is None else moment(self.created_after)
        return Filter(self.status, self.type, _priority(self.priority), self.strategy, self.family, self.q, since)


class AlertQuery(PageQuery):
    level: AlertLevel | Omitted = None
    optimization_id: Text | Omitted = None


class TrendQuery(NoQuery):
    days: float = Field(7.0, ge=1e-3, le=36_600, description="How far back; 0.5 is twelve hours.")


class RankingQuery(NoQuery):
    metric_name: Text
    limit: int = Field(10, ge=1, le=PAGE_LIMIT)


class CancelQuery(NoQuery):
    cancel: bool = Field(False, description="true: what runs is cancelled first, and its end awaited.")


class ResolveBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    by: str = Field("api", max_length=NAME_LIMIT, description="Who has resolved it.")


def _priority(text: str | None) -> OptimizationPriority | None:
    if text is None:
        return None
    return OptimizationPriority(int(text)) if text.isdecimal() else OptimizationPriority[text.upper()]
