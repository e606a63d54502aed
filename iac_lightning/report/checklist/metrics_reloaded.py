"""Metrics Reloaded, 2024: no checklist, but questions and pitfalls; here those of small lesions and their masks."""

from __future__ import annotations

from iac_lightning.report.checklist.lists import Checklist, Item

_INTEREST, _STRUCTURE, _DATA = "Interest", "Structures", "Data"
_OUTPUT, _CHOICE, _USE = "Output", "Choice of metrics", "Use of metrics"

_ITEMS = (
    Item("S1", "Category", "Which kind of problem: here masks, and lesions to be found", ("models", "stages"), "", "a"),
    Item("FP2.1", _INTEREST, "Boundaries: a metric of surfaces", ("models", "more"), "why this tolerance", "a"),
    Item("FP2.2", _INTEREST, "Volumes: a metric of volumes", ("volumes", "agreement", "risk"), "", "a"),
    Item("FP2.3", _INTEREST, "Centre lines or points", left="that they do not matter for calcification", checked="a"),
    Item("FP2.5", _INTEREST, "Which error weighs more", ("point",), "why this aim", "a"),
    Item("FP2.7.1", _INTEREST, "Whether probabilities can be believed", ("calibration", "reliability"), "", "a"),
    Item("FP4.2", _INTEREST, "Whether prevalence is that of the clinic", ("scans",), "prevalence in the clinic", "a"),
    Item("", _STRUCTURE, "Small structures: lesions counted beside overlap", ("models", "fails", "glance"), "", "b"),
    Item("", _STRUCTURE, "Sizes that vary: results by size", ("volumes",)),
    Item("", _DATA, "Far more background than lesion", ("models", "detection"), "", "c"),
    Item(
        "",
        _DATA,
        "Few test cases: intervals, and calibration error that they inflate",
        ("models", "calibration"),
        "",
        "c",
    ),
    Item("", _DATA, "Imperfect reference: several readers", ("readers",), "who read, and how labels were agreed", "c"),
    Item("", _OUTPUT, "Overlapping predictions", left="that masks cannot overlap", checked="c"),
    Item("", _OUTPUT, "Nothing predicted or nothing to be found", ("models", "more", "scans"), "", "c"),
    Item("S4", _CHOICE, "A metric over all thresholds", ("froc", "detection"), "", "b"),
    Item("S8", _CHOICE, "When a lesion counts as found", ("models",), "why any overlap is enough", "a"),
    Item("", _CHOICE, "How found and true lesions are paired", ("models",)),
    Item("", _CHOICE, "How the threshold was chosen", ("point",)),
    Item("", _USE, "How scans are summed up", ("models", "more"), "", "b"),
    Item("", _USE, "Metrics computed as others compute them", ("models",), "comparison with another program", "c"),
    Item("", _USE, "Several scans of one patient are not independent", ("models", "pairs"), "", "c"),
    Item("", _USE, "Single values shown, not boxes alone", ("values", "agreement"), "", "c"),
    Item("", _USE, "Tests corrected for their number", ("pairs", "everything")),
)

METRICS_RELOADED = Checklist(
    name="Metrics Reloaded (2024)",
    reference="Maier-Hein et al., Nature Methods 2024, doi:10.1038/s41592-023-02151-z",
    sources={
        "a": "the beginning of the article's Table 1, as far as a public copy shows it",
        "b": "captions of the article's Figure 1 and Extended Data Figure 4",
        "c": "captions of the companion article on pitfalls (Reinke et al., Nature Methods 2024, "
        "doi:10.1038/s41592-023-02150-0), Figures 5 and 6 and Extended Data Figure 2",
    },
    about="It is a framework, not a numbered list: items and sections are a selection of ours. Numbers stand only "
    "where they could be compared. The rest of Table 1 and the supplement were not found: something may be missing.",
    items=_ITEMS,
)
