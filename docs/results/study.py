"""What the study has shown, as the page `study.md` has it: `python docs/results/study.py runs/study_cpu`.

Everything is read from what the cells have left: tables of the evaluations and of the re-imaged heads, summaries,
histories of the pre-trainings, and the verdicts of the sweep's report. Intervals are over patients and seeds together
(`iac_lightning.evaluation.statistics.two_level`). The rule learns nothing from its seed: its first one counts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from iac_lightning.evaluation.ablation.recipe_statistics import (
    MeasuredRecipes,
    Value,
    contrast_of,
    mean_dice,
    thickness_slopes,
)
from iac_lightning.evaluation.ablation.recipes import Candidate, Recipe
from iac_lightning.evaluation.tables.series_table import read_series_table
from iac_lightning.evaluation.tables.summary import read_summary

BEGIN, END = "<!-- study: begin {} -->", "<!-- study: end {} -->"
DRAW = {"seed": 0, "resamples": 10_000}
RULE = "rule"
CONTRASTS: dict[str, dict[str, float]] = {
    "pre-training, ViT: MAE − scratch": {"ViT, MAE": 1, "ViT, scratch": -1},
    "pre-training, CNN: MAE − scratch": {"CNN, MAE": 1, "CNN, scratch": -1},
    "ViT − CNN, both pre-trained": {"ViT, MAE": 1, "CNN, MAE": -1},
    "ViT − CNN, both from scratch": {"ViT, scratch": 1, "CNN, scratch": -1},
    "pre-trained ViT − CNN from scratch (the paper's)": {"ViT, MAE": 1, "CNN, scratch": -1},
    "transformer: ViT from scratch − no transformer": {"ViT, scratch": 1, "no transformer": -1},
    "small − large tokens, pre-trained": {
        "ViT, MAE": 0.5,
        "ViT, MAE, transposed": 0.5,
        "ViT, MAE, large tokens": -0.5,
        "ViT, MAE, large tokens, transposed": -0.5,
    },
    "interpolation − transposed, pre-trained": {
        "ViT, MAE": 0.5,
        "ViT, MAE, large tokens": 0.5,
        "ViT, MAE, transposed": -0.5,
        "ViT, MAE, large tokens, transposed": -0.5,
    },
    "pre-trained ViT − rule": {"ViT, MAE": 1, RULE: -1},
    "identity control: the same with other seeds": {"ViT, scratch, again": 1, "ViT, scratch": -1},
}
"""What is compared: weight of each arm."""
CONTROLS = {"mean_tokens": "tokens", "silenced_attention": "attention"}

Measure = Callable[[Sequence[Recipe]], MeasuredRecipes | None]
MEASURES: dict[str, Measure] = {
    "Dice": lambda recipes: mean_dice(recipes, **DRAW),
    "Dice of a threshold alone": lambda recipes: mean_dice(of_plain_masks(recipes), **DRAW),
    "Dice per mm of slice thickness": lambda recipes: thickness_slopes(recipes, True, **DRAW),
}


class Arm:
    """The evaluated trainings of a level, by seed.

    Args:
        name: of the level.
        runs: directories of its trainings, by seed.
        split: that was evaluated.
    """

    def __init__(self, name: str, runs: Sequence[Path], split: str) -> None:
        self.name = name
        runs = runs[:1] if name == RULE else runs
        self.summaries = [read_summary(run / "evaluation" / f"{split}.json") for run in runs]
        self.recipe = Recipe(name, {"arm": name}, [candidate(run, split) for run in runs])


def candidate(run: Path, split: str) -> Candidate:
    """The tables of a training; of re-imaged heads where it was measured on them."""
    stressed = run / "stress" / f"{split}.csv"
    return Candidate(
        settings={"name": run.name},
        table=read_series_table(run / "evaluation" / f"{split}.csv"),
        stress=read_series_table(stressed) if stressed.is_file() else None,
    )


def of_plain_masks(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The same trainings, Dice being that of the masks of a threshold alone."""

    def swapped(training: Candidate) -> Candidate:
        return Candidate(settings=training.settings, table=training.table.assign(dice=training.table["plain_dice"]))

    return [Recipe(r.family, r.settings, [swapped(t) for t in r.trainings]) for r in recipes]


def read_arms(sweep: Path, plan: Mapping[str, Any]) -> list[Arm]:
    """The arms of which a training was evaluated, in the order of the sweep's file."""
    runs: dict[str, list[Path]] = {name: [] for name in plan["axes"]["arm"]}
    for cell in sorted(plan["cells"], key=lambda cell: cell["seed"]):
        run = sweep / cell["run"]
        if cell["kind"] == "finetune" and (run / "evaluation" / f"{plan['split']}.json").is_file():
            runs[cell["levels"]["arm"]].append(run)
    return [Arm(name, found, plan["split"]) for name, found in runs.items() if found]


def measured(arms: Sequence[Arm], measure: Measure) -> dict[str, tuple[MeasuredRecipes, int]]:
    """Arm to its place in what was measured of all arms together; without those that it cannot be measured of."""
    recipes = [arm.recipe for arm in arms]
    if measure is MEASURES["Dice per mm of slice thickness"]:
        recipes = [r for r in recipes if all(t.stress is not None for t in r.trainings)]
    values = measure(recipes) if recipes else None
    return {} if values is None else {r.family: (values, k) for k, r in enumerate(recipes)}


