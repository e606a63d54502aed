"""Networks that predict together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from iac_lightning.config.schema import ExperimentConfig


class Ensemble(nn.Module):
    """Members, each with the settings that it sees images under; what they say is averaged as probabilities.

    It has no forward pass of its own: members may take crops of other sizes, so that they meet on the common grid
    (`iac_lightning.inference.predict_volumes`).

    Args:
        networks: the members.
        configs: settings of each, in the same order.
    """

    def __init__(self, networks: Sequence[nn.Module], configs: Sequence[ExperimentConfig]) -> None:
        super().__init__()
        assert len(networks) == len(configs) > 0, "a network and its settings for each member"
        self.members = nn.ModuleList(networks)
        self.configs = tuple(configs)

    def each(self) -> Iterator[tuple[nn.Module, ExperimentConfig]]:
        """The members with their settings."""
        return zip(self.members, self.configs, strict=True)

    def of(self, members: Sequence[int]) -> Ensemble:
        """The ensemble of some of its members, which are not copied."""
        return Ensemble([self.members[k] for k in members], [self.configs[k] for k in members])
