from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_modules.errors import UserError
from iac_lightning.evaluation.clinical.analysis import analyse
from iac_lightning.evaluation.statistics.bootstrap import Interval, PairedDifference, holm, paired_difference
from iac_lightning.evaluation.statistics.power import patients_needed
from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, stratum_index
from iac_lightning.evaluation.tables.comparison import Comparison, compare
from iac_lightning.evaluation.tables.measures import MEASURES
from iac_lightning.evaluation.tables.summary import summarise
from iac_lightning.figures.calibration import reliability_of_models
from iac_lightning.report.models.analysis import analysis_sections
from iac_lightning.report.models.answer import answer, failures
from iac_lightning.report.models.calibration import calibration_section
from iac_lightning.report.models.page import write_report
from iac_lightning.report.models.tables import MODEL_COLUMNS, model_rows, model_tables
from iac_lightning.report.page import ExtraFigure, ModelResult, Overlay, ReportContext
from iac_lightning.report.table_files import escape
from iac_lightning.report.words import duration, interval, p_value


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, format="PNG")
    return buffer.getvalue()


PNG = picture()
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
            looks={"n": 3 + k, "n_configs": 2, "n_weights": 1},
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


@pytest.fixture
def undrawn(monkeypatch):
    """What figures show is tested elsewhere."""
    monkeypatch.setattr("iac_lightning.report.page.png", lambda figure: PNG)


@pytest.mark.usefixtures("undrawn")
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
        figures=[ExtraFigure(name="training", title="Training curves", caption="by epoch", png=PNG, source="9 scans")],
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
    lines = re.findall(r'<p class="made" title="iac report x">(.*?) · <code>iac report x</code></p>', text)
    assert len(lines) == text.count("<table") + page.tags.count("img") - 1  # all but the contact sheet
    assert all("scans" in line or "scan of" in line for line in lines)
    assert "38 scans with lesions of 19 patients, test split, seed 7" in lines
    dice = models["vit"].summary["dice"]
    assert f"{dice['mean']:.3f} [{dice['ci95'][0]:.3f}; {dice['ci95'][1]:.3f}]" in text


@pytest.mark.usefixtures("undrawn")
def test_csv_beside_the_page_holds_the_same_figures(models, tmp_path):
    write_report(tmp_path, models, CONTEXT)
    table = pd.read_csv(tmp_path / "models.csv").set_index(["run", "variant"])
    summary = models["cnn"].summary
    assert table.loc[("cnn", "plain"), "dice"] == pytest.approx(summary["dice"]["mean"])
    assert table.loc[("cnn", "protocol prior"), "dice"] == pytest.approx(summary["protocol_prior"]["dice"]["mean"])
    assert table.loc[("cnn", "protocol prior"), "threshold"] == 0.3
    assert table.loc[("cnn", "plain"), "volume_icc_low"] == pytest.approx(summary["volume_icc"]["ci95"][0])
    comparisons = pd.read_csv(tmp_path / "comparisons.csv")
    assert list(pd.read_csv(tmp_path / "models.csv")) == list(MODEL_COLUMNS)
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
    found = answer(models, compare(models, "dice", seed=0), CONTEXT)
    assert re.match(r"VIT has the highest mean Dice: 0\.\d{3} \[0\.\d{3}; 0\.\d{3}\]", found.better[0])
    assert "38 scans with lesions (19 patients) among the 48 scans of 24 patients of the test split" in found.better[0]
    by_model = {name: next(s for s in found.better if f" {name} by " in s) for name in ("SCRATCH", "CNN")}
    assert re.search(r"exceeds SCRATCH by 0\.\d+ \[0\.\d+; 0\.\d+\] \(Holm-adjusted p < 0\.001\)", by_model["SCRATCH"])
    assert "is ahead of CNN" in by_model["CNN"]
    assert found.sure[0].startswith("Established against SCRATCH: the interval excludes 0")
    assert found.sure[1].startswith("Not established against CNN")
    # SCRATCH − CNN is negative: the sentence turns it round, interval included
    turned = next(s for s in found.sure if s.startswith("Also established: CNN − SCRATCH"))
    low, high = (float(v) for v in re.search(r"\[(.*); (.*)\]", turned).groups())
    assert 0 < low < high


