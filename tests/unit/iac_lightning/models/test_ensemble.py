from __future__ import annotations

from torch import nn

from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.ensemble import Ensemble


def test_some_members_are_the_same_networks_with_their_own_settings() -> None:
    networks = [nn.Conv3d(1, 1, 1) for _ in range(3)]
    configs = [ExperimentConfig(name=name) for name in "abc"]
    some = Ensemble(networks, configs).of([2, 0])
    assert [(network, config.name) for network, config in some.each()] == [(networks[2], "c"), (networks[0], "a")]
    assert list(some.state_dict())[::2] == ["members.0.weight", "members.1.weight"]
