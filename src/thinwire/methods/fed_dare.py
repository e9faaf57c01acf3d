"""Fed-DARE: federated averaging of changes through DARE. Yu et al., ICML 2024, arXiv:2311.03099."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thinwire.compress import Step
from thinwire.compress.random_drop import RandomDrop
from thinwire.method import Client, Context, Method, setting


@dataclass(frozen=True, kw_only=True)
class FedDARE(Method):
    """Each entry of the change is dropped at random, the rest divided by what is left; changes are averaged.

    Differs: the mask is drawn from a seed that travels in place of the positions.
    """

    name: ClassVar[str] = "fed-dare"
    title: ClassVar[str] = "Fed-DARE (random drop)"
    paper: ClassVar[str] = "arXiv:2311.03099"

    rate: float = setting(0.9, "share of entries that are dropped", low=0, below=1)

    def up(self, client: Client, ctx: Context) -> tuple[Step, ...]:
        return (RandomDrop(self.rate),)
