"""CLAIM, update of 2024: 44 items for studies of artificial intelligence in medical imaging."""

from __future__ import annotations

from functools import partial

from iac_lightning.report.checklist.lists import Checklist, Item

_item = partial(Item, checked="ab")
_DESIGN, _DATA, _STANDARD = "Methods: study design", "Methods: data", "Methods: reference standard"
_MODEL, _TRAINING, _EVALUATION = "Methods: model", "Methods: training", "Methods: evaluation"

_ITEMS = (
    _item("1", "Title or abstract", "Says that it is about AI, and which kind", left="title and abstract"),
    _item(
        "2", "Abstract", "The study in brief, from design to conclusions", ("better",), "design, methods, conclusions"
    ),
    _item("3", "Introduction", "Background; what the AI is meant for", left="clinical background, intended use, role"),
    _item("4", "Introduction", "What the study wants to find out", ("question",), "hypotheses stated in advance"),
    _item("5", _DESIGN, "Whether data were collected before or after the plan", left="prospective or retrospective"),
    _item("6", _DESIGN, "Goal", ("question",), "whether exploration, feasibility or confirmation"),
    _item("7", _DATA, "Where the data come from", left="hospitals, registries or simulation; dates"),
    _item("8", _DATA, "Who was taken in and who was not", ("flow",), "rules by which patients came into the cohort"),
    _item(
        "9",
        _DATA,
        "What was done to images beforehand",
        ("data", "settings"),
        "registration, region of interest and window in words",
    ),
    _item("10", _DATA, "Parts of the data that were picked", ("flow",), "choices before the cohort table was made"),
    _item("11", _DATA, "How identities were removed", left="method, and by whom"),
    _item("12", _DATA, "What was done where data were missing", ("flow",), "what the cohort table lacks, and why"),
    _item(
        "13",
        _DATA,
        "How images were acquired",
        ("subgroups", "thickness"),
        "scanners and protocol in full (voltage, dose, contrast)",
    ),
    _item("14", _STANDARD, "How the reference was made", left="annotation protocol, software"),
    _item("15", _STANDARD, "Why this reference", left="reasons"),
    _item("16", _STANDARD, "Who or what gave the annotations", left="readers, their training and experience"),
    _item("17", _STANDARD, "How the test set was annotated", left="readers of the test set, blinding"),
    _item(
        "18",
        _STANDARD,
        "How far readers differ from each other and from themselves",
        ("readers",),
        "variability within a reader; how readers settled differences",
    ),
    _item(
        "19",
        "Methods: partitions",
        "How cases came into each split",
        ("flow", "data"),
        "rule by which patients were drawn",
    ),
    _item("20", "Methods: partitions", "What no two splits share", ("data", "guard")),
    _item("21", "Methods: testing data", "Size that was planned", left="planned number of patients, and why"),
    _item("22", _MODEL, "The model in full", ("more", "settings"), "architecture in words, or a reference"),
    _item("23", _MODEL, "Programs and libraries", ("provenance",)),
    _item("24", _MODEL, "Where the first weights come from", ("settings",), "distribution of random first weights"),
    _item("25", _TRAINING, "How the model was trained", ("training", "settings")),
    _item("26", _TRAINING, "How the final model was picked", ("point", "settings"), "models that are not on the page"),
    _item("27", _TRAINING, "Several models joined into one", left="whether a model is an ensemble, and how it votes"),
    _item("28", _EVALUATION, "Measures of performance", ("models", "stages")),
    _item("29", _EVALUATION, "How chance and uncertainty were dealt with", ("models", "pairs")),
    _item("30", _EVALUATION, "How far results hold under other conditions", ("thickness", "subgroups", "seeds")),
    _item("31", _EVALUATION, "How the model's decisions are explained", ("controls",), "maps or examples, if any"),
    _item("32", _EVALUATION, "Results on data of the same source", ("models",), "whether this split is such data"),
    _item("33", _EVALUATION, "Results on data of another source", left="whether patients are of other hospitals"),
    _item("34", _EVALUATION, "Registration as a trial", left="register and number, or none"),
    _item("35", "Results: data", "How many were taken in and left out", ("flow",)),
    _item("36", "Results: data", "Who the patients of each split are", ("flow",), "age, sex and disease of each split"),
    _item("37", "Results: performance", "Measures with their uncertainty", ("models", "pairs")),
    _item("38", "Results: performance", "Diagnostic accuracy and how precise it is", ("scans", "detection")),
    _item("39", "Results: performance", "Where the model was wrong", ("failures", "fails")),
    _item("40", "Discussion", "Limits of the study", ("caveat",), "all others"),
    _item("41", "Discussion", "What it means for practice", left="use and clinical role that results support"),
    _item("42", "Other information", "Where protocol or further details stand", left="reference"),
    _item(
        "43", "Other information", "Whether program, model and data can be had", ("made",), "where, and on what terms"
    ),
    _item("44", "Other information", "Who paid, and what they had to say", left="statement"),
)

CLAIM = Checklist(
    name="CLAIM (2024)",
    reference="Tejani et al., Radiology: Artificial Intelligence 2024, doi:10.1148/ryai.240300",
    sources={
        "a": "a public transcription of the journal's form, all 44 items",
        "b": "the wording of each of the 44 items in the public ROADMAP ontology",
    },
    about="The two agree in number, order and subject; the journal's own page was not at hand.",
    items=_ITEMS,
)
