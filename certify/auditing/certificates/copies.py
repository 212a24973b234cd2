"""Certificates of a model and a quantised copy: both networks are held against each radius."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from bounds import WeightBox
from bounds.errors import BoundsError, InvalidInput
from bounds.graph.capturing import without_compiler
from certify.auditing.certificates.proofs import PROOFS, Reprover
from certify.auditing.tally import Tally
from certify.methods import Method, Problem, QuantisedCopy
from certify.methods.copies import Copy, GivenCopy
from certify.verification.quantisation.quantised_weights import box_of_copy


def with_copies(methods: Sequence[Method], copies: Mapping[str, Copy | WeightBox]) -> list[Method]:
    """The methods with the copies that a caller hands in by their names.

    Raises:
        InvalidInput: a name of no such method, or another copy than that of the run.
    """
    named = {method.name: method for method in methods}
    for name, weights in copies.items():
        method, given = named.get(name), GivenCopy.of(weights)
        if not isinstance(method, QuantisedCopy):
            known = [one for one, method in named.items() if isinstance(method, QuantisedCopy)]
            raise InvalidInput(f"copies must be by names of methods with a quantised copy, {known}, got {name!r}")
        if given.sha256 != method.copy.sha256:
            raise InvalidInput(
                f"copies[{name!r}] must be the copy of the run, of digest {method.copy.sha256[:12]}, got one of "
                f"{given.sha256[:12]}"
            )
        settings = {field: getattr(method, field) for field in method.__struct_fields__}
        named[name] = type(method)(**settings | {"copy": given})
    return list(named.values())


def certified_rows(record: Mapping[str, Any], method: Method | None) -> Sequence[Mapping[str, Any]]:
    """Rows of a record that certify a radius of a quantised copy."""
    if record["kind"] != "certificate" or not isinstance(method, QuantisedCopy):
        return []
    return [row for row in record["rows"] if row.get("certified_radius", 0) > 0]


class CopyReprover:
    """Proofs about the networks that certificates with a quantised copy speak of: each network by itself.

    What lies between both is not proved again, and inputs that a copy quantises are taken as they are: so a proof here
    is of a part of the statement, and an example refutes all of it.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._known: dict[str, dict[str, Reprover]] = {}

    def judge(
        self,
        tally: Tally,
        record: Mapping[str, Any],
        table: Mapping[str, Any],
        row: Mapping[str, Any],
        method: QuantisedCopy,
        frozen: Tensor | None,
    ) -> None:
        """Judge the radius of one row for both networks."""
        try:
            if method.name not in self._known:
                self._known[method.name] = self._networks(method)
        except (BoundsError, RuntimeError) as error:
            tally.leave(PROOFS, " ".join(str(error).split()), record["unit"], row["index"])
            return
        for reprover in self._known[method.name].values():
            reprover.judge(tally, record, {**table, "class": "crown"}, row, frozen)

    def _networks(self, method: QuantisedCopy) -> dict[str, Reprover]:
        problem, found = self.problem, method.copy.found()
        own = without_compiler(problem.model)
        box = found if isinstance(found, WeightBox) else box_of_copy(own, found, between=False)
        networks: dict[str, nn.Module] = {"copy": _with_weights(own, box.centers())}
        if method.weights == "between" and not isinstance(found, WeightBox):
            networks["model"] = own
        return {
            name: Reprover(network, problem.x, problem.first_index, (problem.low, problem.high))
            for name, network in networks.items()
        }


def _with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network in float64 with other weights."""
    network = deepcopy(model).cpu().double()
    state = network.state_dict()
    with torch.no_grad():
        for name, value in weights.items():
            state[name].copy_(value)
    return network
