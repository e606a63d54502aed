from __future__ import annotations

from iac_lightning.report.table_files import escape


def test_latex_escapes():
    assert escape("a_b & 5 % of {x} ~ #1 $2 ^\\") == (
        r"a\_b \& 5 \% of \{x\} \textasciitilde{} \#1 \$2 \textasciicircum{}\textbackslash{}"
    )
    assert escape("−0.1 ≤ x – 4 mm³") == r"$-$0.1 $\leq$ x -- 4 mm\textsuperscript{3}"