def test_answer_says_when_nothing_is_ranked_and_what_would_be_needed(models):
    close = {"vit": models["vit"], "cnn": models["cnn"]}
    comparisons = compare(close, "dice", seed=0)
    found = answer(close, comparisons, CONTEXT)
    assert found.sure[0].startswith("Not established against CNN")
    assert "this sample ranks no model" in found.sure[0]
    needed = patients_needed(comparisons[0].patients, 0.05, 0.8)
    about = f"{round(needed, min(0, 2 - len(str(needed)))):,}"
    assert needed > 19
    assert f"would take about {about} patients with lesions against CNN (80\u00a0% power)" in found.sure[1]
    assert "this sample has 19" in found.sure[1]
    alone = answer({"vit": models["vit"]}, [], CONTEXT)
    assert len(alone.better) == 1
    assert "reaches a mean Dice" in alone.better[0]
    assert alone.fails == found.fails


def test_answer_says_where_the_best_model_fails(models):
    vit = models["vit"]
    table, fails = vit.table, answer(models, compare(models, "dice", seed=0), CONTEXT).fails
    lesions = table[table["has_lesion"]]
    by_stratum = lesions.groupby(stratum_index(lesions["slice_thickness_mm"]))["dice"].mean()
    worst, best = by_stratum.idxmin(), by_stratum.idxmax()
    assert f"Weakest on slices of {THICKNESS_STRATA[worst][0]}: mean Dice {by_stratum[worst]:.3f} [" in fails[0]
    assert f"against {by_stratum[best]:.3f} on {THICKNESS_STRATA[best][0]}" in fails[0]
    n = len(lesions)  # of each scan's three lesions two are small, one of those and another one are hit
    assert fails[1] == f"Misses {n} of {2 * n} small lesions (up to 10\u00a0mm³) and 0 of {n} larger ones."
    free = table[~table["has_lesion"]]
    alarms = (free["volume_mm3"] > 0).sum()
    assert fails[2] == f"Raises a false alarm on {alarms} of {len(free)} scans without lesions."
    error = table["volume_error_mm3"]
    side = "small" if error.mean() < 0 else "large"
    assert f"off by {error.abs().median():.1f}\u00a0mm³ (median)" in fails[3]
    assert f"{abs(error.mean()):.1f}\u00a0mm³ too {side}" in fails[3]


def test_a_model_that_finds_nothing_is_told_so(models):
    table = models["vit"].table.assign(volume_mm3=0.0, n_lesions_hit=0, n_small_lesions_hit=0)
    summary = summarise(table[table["slice_thickness_mm"] < 1], 0, resamples=20)
    text = " ".join(failures(ModelResult(**{**vars(models["vit"]), "summary": summary})))
    assert f"Finds nothing at all in {summary['n_with_lesion']} of {summary['n_with_lesion']} scans" in text
    assert "Weakest" not in text  # one stratum only


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


@pytest.mark.usefixtures("undrawn")
def test_analysis_follows_the_rest_and_leaves_the_first_screen_alone(models, dev_tables, analysis, tmp_path):
    sections = analysis_sections(models, dev_tables, analysis, CONTEXT)
    before = write_report(tmp_path / "before", models, CONTEXT).read_text()
    after = write_report(tmp_path / "after", models, CONTEXT, sections).read_text()
    first_figure = before.index("<img")
    assert after[:first_figure] == before[:first_figure]
    titles = ["Slice thickness", "Risk groups", "Volume intervals", "Detection per patient"]
    headings = re.findall(r"<h2>(.*?)</h2>", after)
    assert headings == [*re.findall(r"<h2>(.*?)</h2>", before)[:-1], *titles, "How this was made"]
    assert "<h3>Slice thickness</h3>" in before
    assert "<h3>Slice thickness</h3>" not in after  # drawn once, with its slope
    page = Page(after)
    assert page.tags.count("img") == 3 + 3 + 2 + 1 + 1 + 3 + 1  # charts, overlays; thickness, confusion, coverage, …
    assert "analysis.json" in page.sources
    assert "analysis.json" not in before
    words = re.sub(r"<[^>]*>", " ", after)
    assert not re.search(r"\b(nan|None|inf)\b", words)
    for section in sections:
        assert all("scans of" in t.source and "test split, seed 0" in t.source for t in section.tables)
        assert all("scans" in f.source and "test split, seed 0" in f.source for f in section.figures)


