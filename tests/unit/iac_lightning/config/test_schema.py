"""Every number has a rule, every default obeys its own, and reading them needs nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from iac_lightning.config.keys import choices, leaves, rules, value_at
from iac_lightning.config.model_schema import VIT_PRESETS, ViTConfig, resolved_vit
from iac_lightning.config.schema import ExperimentConfig

ROOT = Path(__file__).parents[4]


def test_every_number_has_a_rule_and_every_rule_a_number() -> None:
    numeric = {key for key, hint in leaves(ExperimentConfig).items() if "int" in str(hint) or "float" in str(hint)}
    assert numeric | {"data.augmentation.extra", "model.condition_on"} == set(rules())  # words with a form of their own
    assert len(numeric) > 70


def test_every_default_obeys_its_rule_or_is_one_of_its_words() -> None:
    for key, rule in rules().items():
        default = value_at(ExperimentConfig(), key)
        assert default is None or rule.fine(default), key
    assert len(choices()) > 10
    for key, words in choices().items():
        assert value_at(ExperimentConfig(), key) in words


def test_the_words_of_a_rule_are_there_for_the_reference() -> None:
    assert rules()["trainer.max_epochs"].expected == "a whole number from 1 to 1000000000"
    assert (
        rules()["data.window_hu"].expected == "[low, high] with low below high by at least 1 HU, from -100000 to 100000"
    )
    assert choices()["model.name"] == ("vit", "cnn", "rule")


def test_presets() -> None:
    assert set(VIT_PRESETS) == set(choices()["model.vit.preset"])
    assert resolved_vit(ViTConfig()) == (216, 6, 3)
    assert resolved_vit(ViTConfig(preset="base", depth=2)) == (864, 2, 12)
    assert resolved_vit(ViTConfig(depth=0)) == (216, 0, 3)
    for dim, _, heads in VIT_PRESETS.values():  # rotary embeddings of three axes want 6, flash attention 8
        assert dim % heads == 0
        assert dim // heads % 6 == 0
        assert dim // heads % 8 == 0


def test_settings_are_checked_before_torch_is_imported() -> None:
    code = (
        "import sys\nfrom iac_lightning.config.reading import load_experiment\n"
        "from iac_lightning.config.stored import to_yaml\n"
        "to_yaml(load_experiment(None, ['name=a']))\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'monai'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
