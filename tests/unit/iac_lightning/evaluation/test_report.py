from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from data_modules.errors import UserError
from iac_lightning.evaluation.analysis import analyse
from iac_lightning.evaluation.analysis_page import analysis_sections
from iac_lightning.evaluation.bootstrap import Interval, PairedDifference, holm, paired_difference
from iac_lightning.evaluation.report import (
    Comparison,
    ExtraFigure,
    ModelResult,
    Overlay,
    ReportContext,
    answer,
    compare,
    duration,
    interval,
    model_rows,
    p_value,
    write_report,
)
from iac_lightning.evaluation.summary import summarise

PNG = b"\x89PNG\r\n\x1a\nnot a real picture"
CONTEXT = ReportContext(title="ViT <b>against</b> CNN", question="Which is better?", split="test", seed=0)


QUALITY = {"vit": 0.8, "scratch": 0.62, "cnn": 0.79}


@pytest.fixture(scope="module")
def models(make_table):
    results = {}
    for k, (name, quality) in enumerate(QUALITY.items()):
        table = make_table(quality, k)
        results[name] = ModelResult(
            name=name,
            label=name.upper(),
            table=table,
            summary=summarise(table, 0, resamples=200),
            threshold=0.4,
            prior_threshold=0.3,
            overlays=[Overlay(kind="best", series_id="p001_s0", dice=0.9, png=PNG)],
            parameters=1234567,
            train_seconds=400,
        )
    return results


@pytest.fixture(scope="module")
def dev_tables(make_table):
    tables = {name: make_table(quality, k, patients=30) for k, (name, quality) in enumerate(QUALITY.items())}
    return {
        name: t.assign(patient_id="d" + t["patient_id"], series_id="d" + t["series_id"]) for name, t in tables.items()
    }


@pytest.fixture(scope="module")
def analysis(models, dev_tables):
    tables = {name: model.table for name, model in models.items()}
    return analyse(tables, dev_tables, baseline="cnn", seed=0, resamples=100)


