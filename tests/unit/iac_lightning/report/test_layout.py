"""What every page shares: tables and figures for keyboards, screen readers, narrow screens and dark ones."""

from __future__ import annotations

import re

import pytest

from iac_lightning.evaluation.clinical.stress import compare_stress
from iac_lightning.report.html import page_template, slug
from iac_lightning.report.models.page import write_report
from iac_lightning.report.page import ExtraFigure, Table
from iac_lightning.report.stress import write_stress_page
from tests.report_page import CONTEXT, PNG
from tests.synthetic_stress import WANTED, table_of

TABLE = Table(
    header=[("model", ""), ("Dice", "mean")],
    rows=[["A <b>", ("0.5", "0.4; 0.6")], ["+ threshold alone", "0.4"]],
    source="3 scans of 2 patients",
)


def parts():
    return page_template("parts.html.j2").module


def test_cells_of_a_table_say_what_they_belong_to():
    text = parts().table(TABLE)
    assert '<caption class="unseen">model · Dice: 3 scans of 2 patients</caption>' in text
    assert '<th scope="col">Dice<br><small>mean</small></th>' in text
    assert '<tr><th scope="row">A &lt;b&gt;</th><td>0.5<span class="ci">0.4; 0.6</span></td></tr>' in text
    assert '<tr class="variant"><th scope="row">threshold alone</th><td>0.4</td></tr>' in text
    assert 'tabindex="0" role="region" aria-label="model · Dice"' in text


@pytest.fixture(params=["models", "stress"])
def page(request, model_results, stress_summary, tmp_path, monkeypatch):
    for module in ("page", "stress"):
        monkeypatch.setattr(f"iac_lightning.report.{module}.png", lambda figure: PNG)
    if request.param == "models":
        return write_report(tmp_path, model_results, CONTEXT).read_text()
    tables = {"vit": table_of(), "cnn": table_of()}
    summaries = dict.fromkeys(tables, stress_summary)
    return write_stress_page(tmp_path, tables, summaries, compare_stress(tables, WANTED)).read_text()


def test_every_page_can_be_read_aloud_by_keyboard_narrow_and_in_the_dark(page):
    assert page.index('<a class="skip" href="#content">') < page.index('<main id="content">')
    assert page.count("<caption") == page.count("<table")
    assert not re.search(r"<th(?! scope=)[ >]", page)
    scrolled = len(re.findall(r'<div class="wide"[^>]* tabindex="0" role="region" aria-label=', page))
    assert scrolled == page.count('<div class="wide"') == page.count("<table") + page.count("<img")
    assert all(len(alt) > 10 for alt in re.findall(r'<img [^>]*alt="([^"]*)"', page))
    assert page.count("prefers-color-scheme: dark") == 2
    assert page.count("max-width: 700px") == 1


def test_every_figure_opens_at_full_size_within_the_page_and_leads_back(page):
    """By plain links, so that keyboards reach them; a page may not open an image that lies within it."""
    places = re.findall(r'<div class="place" id="at-(figure-[0-9a-f]{10})"><div class="wide" [^>]* id="\1">', page)
    assert len(places) == page.count("<img") > 0
    assert re.findall(r'<a class="shut" href="#at-(.*?)">', page) == places
    assert re.findall(r'<a class="full" href="#(.*?)"><img ', page) == places
    assert ":focus-visible { outline: 3px solid" in page


def test_contents_lead_to_headings(model_results, undrawn, tmp_path):
    page = write_report(tmp_path, model_results, CONTEXT).read_text()
    links = re.findall(r'<li><a href="#(.*?)">', page)
    assert links == re.findall(r'<h2 id="(.*?)">', page)
    assert "how-this-was-made" in links
    assert slug("Best, median and worst scan") == "best-median-and-worst-scan"


def test_the_words_for_who_does_not_see_a_figure(model_results, undrawn, tmp_path):
    figures = [
        ExtraFigure(title="T", caption="C", png=PNG, alt='A "finding"'),
        ExtraFigure(title="Only a title", caption="C", png=PNG),
    ]
    context = type(CONTEXT)(**{**vars(CONTEXT), "figures": figures})
    page = write_report(tmp_path, model_results, context).read_text()
    assert 'alt="A &#34;finding&#34;"' in page
    assert 'alt="Only a title. C"' in page
