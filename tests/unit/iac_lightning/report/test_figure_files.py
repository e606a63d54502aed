from __future__ import annotations

from pathlib import Path

from PIL import Image

from iac_lightning.report.figure_files import write_figure
from iac_lightning.report.page import ExtraFigure
from tests.report_page import PNG


def test_a_file_says_what_it_shows_and_what_makes_it(tmp_path: Path) -> None:
    own = ExtraFigure(name="mae", title="Restored", caption="µ", png=PNG, source="1 scan", command="iac pretrain a")
    path = write_figure(own, tmp_path / "figures", "iac report")
    assert path == tmp_path / "figures" / "mae.png"
    with Image.open(path) as image:
        assert image.size == (2, 2)
        facts = {key: image.text[key] for key in ("Title", "Description", "Source", "Comment")}
    assert facts == {"Title": "Restored", "Description": "µ", "Source": "1 scan", "Comment": "iac pretrain a"}
    without = ExtraFigure(name="dice", title="Dice", caption="c", png=PNG)
    with Image.open(write_figure(without, tmp_path, "iac report")) as image:
        assert image.text["Comment"] == "iac report"
