from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from iac_lightning.report.page import Table
from iac_lightning.report.table_files import escape, table_frame, table_latex, write_table

TABLE = Table(
    name="t",
    title="Results",
    header=[("model", ""), ("Dice", "mean"), ("Dice", "mean"), ("p", "")],
    rows=[["ViT_1", ("0.651", "0.620; 0.684"), "–", "< 0.001"], ["+ plain", "−0.100", "5\u00a0%", "0.03"]],
    legend="Grey: interval.",
    source="3 scans, seed 0",
)


def lines(table: Table, command: str = "iac report --out x") -> list[str]:
    return table_latex(table, command).splitlines()


def test_latex() -> None:
    text = lines(TABLE)
    assert text[0] == r"\begin{table}[htbp]"
    assert text[2] == (r"\caption{Results. Grey: interval. n: 3 scans, seed 0. Made by \texttt{iac report -{}-out x}.}")
    assert text[3] == r"\label{tab:t}"
    assert text[4] == r"\begin{tabular}{lrrr}"
    assert text[6] == (
        r"model & \shortstack{Dice\\{\scriptsize mean}} & \shortstack{Dice\\{\scriptsize mean}}{} & p \\"
    )
    assert text[8] == r"ViT\_1 & 0.651 [0.620; 0.684] & -- & $<$ 0.001 \\"
    assert text[9] == r"\quad plain & $-$0.100 & 5~\% & 0.03 \\"
    bare = lines(replace(TABLE, title="", source=""), "")
    assert bare[2] == r"\caption{Grey: interval.}"


def test_words_are_flush_left_and_long_columns_broken() -> None:
    rows = [["a" * 35, "short", "1", "2" * 35], ["b", "c", "2", "3"]]
    header = [("what", ""), ("why", ""), ("n", ""), ("seeds", "")]
    table = Table(name="t", header=header, rows=rows, words=("what", "why"))
    assert r"\begin{tabular}{p{0.19\linewidth}lrp{0.19\linewidth}}" in lines(table)
    shorter = [["a" * 34, *rows[0][1:3], "2" * 34], rows[1]]
    assert r"\begin{tabular}{llrr}" in lines(replace(table, rows=shorter))
    assert r"\begin{tabular}{lrrr}" in lines(replace(table, words=())), "tables of numbers keep their lines"


def test_csv_for_programs() -> None:
    frame = table_frame(TABLE)
    assert list(frame) == ["model", "Dice (mean)", "Dice (mean), low", "Dice (mean), high", "Dice (mean)'", "p"]
    assert frame.to_numpy().tolist() == [
        ["ViT_1", "0.651", "0.620", "0.684", "", "< 0.001"],
        ["+ plain", "-0.100", "", "", "5 %", "0.03"],
    ]


def test_both_files(tmp_path: Path) -> None:
    csv, tex = write_table(TABLE, tmp_path, "iac report")
    assert (csv.name, tex.name) == ("t.csv", "t.tex")
    assert tex.read_text().startswith("% needs \\usepackage{booktabs}\n\\begin{table}")
    assert csv.read_text().splitlines()[2].startswith("+ plain,-0.100,")


def test_escape() -> None:
    assert escape("a_b & 5 % of {x} ~ #1 $2 ^\\") == (
        r"a\_b \& 5 \% of \{x\} \textasciitilde{} \#1 \$2 \textasciicircum{}\textbackslash{}"
    )
    assert escape("−0.1 ≤ x – 4 mm³") == r"$-$0.1 $\leq$ x -- 4 mm\textsuperscript{3}"
