"""What a page says of the test set and of the files that it is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from iac_lightning.report.page import Section, Table

TITLE = "Can these figures be trusted?"


def guard_section(about: str, found: Mapping[str, Sequence[str]]) -> Section | None:
    """How often the test set was looked at, and what speaks against a fair judgement; None where there is nothing.

    Args:
        about: how often the test set was looked at; empty where that is not known.
        found: label of the model to what was found (`workflows.guard.guard_sentences`).
    """
    rows = [(label, sentence) for label, sentences in found.items() for sentence in sentences]
    if not rows and not about:
        return None
    checked = "Patients, scans, splits, looks and tables were checked against what checkpoints and registry remember"
    verdict = f"{checked}; this was found:" if rows else f"{checked}, and nothing was found against the figures."
    table = Table(
        name="guard",
        header=[("model", ""), ("what was found", "")],
        rows=rows,
        words=("model", "what was found"),
        legend="Found by comparison with the registry of the test set, the checkpoints and the signatures of the "
        "tables; see \u201cLeakage and looks\u201d in the documentation for what cannot be found.",
    )
    return Section(title=TITLE, text=f"{about} {verdict}".strip(), tables=[table] if rows else ())
