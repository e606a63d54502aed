from __future__ import annotations

import re

import pytest

from data_modules.errors import UserError
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.evaluation.tables.summary import summarise
from iac_lightning.report.models.analysis import analysis_sections
from iac_lightning.report.models.findings import of_analysis
from iac_lightning.report.models.page import write_report
from iac_lightning.report.page import ExtraFigure, Overlay, ReportContext
from tests.report_page import CONTEXT, PNG, Page


@pytest.fixture
def overlays(model_results):
    return {name: [Overlay(kind="best", scan="scan 3fa9c1", dice=0.9, png=PNG)] for name in model_results}


@pytest.mark.usefixtures("undrawn")
def test_page_is_self_contained_and_complete(model_results, overlays, tmp_path):
    context = ReportContext(
        title="T <script>alert(1)</script>",
        question="Which?",
        caveat="It ranks nothing.",
        split="test",
        seed=7,
        command="iac report x",
        git="abc123",
        fingerprint="f00",
        notes=["a note"],
        data=["Simulated heads."],
        figures=[ExtraFigure(name="training", title="Training curves", caption="by epoch", png=PNG, source="9 scans")],
        contact_sheet=tmp_path / "sheet.png",
    )
    (tmp_path / "sheet.png").write_bytes(PNG)
    path = write_report(tmp_path / "report", model_results, context, overlays=overlays)
    text = path.read_text()
    page = Page(text)
    assert path == tmp_path / "report" / "index.html"
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(
        s.startswith(("data:image/png;base64,", "#")) or s in ("models.csv", "comparisons.csv", "checklist.html")
        for s in page.sources
    )
    assert page.tags.count("img") == 4 + 1 + 3 + 1  # charts, extra figure, overlays, contact sheet
    for expected in ("It ranks nothing.", "iac report x", "abc123", "f00", "a note", "Simulated heads.", "1,234,567"):
        assert expected in text
    assert text.index("Which?") < text.index("highest mean Dice") < text.index("<table") < text.index("<img")
    lines = re.findall(r'<p class="made">(.*?) · <code>iac report x</code></p>', text)
    assert len(lines) == text.count("<table") + page.tags.count("img") - 1  # all but the contact sheet
    assert all("scans" in line or "scan of" in line for line in lines)
    assert "38 scans with lesions of 19 patients, test split, seed 7" in lines
    dice = model_results["vit"].summary["dice"]
    assert f"{dice['mean']:.3f} [{dice['ci95'][0]:.3f}; {dice['ci95'][1]:.3f}]" in text


def test_page_of_one_model_without_lesions_and_without_plain_masks(make_table, tmp_path):
    table = make_table(0.7, 0, with_plain=False)
    table = table[~table["has_lesion"]].reset_index(drop=True)
    model = ModelResult(name="m", label="M", table=table, summary=summarise(table), threshold=0.5)
    text = write_report(tmp_path, {"m": model}, CONTEXT).read_text()
    assert "No answer" in text
    assert "Paired comparisons" not in text
    assert "&lt;b&gt;against" in text
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text)


def test_no_model_and_equal_labels_are_refused(model_results, tmp_path):
    with pytest.raises(UserError, match="at least one"):
        write_report(tmp_path, {}, CONTEXT)
    twin = ModelResult(**{**vars(model_results["cnn"]), "label": "VIT"})
    with pytest.raises(UserError, match="same label"):
        write_report(tmp_path, {"vit": model_results["vit"], "cnn": twin}, CONTEXT)


@pytest.mark.usefixtures("undrawn")
def test_analysis_follows_the_rest_and_leaves_the_first_screen_alone(
    model_results, overlays, dev_tables, analysis, tmp_path
):
    sections = analysis_sections(model_results, dev_tables, analysis, CONTEXT)
    before = write_report(tmp_path / "before", model_results, CONTEXT, (), overlays).read_text()
    told = of_analysis(model_results, analysis)
    after = write_report(tmp_path / "after", model_results, CONTEXT, sections, overlays, (), told).read_text()
    first_screens = [re.sub("(?s)<nav.*</nav>", "", text[: text.index("<img")]) for text in (before, after)]
    assert first_screens[0] == first_screens[1]
    titles = ["Slice thickness", "Risk groups", "Volume intervals", "Detection per patient"]
    headings = re.findall(r"<h2 id=.*?>(.*?)</h2>", after)
    assert headings == [*re.findall(r"<h2 id=.*?>(.*?)</h2>", before)[:-1], *titles, "How this was made"]
    assert "<h3>Slice thickness</h3>" in before
    assert "<h3>Slice thickness</h3>" not in after  # drawn once, with its slope
    alts = re.findall(r'<img [^>]*alt="([^"]*)"', after)
    assert sum(alt.startswith("Mean Dice by slice thickness: VIT 0.") for alt in alts) == 1  # told by every page
    assert sum(alt.startswith("Change of Dice per mm of slice thickness: VIT ") for alt in alts) == 1
    page = Page(after)
    assert page.tags.count("img") == 3 + 3 + 2 + 1 + 1 + 3 + 1  # charts, overlays; thickness, confusion, coverage, …
    assert "analysis.json" in page.sources
    assert "analysis.json" not in before
    words = re.sub(r"<[^>]*>", " ", after)
    assert not re.search(r"\b(nan|None|inf)\b", words)
    for section in sections:
        assert all("scans of" in t.source and "test split, seed 0" in t.source for t in section.tables)
        assert all("scans" in f.source and "test split, seed 0" in f.source for f in section.figures)


@pytest.mark.usefixtures("undrawn")
def test_what_is_missing_takes_one_paragraph(model_results, tmp_path):
    text = "Risk groups are left out until A is evaluated"
    context = ReportContext(**{**vars(CONTEXT), "missing": text, "mend": ("iac evaluate <a>", "iac evaluate b")})
    plain, page = (write_report(tmp_path / str(c.missing), model_results, c).read_text() for c in (CONTEXT, context))
    paragraph = f'<p class="legend">{text}: <code>iac evaluate &lt;a&gt;</code>, <code>iac evaluate b</code>.</p>\n'
    assert page.replace(paragraph, "") == plain