def contrast(values: Mapping[str, tuple[MeasuredRecipes, int]], weights: Mapping[str, float]) -> Value | None:
    """A weighted sum of arms; None where one of them was not measured."""
    if not weights.keys() <= values.keys():
        return None
    found = next(iter(values.values()))[0]
    row: NDArray[np.float64] = np.zeros(len(found.recipes))
    for name, weight in weights.items():
        row[values[name][1]] = weight
    return contrast_of(found, row)


def shown(value: Value | None, sign: str = "") -> str:
    """A value with its interval."""
    if value is None:
        return "–"
    return f"{value.estimate:{sign}.3f} [{value.low:{sign}.3f}; {value.high:{sign}.3f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def arms_table(arms: Sequence[Arm], values: Mapping[str, Mapping[str, tuple[MeasuredRecipes, int]]]) -> list[str]:
    """Each arm: seeds, the three measures, agreement of volumes, and what its tokens and its attention are worth."""
    rows = []
    for arm in arms:
        icc = [summary["volume_icc"]["value"] for summary in arm.summaries]
        worth = [
            mean_of([s["controls"][name]["difference"]["mean"] for s in arm.summaries if name in s.get("controls", {})])
            for name in CONTROLS
        ]
        cells = [shown(contrast(found, {arm.name: 1})) for found in values.values()]
        rows.append([arm.name, str(len(arm.summaries)), *cells, mean_of(icc, ""), *worth])
    worths = [f"{word} worth, Dice" for word in CONTROLS.values()]
    return table(["arm", "seeds", *values, "volume ICC", *worths], rows)


def mean_of(numbers: Sequence[float | None], sign: str = "+") -> str:
    """Mean over seeds; a dash where there are none."""
    known = [number for number in numbers if number is not None]
    return f"{np.mean(known):{sign}.3f}" if known else "–"


def contrasts_table(
    values: Mapping[str, Mapping[str, tuple[MeasuredRecipes, int]]], arms: Collection[str]
) -> list[str]:
    """Each contrast of planned arms under each measure, and whether its first one tells anything."""
    rows = []
    for words, weights in CONTRASTS.items():
        if not weights.keys() <= set(arms):
            continue
        found = [contrast(one, weights) for one in values.values()]
        first = found[0]
        verdict = "not measured" if first is None else "no difference told"
        if first is not None and (first.low > 0 or first.high < 0):
            verdict = "above 0" if first.low > 0 else "below 0"
        rows.append([words, *(shown(value, "+") for value in found), verdict])
    return table(["difference", *values, "verdict on Dice"], rows)


def pretrainings_table(sweep: Path, plan: Mapping[str, Any]) -> list[str]:
    """The last validation of each finished pre-training: all that its history tells of the development crops."""
    rows = []
    names: list[str] = []
    for cell in plan["cells"]:
        history = sweep / cell["run"] / "logs" / "history.jsonl"
        if cell["kind"] == "pretrain" and (sweep / cell["run"] / "finished.json").is_file():
            last: dict[str, float] = {}
            for line in history.read_text(encoding="utf-8").splitlines():
                last |= {k: v for k, v in json.loads(line).items() if k.startswith("dev/") and v is not None}
            names += [name for name in last if name not in names]
            rows.append((cell["name"], last))
    text = [[name, *(f"{last[key]:.3f}" if key in last else "–" for key in names)] for name, last in rows]
    return table(["pre-training", *(name.removeprefix("dev/") for name in names)], text) if rows else []


def claims_table(sweep: Path) -> list[str]:
    """The paper's claims as the sweep's report judges them; a claim that fails is there with the reason."""
    path = sweep / "report" / "claims.csv"
    if not path.is_file():
        return [f"The report was not written yet: `iac sweep {sweep} --finish`.", ""]
    claims = pd.read_csv(path, keep_default_na=False)
    rows = claims[["claim", "paper", "ours", "verdict", "remark"]].astype(str).to_numpy().tolist()
    return table(["claim", "the paper's figure", "here", "verdict", "remark"], rows)


def page(sweep: Path) -> str:
    """The part of the page that the results of a sweep decide."""
    plan = json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))
    arms = read_arms(sweep, plan)
    if not arms:
        return f"Nothing of {sweep.name} was evaluated yet.\n"
    known = arms[0].recipe.trainings[0].table
    lesions = known[known["has_lesion"].astype(bool)]
    done = sum(len(arm.summaries) for arm in arms)
    planned = sum(cell["kind"] == "finetune" for cell in plan["cells"])
    values = {name: measured(arms, measure) for name, measure in MEASURES.items()}
    lines = [
        f"{plan['split'].capitalize()} split, {len(lesions)} scans with lesions of {lesions['patient_id'].nunique()} "
        f"patients; {done} trainings of {len(arms)} arms evaluated, of {planned} planned (of the rule one counts). "
        f"{plan['caveat']}",
        "",
        *arms_table(arms, values),
        "Means over scans with lesions with 95 % intervals over patients and seeds; slopes over re-imaged slices of "
        "the same heads. What tokens and attention are worth is what the trained network's Dice loses without them.",
        "",
        *contrasts_table(values, plan["axes"]["arm"]),
        *pretrainings_table(sweep, plan),
        *claims_table(sweep),
    ]
    return "\n".join(lines)


def main(sweep: Path, out: Path) -> None:
    """Put a sweep's results into the page, between its two marks."""
    begin, end = BEGIN.format(sweep.name), END.format(sweep.name)
    text = out.read_text(encoding="utf-8")
    if [text.count(mark) for mark in (begin, end)] != [1, 1]:
        sys.exit(f"{out}: expected one line {begin} and one line {end}, between which the results go")
    before, rest = text.split(begin)
    out.write_text(f"{before}{begin}\n{page(sweep)}{end}{rest.split(end)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_name("study.md"))
