"""The arithmetic of gossip ADMM on one edge: the message, the update of z and u, and the penalty. Pure functions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class EdgeState:
    """One end of an edge. `z`: the point towards which the peer's weights are pulled; `u`: the scaled dual; `session`:
    that of the peer at the other end. The tensors are replaced, never changed in place."""

    session: str
    z: State
    u: State

    def state_dict(self) -> dict[str, Any]:
        return {"session": self.session, "z": dict(self.z), "u": dict(self.u)}


@dataclass(frozen=True, slots=True, eq=False)
class Duals:
    """What a snapshot carries beside the weights: the names of the trained parameters, and the edges of that moment by
    peer id."""

    names: tuple[str, ...]
    edges: Mapping[str, EdgeState]

    def proposal(self, state: State, other: str, session: str) -> dict[str, Tensor]:
        """The message q = theta + u for the edge to peer `other`. u = 0 for a new edge, and when the other peer has
        restarted."""
        edge = self.edges.get(other)
        if edge is None or edge.session != session:
            return {name: state[name] for name in self.names}
        return {name: state[name] + edge.u[name] for name in self.names}


def settled(mine: State, theirs: State, *, session: str, coupling: float) -> EdgeState:
    """One end of an edge after both q have been exchanged: the z-step and the dual step of ADMM.

    With s = (q_i + q_j)/2, d = (q_i - q_j)/2 and coupling g = 4w / (rho + 4w): z_i = s + (1 - g) d, and the new dual is
    u_i + theta_i - z_i = q_i - z_i = g d. Computed in float64: for g = 0 z_i is q_i and for g = 1 it is s, bit for bit,
    and the duals of the two ends sum to 0.
    """
    z, u = {}, {}
    for name, tensor in mine.items():
        one, two = tensor.double(), theirs[name].double()
        z[name] = torch.lerp(one, (one + two) / 2, coupling).to(tensor.dtype)
        u[name] = ((one - two) / 2 * coupling).to(tensor.dtype)
    return EdgeState(session, z, u)


def coupling_of(rho: float, weight: float) -> float:
    """g = 4w / (rho + 4w): 0 without coupling, 1 for an infinite weight."""
    return 1.0 if math.isinf(weight) else 4 * weight / (rho + 4 * weight)


class Pull:
    """The penalty sum_e |theta - z_e + u_e|^2 over k edges, computed as k |theta - c|^2 + r, where c is the mean of c_e
    = z_e - u_e and r = sum_e |c_e - c|^2. It takes one pass over the parameters, whatever the number of edges. Sums are
    in float64, over edges in the order given."""

    def __init__(self, edges: Sequence[EdgeState], model: nn.Module) -> None:
        self._edges = len(edges)
        self._centre: dict[str, Tensor] = {}
        self._spread = 0.0
        for name, parameter in model.named_parameters():
            if name not in edges[0].z:
                continue
            points = [edge.z[name].double() - edge.u[name].double() for edge in edges]
            centre = torch.stack(points).sum(dim=0) / len(points)
            self._spread += sum(float((point - centre).square().sum()) for point in points)
            self._centre[name] = centre.to(device=parameter.device, dtype=parameter.dtype)

    def __call__(self, model: nn.Module) -> Tensor:
        """The penalty as a scalar; gradients reach the model's parameters."""
        parameters = dict(model.named_parameters())
        squares = [(parameters[name] - centre).square().sum() for name, centre in self._centre.items()]
        return self._edges * torch.stack(squares).sum() + self._spread
