from __future__ import annotations

import numpy as np
import pytest

from iac_lightning.evaluation.clinical.analysis import analyse
from iac_lightning.evaluation.tables.measures import MEASURES
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.evaluation.tables.summary import summarise
from iac_lightning.report.models.analysis import analysis_sections
from tests.report_page import CONTEXT


@pytest.mark.usefixtures("undrawn")
def test_tables_of_the_analysis_say_what_was_computed(model_results, dev_tables, analysis):
    thickness, risk, volumes, detection = analysis_sections(model_results, dev_tables, analysis, CONTEXT)
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
    lesions = {name: m.table[m.table["has_lesion"]] for name, m in model_results.items()}
    slope = {name: np.polyfit(t["slice_thickness_mm"], t["dice"], 1)[0] for name, t in lesions.items()}
    names, of_dice = ([c[0] for c in thickness.tables[0].header], thickness.tables[0].rows[0])
    cells = {name: c[0].replace("−", "-") for name, c in zip(names[2:], of_dice[2:], strict=True)}
    assert float(cells["VIT"].removesuffix("*")) == pytest.approx(slope["vit"], abs=5e-5)
    assert float(cells["VIT − CNN"].removesuffix("*")) == pytest.approx(slope["vit"] - slope["cnn"], abs=5e-5)
    assert len(thickness.tables[0].rows) == 2 * len(MEASURES)
    hausdorff = next(t for t in thickness.tables if t.name == "thickness_hd95_mm")
    thick = model_results["cnn"].table
    thick = thick.loc[(thick["slice_thickness_mm"] > 6) & np.isfinite(thick["hd95_mm"]), "hd95_mm"]
    assert float(hausdorff.rows[2][5][0]) == pytest.approx(thick.mean(), abs=5e-3)
    thin = lesions["vit"].loc[lesions["vit"]["slice_thickness_mm"] <= 1, "dice"]
    assert float(thickness.tables[1].rows[0][1][0]) == pytest.approx(thin.mean(), abs=5e-4)
    assert "19 of 24 patients have calcification" in detection.text


def test_an_analysis_of_one_model_with_one_kind_of_patient(make_table):
    """Nothing to compare, no curve, too few patients for upper ends: said, not drawn empty."""
    table = make_table(0.7, 0)
    model = ModelResult(name="m", label="M", table=table, summary=summarise(table), threshold=0.5)
    with_lesions = table[table["has_lesion"]].reset_index(drop=True)
    model = ModelResult(**{**vars(model), "table": with_lesions})
    dev = {"m": with_lesions.assign(patient_id="d" + with_lesions["patient_id"])[:8]}
    found = analyse({"m": with_lesions}, dev)
    _, risk, volumes, detection = analysis_sections({"m": model}, dev, found, CONTEXT)
    assert len(risk.tables) == 1
    assert volumes.tables[0].rows[1][1] == f"– ({len(with_lesions)} open)"
    assert "no upper end" in volumes.tables[0].legend
    assert not detection.figures
    assert "there is no curve" in detection.text
