"""Which addresses may hold a secret, and what is shown of them."""

from __future__ import annotations

import pytest

from iac_lightning.config.addresses import holds_secret, mentions_secret, shown_address, without_secrets
from iac_lightning.config.values import safe_show

SECRETS = [
    "https://T0KEN@host",
    "https://u:T0KEN@host",
    "https://T0KEN%40host",
    "https://u%3AT0KEN%2540host/x",
    "HTTPS://u:T0KEN@host",
    "http://host/?api_key=T0KEN",
    "http://host/?T0KEN",
    "http://host?timeout=T0KEN",
    "http://host/#T0KEN",
    "http://host/;T0KEN",
    "http://host/x/token=T0KEN",
    "https://host/ghp_T0KEN0000000000000",
    "postgresql://T0KEN@h/db",
    "postgresql://u@h/db?password=T0KEN",
    "postgresql://h/db?password=T0KEN",
    "postgresql://h/db?sslmode=require&PASSWORD=T0KEN",
    "mysql+pymysql://u:T0KEN@h/db",
    "mssql+pyodbc:///?odbc_connect=PWD%3DT0KEN",
    "sqlite:///mlflow.db?key=T0KEN",
    "sqlite://u:T0KEN@/mlflow.db",
    "databricks://T0KEN",
    "u:T0KEN@host",
    "ftp://u:T0KEN@host",
    "https%3A%2F%2FT0KEN%40host",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_a_secret_in_any_form_is_recognised_and_not_shown(uri: str) -> None:
    assert holds_secret(uri)
    shown = [shown_address(uri), safe_show("tracking.uri", uri), safe_show("tracking.uri", [uri])]
    shown += [safe_show("tracking", {"uri": uri})] if "@" in uri or "=" in uri else []
    if "://" in uri or "%3A" in uri:
        assert mentions_secret(f"pip install {uri} && train")
        shown += [without_secrets(f"a.yaml:1: seed = '{uri}': expected a whole number"), safe_show("data.cohort", uri)]
    assert not [text for text in shown if "T0KEN" in text]


def test_the_scheme_is_shown() -> None:
    assert shown_address("https://T0KEN@host") == "https://…"
    assert without_secrets("of https://T0KEN@host, as said") == "of https://… as said"
    assert without_secrets("of https://host/team, as said") == "of https://host/team, as said"


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////data/me@home/mlflow.db",
        "sqlite:///mlflow.db?timeout=30",
        "http://127.0.0.1:5000",
        "https://mlflow.example.org/team",
        "postgresql://h:5432/db?sslmode=require&service=mlflow",
        "databricks",
        "./mlruns",
    ],
)
def test_others_are_shown_as_they_are(uri: str) -> None:
    assert not holds_secret(uri)
    assert safe_show("tracking.uri", uri) == repr(uri)


def test_other_text_may_hold_what_is_no_address() -> None:
    assert not mentions_secret("module load cuda && export ACCOUNT=me@host  # as agreed")


def test_long_words_take_no_time_to_search() -> None:
    assert (
        without_secrets("n" * 100_000) == "n" * 100_000
    )  # minutes, where every start of a word is followed to its end
    assert "pw" not in without_secrets("n" * 100_000 + "https://u:pw@host/x")
