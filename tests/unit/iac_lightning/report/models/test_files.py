from __future__ import annotations

import re

import pandas as pd
import pytest
from PIL import Image

from iac_lightning.evaluation.statistics.paired import holm
from iac_lightning.evaluation.tables.measures import MEASURES
from iac_lightning.evaluation.tables.model_result import MODEL_COLUMNS
from iac_lightning.report.models.analysis import analysis_sections
from iac_lightning.report.models.files import report_files
from iac_lightning.report.models.page import write_report
from iac_lightning.report.page import ExtraFigure, Overlay, ReportContext
from tests.report_page import CONTEXT, PNG


@pytest.fixture(scope="module")
def written(model_results, dev_tables, analysis, tmp_path_factory):
    """Folder of a page with everything, written over an earlier one."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "tables").mkdir()
    (folder / "tables/old.csv").touch()
    own = ExtraFigure(name="mae", title="T", caption="c", png=PNG, source="1 scan", command="iac pretrain a.yaml")
    context = ReportContext(**{**vars(CONTEXT), "command": "iac report a_b --out µ", "figures": [own]})
    sections = analysis_sections(model_results, dev_tables, analysis, context)
    overlays = {name: [Overlay(kind="best", scan="scan 3fa9c1", dice=0.9, png=PNG)] for name in model_results}
    write_report(folder, model_results, context, sections, overlays)
    return folder


def test_tables_beside_the_page_hold_its_figures(model_results, written):
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
    dice = model_results["vit"].summary["dice"]
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


def test_figures_beside_the_page_say_what_makes_them(written):
    found = {path.stem: Image.open(path) for path in (written / "figures").glob("*.png")}
    assert {"dice", "differences", "thickness_slopes", "volumes", "mae", "overlay_1_best", "roc"} <= found.keys()
    assert found["mae"].text["Comment"] == "iac pretrain a.yaml"
    assert found["dice"].text["Comment"] == "iac report a_b --out µ"
    assert found["dice"].text["Source"] == "38 scans with lesions of 19 patients, test split, seed 0"
    assert found["dice"].size[0] > 1000


@pytest.mark.usefixtures("undrawn")
def test_csv_beside_the_page_holds_the_same_figures(model_results, tmp_path):
    write_report(tmp_path, model_results, CONTEXT)
    table = pd.read_csv(tmp_path / "models.csv").set_index(["run", "variant"])
    summary = model_results["cnn"].summary
    assert table.loc[("cnn", "result"), "dice"] == pytest.approx(summary["dice"]["mean"])
    assert table.loc[("cnn", "plain"), "dice"] == pytest.approx(summary["plain"]["dice"]["mean"])
    assert table.loc[("cnn", "plain"), "threshold"] == 0.3
    assert table.loc[("cnn", "result"), "volume_icc_low"] == pytest.approx(summary["volume_icc"]["ci95"][0])
    assert list(pd.read_csv(tmp_path / "models.csv")) == list(MODEL_COLUMNS)
    comparisons = pd.read_csv(tmp_path / "comparisons.csv")
    assert comparisons["variant"].value_counts().to_dict() == {"result": 3, "plain": 3}
    assert holm(comparisons["p"][:3]) == pytest.approx(comparisons["p_holm"][:3])


def test_what_a_page_consists_of(written):
    names = {str(path.relative_to(written)) for path in report_files(written)}
    assert {"index.html", "models.csv", "comparisons.csv", "tables/glance.csv", "tables/glance.tex"} <= names
    assert "figures/overlay_3_best.png" in names
    assert names == {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
