"""What people see of a URL: where it leads, and no password, however the URL was typed."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from o9.model.settings import Settings
from o9.model.urls import public_text, public_url


@pytest.mark.parametrize(
    "url",
    [
        "optimization_state.db", "/data/a@b:c/store.db", "block:desk", "sqlite:////data/a@b/store.db",
        "postgresql://ann@db.example:5432/desk?host=/run/pg&sslmode=require&connect_timeout=3",
        "postgresql://[::1]:5432/desk", "http://127.0.0.1:4200/api", "https://sqlalche.me/e/21/e3q8", "postgresql://…",
    ],
)  # fmt: skip
def test_a_url_without_secrets_is_shown_whole(url: str) -> None:
    assert public_url(url) == url
    assert public_text(f"({url}), or '{url}'.") == f"({url}), or '{url}'."


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:S3CRET@db.example:5432/desk", "postgresql://ann:***@db.example:5432/desk"),
        ("postgresql+psycopg://ann:S3CRET@[::1]/desk", "postgresql+psycopg://ann:***@[::1]/desk"),
        ("postgresql://db/desk?user=ann&password=S3CRET", "postgresql://db/desk?user=ann&password=***"),
        ("postgresql://db/desk?sslpassword=S3CRET&S3CRET", "postgresql://db/desk?sslpassword=***&***"),
        # Passwords that are not encoded.
        ("postgresql://ann:x@S3CRET@db/desk", "postgresql://ann:***@db/desk"),
        ("postgresql://ann:x/S3CRET@db/desk", "postgresql://ann:***@db/desk"),
        ("postgresql://ann:x?S3CRET=1@db/desk", "postgresql://***"),
        ("postgresql://ann:S3CRET/desk", "postgresql://***"),
        ("postgresql://ann:S3CRET@db:port/desk", "postgresql://***"),
        ("postgresql:///ann:S3CRET@db/desk", "postgresql://:***@db/desk"),
        ("sqlite://ann:S3CRET@db/desk", "sqlite://***@db/desk"),
        ("://ann:S3CRET@db/desk", "://***@db/desk"),
        # Prefect's server: a user without a password is a token.
        ("http://ann:S3CRET@prefect:4200/api", "http://***@prefect:4200/api"),
        ("https://S3CRET@prefect/api", "https://***@prefect/api"),
    ],
)
def test_a_secret_is_not_shown(url: str, shown: str) -> None:
    assert public_url(url) == shown
    assert "S3CRET" not in public_text(f"cannot connect to {url}, 'and' \"{url}\": (no)")


def test_what_stands_before_a_scheme_is_not_shown() -> None:
    assert public_url("ann:S3CRET@postgresql://db/desk") == "***://***"


@given(st.text(max_size=8), st.text(max_size=8), st.sampled_from("@/?#:&= "))
@example("", "a", "?")
def test_a_password_is_shown_in_no_form(before: str, after: str, between: str) -> None:
    """As it was meant to be encoded, as it was typed, and as a part of the query."""
    password = f"{before}{between}S3CRET{after}"
    encoded = quote(password, safe="")
    for url in (
        f"postgresql://ann:{encoded}@db/desk", f"postgresql://db/desk?password={encoded}",
        f"postgresql://ann:{encoded.replace('%40', '@')}@db:5432/desk", f"postgresql://ann:{encoded}",
    ):  # fmt: skip
        assert "S3CRET" not in public_url(url)


def test_the_settings_do_not_show_the_store() -> None:
    held = Settings(store_url="postgresql://ann:S3CRET@db/desk")
    assert held.store_url == "postgresql://ann:S3CRET@db/desk"
    assert "S3CRET" not in f"{held!r} {held}"
