"""Items of checklists in words of our own, and which part of a page answers them.

CLAIM: Tejani et al., Radiology: Artificial Intelligence 2024, doi:10.1148/ryai.240300. TRIPOD+AI: Collins et al., BMJ
2024, doi:10.1136/bmj-2023-078378. Metrics Reloaded: Maier-Hein et al., Nature Methods 2024,
doi:10.1038/s41592-023-02151-z; its questions have no numbers here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """What a checklist asks for.

    Attributes:
        number: in the checklist; empty where it has none.
        asks: for what.
        where: keys of places (`answers.PLACES`) that answer it, as far as the program knows.
        left: what of it only the authors know; empty: nothing.
    """

    number: str
    asks: str
    where: tuple[str, ...] = ()
    left: str = ""


CLAIM = (
    Item("1", "Title or abstract: a study of AI, and of which kind", left="title and abstract"),
    Item("2", "Structured summary of design, methods, results, conclusions", left="abstract"),
    Item("3", "Background, intended use and role of the method", ("card",), "clinical background and role"),
    Item("4", "Aims, objectives, hypotheses", ("question",), "hypotheses stated in advance"),
    Item("5", "Prospective or retrospective", left="design of the study"),
    Item("6", "Goal of the study", ("question",), "whether exploration, feasibility or confirmation"),
    Item("7", "Sources of the data", ("data",), "hospitals, registries, dates"),
    Item("8", "Inclusion and exclusion criteria", ("flow",), "criteria by which patients came into the cohort"),
    Item("9", "Preprocessing of the data", ("data", "settings")),
    Item("10", "Selection of subsets of the data", ("settings",), "subsets chosen before the cohort table"),
    Item("11", "De-identification", left="how and by whom"),
    Item("12", "How missing data were handled", ("flow",), "what is missing in the cohort table, and why"),
    Item("13", "Protocol of image acquisition", ("subgroups", "thickness"), "scanners and protocol in full"),
    Item("14", "How the reference standard was obtained", left="annotation protocol, tools"),
    Item("15", "Why this reference standard", left="reasons"),
    Item("16", "Who annotated", left="readers, their training and experience"),
    Item("17", "How the test set was annotated", left="readers, blinding"),
    Item("18", "Variability between and within readers", ("readers",), "variability within a reader; adjudication"),
    Item("19", "How data were assigned to partitions", ("flow", "settings"), "rule by which splits were drawn"),
    Item("20", "Level at which partitions are disjoint", ("data", "guard")),
    Item("21", "Intended size of the test sample", ("answer",), "size that was planned, and why"),
    Item("22", "Description of the model", ("models", "settings")),
    Item("23", "Software, libraries", ("made",)),
    Item("24", "How parameters were initialised", ("worth", "settings")),
    Item("25", "Training: augmentation, hyperparameters, number of models", ("training", "settings")),
    Item("26", "How the final model was chosen", ("calibration", "point"), "models tried that are not on the page"),
    Item("27", "Ensembling", ("models",)),
    Item("28", "Metrics of performance", ("models", "legend")),
    Item("29", "Uncertainty and significance", ("pairs", "legend")),
    Item("30", "Robustness, sensitivity analysis", ("thickness", "subgroups", "seeds", "stress")),
    Item("31", "Explainability", ("worth", "failures")),
    Item("32", "Evaluation on internal data", ("models",)),
    Item("33", "Testing on external data", left="whether the evaluated patients are of other hospitals"),
    Item("34", "Registration of a clinical trial", left="number, or none"),
    Item("35", "Patients and examinations included and excluded", ("flow",)),
    Item(
        "36", "Demographic and clinical characteristics by partition", left="age, sex, disease: not in the cohort table"
    ),
    Item("37", "Performance with its uncertainty", ("models", "stages")),
    Item("38", "Diagnostic performance and its precision", ("stages", "detection")),
    Item("39", "Analysis of failures", ("failures", "answer")),
    Item("40", "Limitations", ("caveat",), "all others"),
    Item("41", "Implications for practice", left="discussion"),
    Item("42", "Full protocol", left="reference"),
    Item("43", "Availability of software, model, data", ("made",), "where they can be had"),
    Item("44", "Funding and its role", left="statement"),
)

TRIPOD_AI = (
    Item("1", "Title: development or evaluation of a prediction model, population, outcome", left="title"),
    Item("2", "Abstract", left="abstract (TRIPOD+AI for abstracts)"),
    Item("3a", "Healthcare context and rationale", left="background"),
    Item("3b", "Target population, intended purpose and users", ("card",), "place in the care pathway"),
    Item("3c", "Known health inequalities between groups", left="background"),
    Item("4", "Objectives", ("question",)),
    Item("5a", "Sources of the data", ("data",), "sources, and how far they represent the target population"),
    Item("5b", "Dates of the data", left="first and last date of inclusion"),
    Item("6a", "Setting: number and place of centres", left="centres"),
    Item("6b", "Eligibility", left="criteria"),
    Item("6c", "Treatments received", left="where they matter"),
    Item("7", "Preparation and quality checks of the data", ("data", "flow", "settings")),
    Item("8a", "Outcome, and how it is assessed", ("legend",), "annotation protocol"),
    Item("8b", "Qualification of the assessors", left="readers"),
    Item("8c", "Blinding of the assessment", left="blinding"),
    Item("9a", "Choice of predictors", ("settings",)),
    Item("9b", "Definition and measurement of predictors", ("data", "settings"), "acquisition"),
    Item("9c", "Qualification of assessors of predictors", left="not applicable where images alone are read: say so"),
    Item("10", "Sample size", ("answer",), "how it was planned"),
    Item("11", "Missing data", ("flow",), "how missing labels came about"),
    Item("12a", "How data were partitioned and used", ("flow", "guard")),
    Item("12b", "How predictors were handled", ("settings",)),
    Item("12c", "Type of model, building, tuning, internal validation", ("settings", "training", "point")),
    Item("12d", "Heterogeneity between clusters", ("subgroups",), "centres: not in the cohort table"),
    Item("12e", "Measures and plots of performance", ("models", "calibration", "detection", "volumes")),
    Item("12f", "Updating of the model", ("calibration",)),
    Item("12g", "How predictions were calculated", ("settings", "point")),
    Item("13", "Class imbalance", ("settings", "point")),
    Item("14", "Fairness", ("subgroups",), "age, sex, ethnicity: not in the cohort table"),
    Item("15", "Output of the model and thresholds", ("point", "stages")),
    Item("16", "Differences of training and evaluation data", ("flow", "guard"), "setting, eligibility, outcome"),
    Item("17", "Ethical approval", left="approval, consent"),
    Item("18a", "Funding", left="statement"),
    Item("18b", "Conflicts of interest", left="statement"),
    Item("18c", "Protocol", left="where it is, or that there is none"),
    Item("18d", "Registration", left="register and number, or none"),
    Item("18e", "Sharing of data", left="statement"),
    Item("18f", "Sharing of code", ("made",), "where the code can be had"),
    Item("19", "Involvement of patients and the public", left="statement"),
    Item("20a", "Flow of participants", ("flow",), "follow-up"),
    Item("20b", "Characteristics of participants", ("subgroups",), "demography, disease"),
    Item("20c", "Comparison of development and evaluation data", ("flow",), "distribution of predictors"),
    Item("21", "Participants and events in each analysis", ("flow", "models")),
    Item("22", "Full model for reuse", ("made",), "where weights can be had"),
    Item("23a", "Performance with intervals, also of subgroups", ("models", "subgroups", "thickness")),
    Item("23b", "Heterogeneity of performance between clusters", ("subgroups",), "centres"),
    Item("24", "Results of updating", ("calibration", "stages")),
    Item("25", "Interpretation, also of fairness", ("answer",), "discussion"),
    Item("26", "Limitations", ("caveat",), "all others"),
    Item("27a", "Handling of poor or missing input in use", ("card",), "procedure in the clinic"),
    Item("27b", "Users' interaction and expertise", left="procedure in the clinic"),
    Item("27c", "Next steps", left="discussion"),
)

METRICS_RELOADED = (
    Item("", "Problem category: semantic segmentation, and detection of lesions", ("models", "stages")),
    Item("", "Interest in the volume, and its agreement", ("volumes", "risk")),
    Item("", "Interest in boundaries: surface Dice at a tolerance in mm", ("models", "legend"), "why this tolerance"),
    Item("", "Small structures: lesion-wise counts beside overlap", ("models", "stages")),
    Item("", "Sizes that vary: figures by size", ("volumes", "answer")),
    Item("", "Criterion of a hit, and how lesions are paired", ("legend",)),
    Item("", "Empty references and empty predictions", ("legend", "stages")),
    Item("", "Predicted scores: curves over all thresholds", ("point", "detection")),
    Item("", "Rule of decision, and how it was chosen", ("point",)),
    Item("", "Calibration, if scores are used as probabilities", ("calibration",)),
    Item("", "Several scans of one patient: patients as units", ("legend", "pairs")),
    Item("", "Uncertain reference: several readers", ("readers",), "who read, and how labels were agreed"),
    Item("", "Strata and confounders", ("thickness", "subgroups")),
    Item("", "Aggregation, missing values, and tests corrected for their number", ("legend", "pairs")),
    Item("", "Single failures looked at", ("failures",)),
)

CHECKLISTS = {
    "CLAIM (2024)": CLAIM,
    "TRIPOD+AI (2024)": TRIPOD_AI,
    "Metrics Reloaded (2024)": METRICS_RELOADED,
}
"""Name to items."""
