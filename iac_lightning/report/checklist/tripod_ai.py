"""TRIPOD+AI, 2024: 27 items in 52 parts, and 13 for abstracts, for models that predict a diagnosis or a course."""

from __future__ import annotations

from functools import partial

from iac_lightning.report.checklist.lists import Checklist, Item

_item = partial(Item, checked="ab")
_abstract = partial(Item, checked="a")
_DATA, _PEOPLE, _OUTCOME = "Methods: data", "Methods: participants", "Methods: outcome"
_PREDICTORS, _ANALYSIS = "Methods: predictors", "Methods: analytical methods"
_USE = "Discussion: use in current care"

_ITEMS = (
    _item("1", "Title", "Developing or evaluating a model, for whom, of what", left="title"),
    _item("2", "Abstract", "An abstract that follows the list below", left="abstract"),
    _item("3a", "Introduction: background", "Clinical setting; why a model; earlier ones", left="background"),
    _item("3b", "Introduction: background", "For which patients, for what and for which users", left="intended use"),
    _item("3c", "Introduction: background", "Known inequalities of health between groups", left="background"),
    _item("4", "Introduction: objectives", "Aims; development, evaluation or both", ("question",), "which of the two"),
    _item(
        "5a", _DATA, "Sources, separately for development and evaluation", left="sources, reasons, whom they stand for"
    ),
    _item("5b", _DATA, "Dates of the data", left="first and last date of inclusion"),
    _item("6a", _PEOPLE, "Setting; number and place of centres", left="setting, centres"),
    _item("6b", _PEOPLE, "Who could take part", ("flow",), "rules by which patients came into the cohort"),
    _item("6c", _PEOPLE, "Treatments, where they matter", left="treatments, or that none matter"),
    _item(
        "7",
        "Methods: data preparation",
        "What was done to data, and how they were checked",
        ("data", "flow", "settings"),
        "whether it was the same for all groups of people",
    ),
    _item("8a", _OUTCOME, "What is predicted, and how it was determined", ("models",), "annotation protocol, reasons"),
    _item("8b", _OUTCOME, "Who judged it, where judgement was needed", left="readers"),
    _item("8c", _OUTCOME, "Whether they were blinded", left="blinding"),
    _item("9a", f"{_PREDICTORS} (development)", "Which inputs were chosen at first", left="why CT alone"),
    _item(
        "9b", _PREDICTORS, "What the inputs are, how and when measured", ("data", "settings"), "acquisition, blinding"
    ),
    _item(
        "9c", _PREDICTORS, "Who judged inputs, where judgement was needed", left="nobody, where images alone are read"
    ),
    _item(
        "10", "Methods: sample size", "How the size came about, and that it is enough", left="planned size and reasons"
    ),
    _item("11", "Methods: missing data", "What was done about them", ("flow",), "what the cohort table lacks, and why"),
    _item("12a", f"{_ANALYSIS} (development)", "Which data served for what", ("flow", "guard")),
    _item("12b", f"{_ANALYSIS} (development)", "How inputs were scaled and transformed", ("settings",), "in words"),
    _item(
        "12c",
        f"{_ANALYSIS} (development)",
        "Kind of model, steps, tuning, internal validation",
        ("training", "point", "settings"),
        "reasons for the architecture",
    ),
    _item("12d", _ANALYSIS, "Differences between clusters", ("subgroups",), "centres: not in the cohort table"),
    _item("12e", _ANALYSIS, "All measures and plots", ("models", "pairs", "calibration", "detection", "volumes")),
    _item("12f", f"{_ANALYSIS} (evaluation)", "Whether the model was updated", ("calibration",)),
    _item("12g", f"{_ANALYSIS} (evaluation)", "How predictions were computed", ("point", "made")),
    _item("13", "Methods: class imbalance", "What was done about it", ("settings", "calibration"), "in words"),
    _item("14", "Methods: fairness", "What was done for it", left="measures taken, or none"),
    _item("15", "Methods: model output (development)", "What comes out; how thresholds were found", ("point",)),
    _item(
        "16",
        "Methods: training versus evaluation",
        "How the two sets of data differ",
        ("flow",),
        "setting, eligibility, annotation",
    ),
    _item("17", "Methods: ethical approval", "Committee, consent or waiver", left="statement"),
    _item("18a", "Open science: funding", "Who paid, and their role", left="statement"),
    _item("18b", "Open science: conflicts of interest", "Of each author", left="statement"),
    _item("18c", "Open science: protocol", "Where it is, or that there is none", left="statement"),
    _item("18d", "Open science: registration", "Register and number, or none", left="statement"),
    _item("18e", "Open science: data", "Whether they can be had", left="statement"),
    _item("18f", "Open science: code", "Whether the code of the analysis can be had", ("made",), "where"),
    _item("19", "Patient and public involvement", "Who was involved in what, or nobody", left="statement"),
    _item("20a", "Results: participants", "How many came through each step", ("flow",), "with and without lesions"),
    _item("20b", "Results: participants", "Who they are", ("flow", "subgroups"), "dates, age, sex, disease, treatment"),
    _item(
        "20c",
        "Results: participants (evaluation)",
        "Evaluated beside development data",
        ("flow",),
        "distribution of age, sex, scanners and volumes in both",
    ),
    _item("21", "Results: model development", "How many in each analysis", ("flow", "models")),
    _item(
        "22",
        "Results: model specification (development)",
        "The model itself, and terms of use",
        left="where weights are",
    ),
    _item(
        "23a",
        "Results: model performance",
        "With intervals, and of subgroups",
        ("models", "subgroups", "thickness"),
        "age, sex, ethnicity: not in the cohort table",
    ),
    _item("23b", "Results: model performance", "Differences between clusters", ("subgroups",), "centres"),
    _item(
        "24",
        "Results: model updating (evaluation)",
        "The updated model and how well it does",
        ("calibration", "stages"),
    ),
    _item("25", "Discussion: interpretation", "What it all means, fairness too", ("better", "sure"), "discussion"),
    _item("26", "Discussion: limitations", "And what they do to bias and reach", ("caveat",), "all others"),
    _item("27a", f"{_USE} (development)", "What to do with poor or missing input", left="procedure in the clinic"),
    _item("27b", f"{_USE} (development)", "What users do, and what they must know", left="procedure in the clinic"),
    _item("27c", _USE, "What should come next", left="discussion"),
)

