"""Proofs of certified radii: files for the checker, one for each input, found by a last search at the final radius."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from bounds import Box, Graph, capture
from bounds.checks import Limit
from bounds.memory import MEMORY
from bounds.search.branch_and_bound import FEW_INPUTS, search
from certify.models import frozen
from certify.proofs.errors import ProofError
from certify.proofs.files import Proof, packed
from certify.proofs.networks.networks import Network
from certify.proofs.radii import RadiusStatement
from certify.results import Certificate
from certify.verification.proving.proof_trees import Trees
from certify.verification.proving.recording import BoxRecord, require_real
from certify.verification.proving.traced import traced
from certify.verification.sets import Balls, family_of

SEARCHED = 0.7  # share of the time for the search; the rest is for what the checker finds by itself


def prove_radii(
    model: nn.Module,
    x: Tensor,
    certificate: Certificate,
    *,
    low: Limit = 0.0,
    high: Limit = 1.0,
    frozen_features: Tensor | None = None,
    seconds: float = 60.0,
    memory: int = MEMORY,
) -> list[bytes | str]:
    """Proofs of the radii of a certificate of the model itself, which :func:`check_radius` accepts.

    The checker sees the model as ``torch.export`` shows it, see :func:`traced`. A radius that is the last that a search
    could prove may be beyond what the checker's own bounds prove in the same time: it stands without a proof.

    Args:
        model: the model, in evaluation mode meanwhile.
        x: (N, *D), the inputs.
        certificate: of these inputs, in a norm from 1 on.
        low: lower side of the box, as of the certificate.
        high: upper side of the box, likewise.
        frozen_features: likewise.
        seconds: for each input.
        memory: bytes that coefficients may take.

    Returns:
        The content of a file for each input, or one line that says why there is none; empty where there is nothing to
        prove.
    """
    if len(x) == 0:
        return []
    with frozen(model):
        try:
            require_real(certificate.sound)
            family = family_of(x, certificate.norm, low, high, frozen_features, None)
            if not isinstance(family, Balls) or family.order < 1:
                raise ProofError("proofs are about norms from 1 on")
            prover = _Prover(model, x.detach(), family, traced(model, x), memory)
        except ProofError as error:
            return [_line(error) if radius > 0 else "" for radius in certificate.radius.tolist()]
        pairs = zip(certificate.radius.tolist(), certificate.label.tolist(), strict=True)
        return [
            prover.proof(row, radius, label, seconds) if radius > 0 else "" for row, (radius, label) in enumerate(pairs)
        ]


@dataclass(frozen=True, eq=False)
class _Prover:
    """Proofs about one model.

    Attributes:
        model: as it runs.
        x: (N, *D).
        balls: of the norm.
        network: the model as the checker sees it.
        memory: bytes that coefficients may take.
    """

    model: nn.Module
    x: Tensor
    balls: Balls
    network: Network
    memory: int

    @cached_property
    def graph(self) -> Graph:
        """The model for searches."""
        return capture(self.model, self.x[:1])

    def proof(self, row: int, radius: float, label: int, seconds: float) -> bytes | str:
        """The content of the file of one input, or why there is none."""
        started = time.monotonic()
        stated = self._statement(row, radius, label)
        trees = Trees(self.network, stated.unsafe, stated.ball)
        try:
            if len(stated.centre) > FEW_INPUTS:  # else the checker cuts as well as a search does
                self._search(trees, row, stated, started + SEARCHED * seconds)
            found = trees.whole(started + seconds)
            return packed(Proof(stated.header(self.network), found))
        except ProofError as error:
            return _line(error)
        except Exception as error:  # whatever fails, the certificate stands
            return f"it failed, {type(error).__name__}: {_line(error)}"

    def _search(self, trees: Trees, row: int, stated: RadiusStatement, deadline: float) -> None:
        """Search the ball once more, and keep the trees of what is proved."""
        x = self.x[row : row + 1].double()
        ball: Any = self.balls(x, torch.tensor([stated.radius], dtype=torch.float64, device=x.device))
        hull = ball.hull()
        record = BoxRecord(trees, range(stated.classes - 1))
        found = search(
            self.graph,
            Box(hull.lower.double(), hull.upper.double()),
            [(x.new_tensor(each.on_outputs), x.new_tensor(each.offsets)) for each in stated.unsafe.sets],
            deadline=deadline,
            sound="rounding",
            check=lambda candidates: None,
            memory=self.memory,
            ball=None if ball.is_box else ball,
            record=record,
        )
        if found.status == "proved":
            record.finish(found.decided_by)

    def _statement(self, row: int, radius: float, label: int) -> RadiusStatement:
        shape, frozen_features = self.x.shape[1:], self.balls.frozen_features
        return RadiusStatement(
            centre=self.x[row].double().cpu().flatten().numpy(),
            radius=radius,
            norm=self.balls.order,
            low=_side(self.balls.low, shape),
            high=_side(self.balls.high, shape),
            frozen=None if frozen_features is None else frozen_features.cpu().expand(shape).flatten().numpy(),
            label=label,
            classes=self.network.nodes[-1].size,
        )


def _side(side: Limit, shape: torch.Size) -> Any:  # noqa: ANN401  # an array or None
    return None if side is None else torch.as_tensor(side).double().cpu().expand(shape).flatten().numpy()


@dataclass(frozen=True, eq=False, kw_only=True)
class CertificateWithProofs(Certificate):
    """A certificate with proofs of its radii.

    Attributes:
        proofs: for each row the content of a file, or why there is none; see :func:`prove_radii`.
    """

    proofs: tuple[bytes | str, ...]


def with_proofs(certificate: Certificate, proofs: Sequence[bytes | str]) -> CertificateWithProofs:
    """A certificate and the proofs of its radii; of a complete search the upper ends are left out."""
    values = {field.name: getattr(certificate, field.name) for field in fields(Certificate)}
    return CertificateWithProofs(**values, proofs=tuple(proofs))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