class Page(HTMLParser):
    """Everything that a page would fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]


def test_page_is_self_contained_and_complete(models, tmp_path):
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
        figures=[ExtraFigure(title="Training curves", caption="by epoch", png=PNG)],
        contact_sheet=tmp_path / "sheet.png",
    )
    (tmp_path / "sheet.png").write_bytes(PNG)
    path = write_report(tmp_path / "report", models, context)
    text = path.read_text()
    page = Page(text)
    assert path == tmp_path / "report" / "index.html"
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(s.startswith("data:image/png;base64,") or s in ("models.csv", "comparisons.csv") for s in page.sources)
    assert page.tags.count("img") == 4 + 1 + 3 + 1  # charts, extra figure, overlays, contact sheet
    for expected in ("It ranks nothing.", "iac report x", "abc123", "f00", "a note", "Simulated heads.", "1,234,567"):
        assert expected in text
    assert text.index("Which?") < text.index("highest mean Dice") < text.index("<table") < text.index("<img")
    dice = models["vit"].summary["dice"]
    assert f"{dice['mean']:.3f} [{dice['ci95'][0]:.3f}; {dice['ci95'][1]:.3f}]" in text


def test_csv_beside_the_page_holds_the_same_figures(models, tmp_path):
    write_report(tmp_path, models, CONTEXT)
    table = pd.read_csv(tmp_path / "models.csv").set_index(["run", "variant"])
    summary = models["cnn"].summary
    assert table.loc[("cnn", "plain"), "dice"] == pytest.approx(summary["dice"]["mean"])
    assert table.loc[("cnn", "protocol prior"), "dice"] == pytest.approx(summary["protocol_prior"]["dice"]["mean"])
    assert table.loc[("cnn", "protocol prior"), "threshold"] == 0.3
    assert table.loc[("cnn", "plain"), "volume_icc_low"] == pytest.approx(summary["volume_icc"]["ci95"][0])
    comparisons = pd.read_csv(tmp_path / "comparisons.csv")
    assert comparisons["variant"].value_counts().to_dict() == {"plain": 3, "protocol prior": 3}
    assert holm(comparisons["p"][:3]) == pytest.approx(comparisons["p_holm"][:3])


def test_comparisons_use_scans_with_lesions_and_holm(models):
    found = compare(models, "dice", seed=0)
    assert [(c.first, c.second) for c in found] == [("VIT", "SCRATCH"), ("VIT", "CNN"), ("SCRATCH", "CNN")]
    a, b = (models[n].table[models[n].table["has_lesion"]] for n in ("vit", "scratch"))
    expected = paired_difference(a["dice"], b["dice"], a["patient_id"].to_numpy(dtype=str), seed=0)
    assert found[0].paired == expected
    assert [c.adjusted_p for c in found] == pytest.approx(holm([c.paired.wilcoxon_p for c in found]))
    assert len(found[0].patients) == a["patient_id"].nunique()


def test_comparisons_pair_by_series_not_by_row(models):
    shuffled = models["scratch"].table.sample(frac=1, random_state=0)
    other = {**models, "scratch": ModelResult(**{**vars(models["scratch"]), "table": shuffled})}
    plain, mixed = (compare(m, "dice", seed=0)[0].paired.difference for m in (models, other))
    assert (mixed.estimate, mixed.low, mixed.high) == pytest.approx((plain.estimate, plain.low, plain.high))


def test_reference_is_compared_with_every_other(models):
    found = compare(models, "dice", seed=0, reference="cnn")
    assert [(c.first, c.second) for c in found] == [("VIT", "CNN"), ("SCRATCH", "CNN")]
    with pytest.raises(UserError, match=r"'unet'.*vit, scratch, cnn"):
        compare(models, "dice", seed=0, reference="unet")


def test_models_on_different_series_or_labels_are_refused(models):
    fewer = ModelResult(**{**vars(models["cnn"]), "table": models["cnn"].table.iloc[1:]})
    with pytest.raises(UserError, match=r"'vit' and 'cnn'.*1 differ: p000_s0"):
        compare({"vit": models["vit"], "cnn": fewer}, "dice", seed=0)
    table = models["cnn"].table.copy()
    table.loc[3, "label_volume_mm3"] += 1
    relabelled = ModelResult(**{**vars(models["cnn"]), "table": table})
    with pytest.raises(UserError, match="same labels"):
        compare({"vit": models["vit"], "cnn": relabelled}, "dice", seed=0)


def test_answer_names_the_best_and_what_is_sure(models):
    sentences = answer(models, compare(models, "dice", seed=0), CONTEXT)
    assert re.match(r"VIT has the highest mean Dice: 0\.\d{3} \[0\.\d{3}; 0\.\d{3}\]", sentences[0])
    assert "38 scans with lesions (19 patients) among the 48 scans of 24 patients of the test split" in sentences[0]
    assert any(s.startswith("VIT exceeds SCRATCH by 0.") and "p < 0.001" in s for s in sentences)
    # SCRATCH − CNN is negative: the sentence turns it round, interval included
    turned = next(s for s in sentences if s.startswith("CNN exceeds SCRATCH"))
    low, high = (float(v) for v in re.search(r"\[(.*); (.*)\]", turned).groups())
    assert 0 < low < high


def test_answer_says_when_nothing_is_ranked(models):
    close = {"vit": models["vit"], "cnn": models["cnn"]}
    sentences = answer(close, compare(close, "dice", seed=0), CONTEXT)
    assert "No difference between two models is established" in sentences[1]
    assert "does not rank" in sentences[1]
    alone = answer({"vit": models["vit"]}, [], CONTEXT)
    assert len(alone) == 1
    assert "reaches a mean Dice" in alone[0]


@pytest.mark.parametrize(
    ("low", "high", "p", "established"),
    [
        (0.01, 0.2, 0.01, True),
        (-0.2, -0.01, 0.01, True),
        (-0.01, 0.2, 0.01, False),
        (0.01, 0.2, 0.06, False),
        (np.nan, np.nan, 0.01, False),
        (0.01, 0.2, np.nan, False),
    ],
)
def test_a_difference_is_established_by_interval_and_test_together(low, high, p, established):
    difference = Interval(estimate=0.1, low=low, high=high, n=9, n_patients=5)
    paired = PairedDifference(difference=difference, wilcoxon_p=0.001, wins=9, ties=0, losses=0)
    assert (
        Comparison(first="A", second="B", paired=paired, adjusted_p=p, patients=np.ones(5)).established == established
    )


def test_page_of_one_model_without_lesions_and_without_prior(make_table, tmp_path):
    table = make_table(0.7, 0, with_prior=False)
    table = table[~table["has_lesion"]].reset_index(drop=True)
    model = ModelResult(name="m", label="M", table=table, summary=summarise(table, 0, resamples=50), threshold=0.5)
    text = write_report(tmp_path, {"m": model}, CONTEXT).read_text()
    assert "No answer" in text
    assert "Paired comparisons" not in text
    assert "&lt;b&gt;against" in text
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text)


def test_rows_have_one_line_a_variant(models):
    rows = model_rows(models)
    assert [(r["run"], r["variant"]) for r in rows][:2] == [("vit", "plain"), ("vit", "protocol prior")]
    assert len(rows) == 6


def test_no_model_and_equal_labels_are_refused(models, tmp_path):
    with pytest.raises(UserError, match="at least one"):
        write_report(tmp_path, {}, CONTEXT)
    twin = ModelResult(**{**vars(models["cnn"]), "label": "VIT"})
    with pytest.raises(UserError, match="same label"):
        write_report(tmp_path, {"vit": models["vit"], "cnn": twin}, CONTEXT)


def test_words_for_numbers():
    assert interval(-0.1234, -0.2, 0.05) == "−0.123 [−0.200; 0.050]"
    assert interval(0.5, None, None) == "0.500"
    assert interval(0.5, np.nan, np.nan) == "0.500"
    assert interval(None, None, None) == "–"
    assert [p_value(p) for p in (0.0004, 0.0321, float("nan"))] == ["p < 0.001", "p = 0.032", "p –"]
    assert [duration(s) for s in (None, 42, 400, 12240)] == ["–", "42 s", "7 min", "3.4 h"]


def test_analysis_follows_the_rest_and_leaves_the_first_screen_alone(models, dev_tables, analysis, tmp_path):
    sections = analysis_sections(models, dev_tables, analysis, CONTEXT)
    before = write_report(tmp_path / "before", models, CONTEXT).read_text()
    after = write_report(tmp_path / "after", models, CONTEXT, sections).read_text()
    first_figure = before.index("<img")
    assert after[:first_figure] == before[:first_figure]
    titles = ["Risk groups", "Volume intervals", "Slice thickness", "Detection per patient"]
    headings = re.findall(r"<h2>(.*?)</h2>", after)
    assert headings == [*re.findall(r"<h2>(.*?)</h2>", before)[:-1], *titles, "How this was made"]
    assert "<h3>Slice thickness</h3>" in before
    assert "<h3>Slice thickness</h3>" not in after  # drawn once, with its slope
    page = Page(after)
    assert page.tags.count("img") == 3 + 3 + 1 + 1 + 3 + 1 + 1  # charts, overlays; confusion, coverage, intervals, …
    assert "analysis.json" in page.sources
    assert "analysis.json" not in before
    words = re.sub(r"<[^>]*>", " ", after)
    assert not re.search(r"\b(nan|None|inf)\b", words)
    for section in sections:
        assert all("scans of" in t.legend and "test split, seed 0" in t.legend for t in section.tables)


def test_tables_of_the_analysis_say_what_was_computed(models, dev_tables, analysis):
    risk, volumes, thickness, detection = analysis_sections(models, dev_tables, analysis, CONTEXT)
    found = analysis["models"]["vit"]
    limits = [f"up to {analysis['cutoffs'][key]:.3g}\u00a0mm³" for key in ("low_mm3", "medium_mm3")]
    assert all(limit in risk.text for limit in limits)
    wrong = {name: m["risk"]["misclassified"] for name, m in analysis["models"].items()}
    kappa = found["risk"]["kappa"]
    low, high = kappa["ci95"]
    row = risk.tables[0].rows[0]
    assert row[:2] == ["VIT", f"{wrong['vit']} of 48"]
    assert row[3] == (f"{kappa['value']:.3f}", f"{low:.3f}; {high:.3f}")
    row = risk.tables[1].rows[1]
    assert row[:2] == ["SCRATCH against CNN", f"{wrong['scratch']} against {wrong['cnn']}"]
    change = f"{(wrong['scratch'] - wrong['cnn']) / wrong['cnn']:+.0%}".replace("-", "−").replace("%", "\u00a0%")
    assert row[2][0] == change
    whole = found["conformal"]["coverage"][0]
    assert volumes.tables[0].rows[0][1][0] == f"{whole['coverage']:.0%}".replace("%", "\u00a0%")
    assert volumes.tables[0].rows[1][:2] == ["+ mean width, mm³", f"{whole['mean_width_mm3']:.1f}"]
    n = len(dev_tables["vit"])
    assert f"fitted on {n} scans of 30 patients of the development split" in volumes.tables[0].legend
    assert "merged for want of 20" in volumes.tables[0].legend
    lesions = {name: m.table[m.table["has_lesion"]] for name, m in models.items()}
    slope = {name: np.polyfit(t["slice_thickness_mm"], t["dice"], 1)[0] for name, t in lesions.items()}
    rows = {row[0]: row[1][0].replace("−", "-") for row in thickness.tables[0].rows}
    assert float(rows["VIT"]) == pytest.approx(slope["vit"], abs=5e-4)
    assert float(rows["+ VIT − CNN"]) == pytest.approx(slope["vit"] - slope["cnn"], abs=5e-4)
    thin = lesions["vit"].loc[lesions["vit"]["slice_thickness_mm"] <= 1, "dice"]
    assert float(thickness.tables[1].rows[0][1][0]) == pytest.approx(thin.mean(), abs=5e-4)
    assert "19 of 24 patients have calcification" in detection.text


def test_an_analysis_of_one_model_with_one_kind_of_patient(make_table):
    """Nothing to compare, no curve, too few patients for upper ends: said, not drawn empty."""
    table = make_table(0.7, 0)
    model = ModelResult(name="m", label="M", table=table, summary=summarise(table, 0, resamples=20), threshold=0.5)
    with_lesions = table[table["has_lesion"]].reset_index(drop=True)
    model = ModelResult(**{**vars(model), "table": with_lesions})
    dev = {"m": with_lesions.assign(patient_id="d" + with_lesions["patient_id"])[:8]}
    found = analyse({"m": with_lesions}, dev, seed=0, resamples=20)
    risk, volumes, _, detection = analysis_sections({"m": model}, dev, found, CONTEXT)
    assert len(risk.tables) == 1
    assert volumes.tables[0].rows[1][1] == f"– ({len(with_lesions)} open)"
    assert "no upper end" in volumes.tables[0].legend
    assert not detection.figures
    assert "there is no curve" in detection.text


def test_what_is_missing_takes_one_paragraph(models, tmp_path):
    text = "Risk groups are left out until A is evaluated"
    context = ReportContext(**{**vars(CONTEXT), "missing": text, "mend": ("iac evaluate <a>", "iac evaluate b")})
    plain, page = (write_report(tmp_path / str(c.missing), models, c).read_text() for c in (CONTEXT, context))
    paragraph = f'<p class="legend">{text}: <code>iac evaluate &lt;a&gt;</code>, <code>iac evaluate b</code>.</p>\n'
    assert page.replace(paragraph, "") == plain
