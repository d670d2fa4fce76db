"""The gain and the cost of each provider's knowledge, from which the next providers to ask are chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from peerlearn.types import Card

Per = Literal["byte", "second"]
"""The unit of cost by which gains are compared."""

_FADING = 0.7
"""Weight of the past in a provider's mean gain. With 0.7, ten exchanges later a gain counts for 3 %: by then models
differ too much."""


@dataclass(slots=True)
class Account:
    """`gain`: fading mean per exchange, in nats of held-out log-likelihood. `bytes`, `seconds`: total cost of
    `exchanges` exchanges. `asked`: number of the last transfer that used this provider; 0: none."""

    gain: float = 0.0
    bytes: int = 0
    seconds: float = 0.0
    exchanges: int = 0
    asked: int = 0


class Utility:
    """`per`: the cost by which gains are divided. Bytes are the same in every run with one seed; seconds are not."""

    def __init__(self, per: Per) -> None:
        self._per = per
        self._accounts: dict[str, Account] = {}
        self._now = 0

    def cost(self, provider: str, *, nbytes: int, seconds: float) -> None:
        """Add the cost of one exchange with this provider."""
        account = self._accounts.setdefault(provider, Account())
        account.bytes += nbytes
        account.seconds += seconds
        account.exchanges += 1

    def gained(self, gains: Mapping[str, float]) -> None:
        """Add the gains of one transfer, in nats by provider; nan: not measured."""
        self._now += 1
        for provider, gain in gains.items():
            account = self._accounts.setdefault(provider, Account())
            if gain == gain:
                first = account.asked == 0
                account.gain = gain if first else _FADING * account.gain + (1 - _FADING) * gain
            account.asked = self._now

    def ranked(self, candidates: Sequence[Card]) -> list[str]:
        """Ids, best first. Providers that were never used come first, in the order given. Then come those not used for
        more transfers than there are candidates, since their knowledge may have changed. The others follow by gain per
        cost."""

        def rank(card: Card) -> tuple[int, float]:
            account = self._accounts.get(card.id)
            if account is None or not account.asked:
                return 0, 0.0
            if self._now - account.asked > len(candidates):
                return 1, 0.0
            return 2, -self.worth(card.id)

        return [card.id for card in sorted(candidates, key=rank)]

    def worth(self, provider: str) -> float:
        """Gain in nats per megabyte, or per second; 0 for a provider without exchanges."""
        account = self._accounts.get(provider, Account())
        if not account.exchanges:
            return 0.0
        price = account.bytes / 1e6 if self._per == "byte" else account.seconds
        return account.gain * account.exchanges / max(price, 1e-9)

    def totals(self) -> tuple[float, int, float]:
        """Mean gain per exchange over the used providers in nats, total bytes, total seconds."""
        accounts = list(self._accounts.values())
        tried = [a.gain for a in accounts if a.asked]
        mean = sum(tried) / len(tried) if tried else 0.0
        return mean, sum(a.bytes for a in accounts), sum(a.seconds for a in accounts)

    def state_dict(self) -> dict[str, Any]:
        return {"now": self._now, "accounts": {name: asdict(a) for name, a in sorted(self._accounts.items())}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._now = int(state["now"])
        self._accounts = {name: Account(**saved) for name, saved in state["accounts"].items()}
