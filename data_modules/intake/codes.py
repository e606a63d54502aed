"""Why a series is taken or left, as codes, and each code in a sentence."""

from __future__ import annotations

OK, JOINED = "ok", "joined"
LOCALIZER, DOSE_REPORT, SECONDARY_CAPTURE = "localizer", "dose_report", "secondary_capture"
EXAM_SUMMARY, NOT_CT, NOT_HEAD, REFORMAT = "exam_summary", "not_ct", "not_head", "reformat"
CONTRAST, TOO_FEW_SLICES, DUPLICATE = "contrast", "too_few_slices", "duplicate"
UNREADABLE, NOT_HU, GEOMETRY = "unreadable", "not_hu", "geometry"
NOT_COVERED, NOT_REGISTERED = "not_covered", "not_registered"
TOO_LARGE, CRASHED, TIMED_OUT = "too_large", "crashed", "timed_out"
BAD_ROW, BAD_LABEL = "bad_row", "bad_label"

CODES = {
    OK: "a head CT in Hounsfield units, read and written",
    JOINED: "skull base and vault of one scan, delivered as two series and joined",
    LOCALIZER: "a localizer, by which the scan was planned",
    DOSE_REPORT: "a report of the dose",
    SECONDARY_CAPTURE: "a picture of a screen or a document, no CT slices",
    EXAM_SUMMARY: "a protocol or summary of the examination, no CT slices",
    NOT_CT: "not of a CT scanner",
    NOT_HEAD: "of another part of the body",
    REFORMAT: "reformatted from other slices, or in another plane than that of the acquisition",
    CONTRAST: "with contrast agent, which reads as calcium",
    TOO_FEW_SLICES: "too few slices for the region around the carotid siphons",
    DUPLICATE: "the same image as another series",
    UNREADABLE: "damaged: it cannot be read",
    NOT_HU: "its values are no Hounsfield units",
    GEOMETRY: "the places of its slices are missing or cannot be right",
    NOT_COVERED: "the region of interest lies outside the scan",
    NOT_REGISTERED: "it could not be registered to the template",
    TOO_LARGE: "it asks for more memory than a series may have",
    CRASHED: "the process that read it broke down",
    TIMED_OUT: "reading it took longer than a series may take",
    BAD_ROW: "its row or name cannot be used (nnU-Net, BIDS and tables)",
    BAD_LABEL: "its label cannot be used (nnU-Net, BIDS and tables)",
}
"""Every code of `inventory.csv`, and what it says."""

ACCEPTED = (OK, JOINED)
FAILED = (UNREADABLE, TOO_LARGE, CRASHED, TIMED_OUT)
"""What should have been read and could not be; everything else was looked at and rejected."""
RETRIED = (TOO_LARGE, CRASHED, TIMED_OUT)
"""What may end otherwise when it is tried again, on another machine or with other limits."""