_ABSTRACT = (
    _abstract("1", "Title", "Developing or evaluating a model, for whom, of what", left="title"),
    _abstract("2", "Background", "Clinical setting, and why a model", left="abstract"),
    _abstract("3", "Objectives", "Aims; development, evaluation or both", ("question",), "which of the two"),
    _abstract("4", "Methods", "Sources of the data", left="sources"),
    _abstract("5", "Methods", "Who could take part, and where", left="rules, setting"),
    _abstract("6", "Methods", "What is predicted", ("question",), "in words of the abstract"),
    _abstract("7", "Methods (development)", "Kind of model, steps, internal validation", ("settings",), "in words"),
    _abstract("8", "Methods", "Measures of performance", ("models",)),
    _abstract("9", "Results", "Participants, and how many with the outcome", ("models", "better")),
    _abstract("10", "Results (development)", "Inputs of the final model", ("data",), "in words of the abstract"),
    _abstract("11", "Results", "Performance with intervals", ("better", "models")),
    _abstract("12", "Discussion", "What it all means", ("better", "sure"), "conclusion"),
    _abstract("13", "Registration", "Register and number", left="statement"),
)

_REFERENCE = "Collins et al., BMJ 2024, doi:10.1136/bmj-2023-078378"
_ARTICLE = "the article's table (PMC11019967), as reproduced in public under its licence CC BY 4.0"

TRIPOD_AI = Checklist(
    name="TRIPOD+AI (2024)",
    reference=_REFERENCE,
    sources={"a": _ARTICLE, "b": "a second public transcription of that table"},
    about="The two agree. Items marked development or evaluation concern that kind of study alone.",
    items=_ITEMS,
)

TRIPOD_AI_ABSTRACTS = Checklist(
    name="TRIPOD+AI for abstracts (2024)",
    reference=_REFERENCE,
    sources={"a": _ARTICLE},
    about="Numbers and subjects were compared; that copy of the list has no sections, so that those here are ours.",
    items=_ABSTRACT,
)
