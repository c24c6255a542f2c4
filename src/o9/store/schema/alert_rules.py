"""The tables of alert rules: how each stands to what it looks at, and how far they have read. See `optimizations`."""

from __future__ import annotations

from sqlalchemy import Column
from sqlmodel import Field

from o9.store.core.base import SERIAL, Record, unbounded_texts


class RuleStanding(Record, table=True):
    """A rule that is pending or fires for a subject, as JSON (`o9.alerts.rules.rules.Standing`)."""

    __tablename__ = "rule_standing"

    rule: str = Field(primary_key=True)
    subject: str = Field(primary_key=True)
    standing: str


class ReadUpTo(Record, table=True):
    """The id up to which the rules have taken what a table says, by its name."""

    __tablename__ = "read_up_to"

    name: str = Field(primary_key=True)
    position: int = Field(sa_column=Column(SERIAL, nullable=False))


unbounded_texts()
