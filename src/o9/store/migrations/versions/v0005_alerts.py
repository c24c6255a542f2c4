"""Alerts: what was told, silences, groups, notices, notifications with each try; and leases by name."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_FIRING = "is_first = 1 AND resolved_at IS NULL"
_OPEN = "is_open = 1"
_PENDING = "status = 'pending'"


def upgrade() -> None:
    _alerts()
    _notifications()
    op.create_table(
        "lease",
        _text("name"),
        _text("node", nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("cursor", _SERIAL, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def _alerts() -> None:
    op.create_table(
        "alert",
        *[_text(name) for name in (
            "alert_id", "episode", "fingerprint", "optimization_id", "level", "title", "message", "metadata", "at",
            "told_at",
        )],
        sa.Column("is_first", sa.Integer(), nullable=False),
        _text("labels"),
        *[_text(name, nullable=True) for name in ("starts_at", "ends_at")],
        sa.Column("expected_end", sa.Integer(), nullable=False),
        *[_text(name, nullable=True) for name in ("latest", "last_told_at")],
        sa.Column("times", sa.Integer(), nullable=False),
        *[_text(name, nullable=True) for name in ("resolved_at", "resolved_by", "acknowledged_at", "acknowledged_by")],
        sa.Column("began", _SERIAL, nullable=False),
        sa.Column("changed", _SERIAL, nullable=False),
        sa.Column("is_open", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("alert_id"),
    )  # fmt: skip
    op.create_index("ix_alert_newest", "alert", ["at", "alert_id"])
    op.create_index("ix_alert_optimization", "alert", ["optimization_id", "at", "alert_id"])
    op.create_index("ix_alert_level", "alert", ["level", "at", "alert_id"])
    _partial("ix_alert_firing", "alert", ["fingerprint"], _FIRING, unique=True)
    _partial("ix_alert_ending", "alert", ["ends_at"], f"{_FIRING} AND ends_at IS NOT NULL")
    _partial("ix_alert_open", "alert", ["changed", "alert_id"], _OPEN)
    op.create_table(
        "silence",
        *[_text(name) for name in (
            "silence_id", "matchers", "pattern", "starts_at", "ends_at", "author", "comment", "created_at",
        )],
        _text("ended_at", nullable=True),
        _text("ended_by", nullable=True),
        sa.Column("changed", _SERIAL, nullable=False),
        sa.PrimaryKeyConstraint("silence_id"),
    )  # fmt: skip
    op.create_index("ix_silence_changed", "silence", ["changed"])
    _partial("ix_silence_standing", "silence", ["ends_at"], "ended_at IS NULL")
    op.create_table(
        "alert_tally",
        _text("what"),
        _text("name"),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("what", "name"),
    )
    op.create_table(
        "alert_group", _text("group_key"), _text("due_at"), _text("state"), sa.PrimaryKeyConstraint("group_key")
    )


def _notifications() -> None:
    op.create_table(
        "notice",
        _text("group_key"),
        sa.Column("number", _SERIAL, autoincrement=False, nullable=False),
        *[_text(name) for name in ("receiver", "kind", "reason", "at", "labels", "firing", "resolved")],
        sa.Column("firing_count", sa.Integer(), nullable=False),
        sa.Column("resolved_count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("group_key", "number"),
    )
    op.create_index("ix_notice_at", "notice", ["at"])
    op.create_table(
        "notification",
        sa.Column("id", _SERIAL, autoincrement=True, nullable=False),
        _text("group_key"),
        sa.Column("number", _SERIAL, nullable=False),
        *[_text(name) for name in ("channel", "status", "created_at")],
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        _text("claimed_by", nullable=True),
        sa.Column("claim_expires_at", sa.Float(), nullable=True),
        _text("ended_at", nullable=True),
        _text("error", nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("group_key", "number", "channel", name="uq_notification"),
    )
    _partial("ix_notification_due", "notification", ["channel", "due_at", "id"], _PENDING)
    _partial("ix_notification_order", "notification", ["channel", "group_key", "id"], _PENDING)
    op.create_table(
        "notification_try",
        sa.Column("notification_id", _SERIAL, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        *[_text(name) for name in ("channel", "node", "started_at")],
        *[_text(name, nullable=True) for name in ("ended_at", "outcome", "error")],
        sa.PrimaryKeyConstraint("notification_id", "number"),
    )
    op.create_index("ix_notification_try_channel", "notification_try", ["channel", "started_at"])
    op.create_table(
        "alert_decision",
        sa.Column("id", _SERIAL, autoincrement=True, nullable=False),
        *[_text(name) for name in ("alert_id", "receiver", "reason", "by", "at")],
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_alert_decision_alert", "alert_decision", ["alert_id", "id"])
    op.create_table(
        "alert_channel",
        _text("channel"),
        sa.Column("paused_until", sa.Float(), nullable=False),
        *[_text(name, nullable=True) for name in ("failing_since", "last_sent_at", "error")],
        sa.PrimaryKeyConstraint("channel"),
    )
    op.create_table(
        "channel_node",
        _text("channel"),
        _text("node"),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("channel", "node"),
    )


def _text(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _partial(name: str, table: str, columns: list[str], condition: str, *, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, unique=unique, sqlite_where=where, postgresql_where=where)
