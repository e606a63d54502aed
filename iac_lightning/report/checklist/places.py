"""Where a report can answer an item: places on its page, and files in the folder of each run."""

from __future__ import annotations

PLACES = {
    "question": ("Question", "question"),
    "better": ("Which is better", "better"),
    "sure": ("How sure are we", "sure"),
    "fails": ("Where the best model fails", "fails"),
    "caveat": ("What this cannot say", "caveat"),
    "glance": ("At a glance", "table-glance"),
    "models": ("Models", "table-models"),
    "more": ("Models, continued", "table-models_more"),
    "pairs": ("Paired comparisons", "table-comparisons"),
    "everything": ("Every headline measure", "table-comparisons_all"),
    "values": ("Dice of each model", "figure-dice"),
    "agreement": ("Agreement of volumes", "figure-volumes"),
    "training": ("Training curves", "figure-training_*"),
    "controls": ("What the transformer does", "table-controls"),
    "guard": ("Can these figures be trusted?", "can-these-figures-be-trusted"),
    "thickness": ("Slice thickness", "slice-thickness"),
    "risk": ("Risk groups", "table-risk_groups"),
    "detection": ("Detection per patient", "table-detection"),
    "point": ("Operating point", "table-operating_point"),
    "froc": ("Lesions found against false components", "figure-froc"),
    "calibration": ("Calibration", "table-calibration"),
    "reliability": ("Reliability", "figure-reliability"),
    "stages": ("Before and after calibration", "table-stages"),
    "scans": ("Any lesion in the scan?", "table-detection_at_point"),
    "volumes": ("Volumes by size", "table-volumes_by_size"),
    "subgroups": ("Subgroups", "table-subgroups_*"),
    "readers": ("Readers", "table-readers"),
    "seeds": ("Seeds and folds", "table-repeats"),
    "failures": ("Failures", "figure-failure_*"),
    "flow": ("Flow of patients and scans", "flow-of-patients-and-scans"),
    "data": ("Data", "data"),
    "made": ("How this was made", "how-this-was-made"),
}
"""Key to what a place is called and the anchor it has on the page; * stands for anything."""

RUN_FILES = {"settings": "config.yaml", "provenance": "provenance.json"}
"""Key to a file of the run directory: every setting; code, versions and machine."""
