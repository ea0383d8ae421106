"""Operations of a family's methods for one context, counted from the shapes of its models.

They compare methods where seconds mislead: on small models launching kernels takes most of them.
docs/explanation/cost.md says what is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proxykv.config.catalog import Method
from proxykv.config.cost.speed import Device, ModelCost
from proxykv.config.run import ROLES, Run
from proxykv.config.settings.signals import CHUNK, Signal
from proxykv.config.settings.training import MapperSettings

MAPPER_USED = 0.1
"""Share of the peak in float32 that the mapper's small matrices reach."""


def mapper_flops(target: ModelCost, proxy: ModelCost) -> float:
    """Operations of a mapper for a token: its cross-attention between heads, which costs most.

    Args:
        target: cost of the target, whose heads ask.
        proxy: cost of the proxy, whose heads answer.
    """
    width = MapperSettings.width
    return target.pairs * width * (4 * proxy.pairs + 2 * width)


@dataclass(frozen=True)
class Operations:
    """Operations of a family's methods.

    Attributes:
        run: whose methods they are.
        target: cost of the target.
        proxy: cost of the proxy.
    """

    run: Run
    target: ModelCost
    proxy: ModelCost

    @classmethod
    def of(cls, run: Run, family: str) -> Operations:
        """Operations of a run's family.

        Args:
            run: with its methods.
            family: one of its families.
        """
        models = run.family(family)
        return cls(
            run,
            *(ModelCost(run.model_shape(family, role), models[role]["dtype"]) for role in ROLES),
        )

    def request(self, method: Method, n: int) -> float:
        """Operations of the target's prefill and of what the method adds.

        Args:
            method: of the run.
            n: tokens of the context.
        """
        return self.target.prefill_flops(n) + self._scoring(method, n)

    def mapping(self, tokens: float, device: Device) -> float:
        """Seconds that a mapper takes.

        Args:
            tokens: that it maps.
            device: where it runs, in float32.
        """
        return tokens * mapper_flops(self.target, self.proxy) / (device.flops[4] * MAPPER_USED)

    def signal(self, signal: Signal, n: int, device: Device) -> float:
        """Seconds of the proxy's signal, with the prefill of the whole context if it reads one.

        Args:
            signal: of the proxy.
            n: tokens of the context.
            device: where the proxy runs.
        """
        shared = signal.layers * self.proxy.prefill(n, device) if signal.prefilled else 0.0
        return shared + self.proxy.signal(signal, n, device)

    def scoring_seconds(self, method: Method, n: int, device: Device) -> float:
        """Seconds that a method scores a context which the target has read.

        Args:
            method: of the run.
            n: tokens of the context.
            device: of target and proxy.
        """
        chunk = method.params.get("chunk", CHUNK)
        signal = Signal.of({**self.run.training, **method.params})
        costs = {
            "target_prefill": lambda: self.target.prefill(n, device),
            "target_replay": lambda: self.target.replay(n, device, chunk),
            "target_local_replay": lambda: self.target.replay(n, device, chunk, local=True),
            "proxy": lambda: self.signal(signal, n, device),
            "mapper": lambda: self.mapping(n, device),
            "training": lambda: 0.0,  # once for all contexts
        }
        used = [self.scoring_seconds(self.run.methods[m], n, device) for m in method.uses]
        return sum(costs[cost]() for cost in self.run.cards.card(method.id).cost) + sum(used)

    def _scoring(self, method: Method, n: int) -> float:
        """What a method's card names, and what the methods that it combines run."""
        costs = self._costs(method)
        operations = sum(costs[cost](n) for cost in self.run.cards.card(method.id).cost)
        return operations + sum(self._scoring(self.run.methods[used], n) for used in method.uses)

    def _costs(self, method: Method) -> Mapping[str, Callable[[int], float]]:
        """Operations of each entry of a card's `cost`."""
        chunk = method.params.get("chunk", CHUNK)
        signal = Signal.of({**self.run.training, **method.params})
        return {
            "target_prefill": self.target.prefill_flops,
            "target_replay": lambda n: self.target.replay_flops(n, chunk),
            "target_local_replay": lambda n: self.target.replay_flops(n, chunk, local=True),
            "proxy": lambda n: self.proxy.signal_flops(signal, n),
            "mapper": lambda n: n * mapper_flops(self.target, self.proxy),
            "training": lambda n: 0.0,  # once for all contexts
        }