@pytest.fixture(scope="module")
def written(models, dev_tables, analysis, tmp_path_factory):
    """Folder of a page with everything, written over an earlier one."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "tables").mkdir()
    (folder / "tables/old.csv").touch()
    own = ExtraFigure(name="mae", title="T", caption="c", png=PNG, source="1 scan", command="iac pretrain a.yaml")
    context = ReportContext(**{**vars(CONTEXT), "command": "iac report a_b --out µ", "figures": [own]})
    write_report(folder, models, context, analysis_sections(models, dev_tables, analysis, context))
    return folder


def test_tables_beside_the_page_hold_its_figures(models, written):
    tmp_path, text = written, (written / "index.html").read_text()
    assert not (written / "tables/old.csv").exists()
    shown = re.findall(r"<table>(.*?)</table>", text, re.DOTALL)
    csvs, latex = ({p.stem: p for p in (tmp_path / "tables").glob(f"*.{kind}")} for kind in ("csv", "tex"))
    assert csvs.keys() == latex.keys()
    assert len(csvs) == len(shown)
    some = {"glance", "models", "comparisons", "risk_groups", "intervals", "thickness_slopes"}
    assert some | {f"thickness_{measure}" for measure in MEASURES} <= csvs.keys()
    on_page = sorted(sorted(re.findall(r"[−+]?\d+\.\d+", re.sub("<th.*?</th>", "", table))) for table in shown)

    def numbers(path, minus):
        body = path.read_text()
        body = body.partition("\n")[2] if path.suffix == ".csv" else body.split(r"\midrule")[1]
        return sorted(re.findall(r"[−+]?\d+\.\d+", body.replace(minus, "−")))

    assert sorted(numbers(path, "-") for path in csvs.values()) == on_page
    assert sorted(numbers(path, "$-$") for path in latex.values()) == on_page
    dice = models["vit"].summary["dice"]
    frame = pd.read_csv(csvs["models"]).iloc[0]
    found = frame[[f"Dice (scans with lesions){end}" for end in ("", ", low", ", high")]].tolist()
    assert found == pytest.approx([dice["mean"], *dice["ci95"]], abs=5e-4)


def test_latex_has_its_form_and_says_where_it_comes_from(written):
    for path in (written / "tables").glob("*.tex"):
        text = path.read_text()
        for once in (r"\begin{table}", r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}", r"\end{table}"):
            assert text.count(once) == 1
        assert r"\texttt{iac report a\_b -{}-out µ}" in text
        assert "test split, seed 0" in text
        assert rf"\label{{tab:{path.stem}}}" in text
        assert text.replace("µ", "").isascii()
        columns = len(re.search(r"\\begin{tabular}{(l+r*)}", text).group(1))
        rows = text.split(r"\toprule")[1].split(r"\bottomrule")[0].replace(r"\midrule", "")
        lines = [line for line in rows.splitlines() if line.strip()]
        assert all(line.endswith(r" \\") for line in lines)
        assert all(len(re.findall(r"(?<!\\)&", line)) == columns - 1 for line in lines)
        assert text.count("{") == text.count("}")


def test_latex_escapes():
    assert escape("a_b & 5 % of {x} ~ #1 $2 ^\\") == (
        r"a\_b \& 5 \% of \{x\} \textasciitilde{} \#1 \$2 \textasciicircum{}\textbackslash{}"
    )
    assert escape("−0.1 ≤ x – 4 mm³") == r"$-$0.1 $\leq$ x -- 4 mm\textsuperscript{3}"


def test_figures_beside_the_page_say_what_makes_them(written):
    found = {path.stem: Image.open(path) for path in (written / "figures").glob("*.png")}
    assert {"dice", "differences", "thickness_slopes", "volumes", "mae", "overlay_1_best", "roc"} <= found.keys()
    assert found["mae"].text["Comment"] == "iac pretrain a.yaml"
    assert found["dice"].text["Comment"] == "iac report a_b --out µ"
    assert found["dice"].text["Source"] == "38 scans with lesions of 19 patients, test split, seed 0"
    assert found["dice"].size[0] > 1000


def test_looks_stand_in_the_table_of_models(models, written):
    text = (written / "index.html").read_text()
    assert [f"<td>{n} (2 settings)</td>" in text for n in (3, 4, 5)] == [True] * 3
    assert "how often the test split was evaluated, reported or compared" in text
    assert pd.read_csv(written / "models.csv")["test_looks"].tolist() == [3, 3, 4, 4, 5, 5]
    unguarded = {name: ModelResult(**{**vars(model), "looks": None}) for name, model in models.items()}
    more = model_tables(unguarded, CONTEXT)[1]
    assert "looks" not in [name for name, _ in more.header]
    assert "how often the test split" not in more.legend


def test_calibration_before_and_after(models):
    edges = [(0.0, 0.1, 0.05, 0.02, 900), (0.4, 0.5, 0.45, 0.3, 40), (0.9, 1.0, 0.93, 0.8, 5)]
    keys = ("mean_probability", "lesion_share", "n_voxels")
    rows = [{"bin": [a, b], "lesion_share_ci95": None} | dict(zip(keys, row, strict=True)) for a, b, *row in edges]
    qualities = {
        f"{name}_{when}{suffix}": ([0.9 * v, 1.1 * v] if suffix else v)
        for k, name in enumerate(("ece", "adaptive_ece", "brier", "nll"))
        for when, v in (("before", 0.02 * (k + 1)), ("after", 0.01 * (k + 1)))
        for suffix in ("", "_ci95")
    }
    known = {"temperature": 1.25, "bias": -0.5, "threshold": 0.3, "n_series": 9, "n_patients": 5, "seed": 4}
    known |= {"warnings": ["a warning"], "reliability_before": rows, "reliability_after": rows[:2], **qualities}
    assert calibration_section(models) is None
    section = calibration_section(models | {"vit": ModelResult(**{**vars(models["vit"]), "calibration": known})})
    before, after = section.tables[0].rows
    assert before[4] == ("0.02", "0.018; 0.022")
    assert after == ["+ after calibration", "1.250", "−0.500", "0.3", *after[4:]]
    assert [c[0] for c in after[4:]] == ["0.01", "0.02", "0.03", "0.04"]
    assert section.tables[0].source == "9 scans of 5 patients, development split, seed 4"
    assert "VIT: a warning." in section.tables[0].legend
    assert "Not calibrated here: SCRATCH, CNN." in section.tables[0].legend
    curve, sizes = reliability_of_models({"VIT": known}, "source").axes
    before, after = (line.get_xydata().tolist() for line in curve.lines if line.get_marker() in ("s", "o"))
    assert before == [[0.05, 0.02], [0.45, 0.3], [0.93, 0.8]]
    assert after == before[:2]
    assert [round(bar.get_height()) for bar in sizes.patches] == [900, 40, 5, 900, 40]


@pytest.mark.usefixtures("undrawn")
def test_tables_of_the_analysis_say_what_was_computed(models, dev_tables, analysis):
    thickness, risk, volumes, detection = analysis_sections(models, dev_tables, analysis, CONTEXT)
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
    assert f"fitted on {n} scans of 30 patients of the development split" in volumes.tables[0].source
    assert "merged for want of 20" in volumes.tables[0].legend
    lesions = {name: m.table[m.table["has_lesion"]] for name, m in models.items()}
    slope = {name: np.polyfit(t["slice_thickness_mm"], t["dice"], 1)[0] for name, t in lesions.items()}
    names, of_dice = ([c[0] for c in thickness.tables[0].header], thickness.tables[0].rows[0])
    cells = {name: c[0].replace("−", "-") for name, c in zip(names[2:], of_dice[2:], strict=True)}
    assert float(cells["VIT"]) == pytest.approx(slope["vit"], abs=5e-5)
    assert float(cells["VIT − CNN"]) == pytest.approx(slope["vit"] - slope["cnn"], abs=5e-5)
    assert len(thickness.tables[0].rows) == 2 * len(MEASURES)
    hausdorff = next(t for t in thickness.tables if t.name == "thickness_hd95_mm")
    thick = models["cnn"].table
    thick = thick.loc[(thick["slice_thickness_mm"] > 6) & np.isfinite(thick["hd95_mm"]), "hd95_mm"]
    assert float(hausdorff.rows[2][5][0]) == pytest.approx(thick.mean(), abs=5e-3)
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
    _, risk, volumes, detection = analysis_sections({"m": model}, dev, found, CONTEXT)
    assert len(risk.tables) == 1
    assert volumes.tables[0].rows[1][1] == f"– ({len(with_lesions)} open)"
    assert "no upper end" in volumes.tables[0].legend
    assert not detection.figures
    assert "there is no curve" in detection.text


@pytest.mark.usefixtures("undrawn")
def test_what_is_missing_takes_one_paragraph(models, tmp_path):
    text = "Risk groups are left out until A is evaluated"
    context = ReportContext(**{**vars(CONTEXT), "missing": text, "mend": ("iac evaluate <a>", "iac evaluate b")})
    plain, page = (write_report(tmp_path / str(c.missing), models, c).read_text() for c in (CONTEXT, context))
    paragraph = f'<p class="legend">{text}: <code>iac evaluate &lt;a&gt;</code>, <code>iac evaluate b</code>.</p>\n'
    assert page.replace(paragraph, "") == plain
