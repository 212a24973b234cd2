"""For methods, norms and kinds of networks: whether an audit confirms certificates, or cannot judge them.

The same table stands in the page on audits; a test holds both together.
"""

import math
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import certify
from certify.auditing.certificates.proofs import PROOFS, STORED
from certify.methods import BY_NAME, IntervalBounds, LinearBounds, Lipschitz, Method, Verify

PAGE = Path(__file__).parents[3] / "docs" / "concepts" / "audits.md"


class Attention(nn.Module):
    """One head over two tokens, which proofs do not know."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 2, 3)
        shares = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2), -1)
        return self.last((shares @ x).flatten(1))


def networks() -> dict[str, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        rectified = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        smooth = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        found = {"affine and ReLU": rectified, "other known layers": smooth, "unknown layers": Attention()}
    with torch.no_grad():
        for model in found.values():
            list(model.parameters())[-1][0] += 2.0  # a lead that no change of one entry takes away
    return found


def judged(model: nn.Module, method: Method, norm: float, folder: Path) -> str:
    """The verdict on all certificates of a method in a norm."""
    x = torch.rand(2, 6, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    found = certify.evaluate(model, x, y, norms=[norm], methods=[method], output=folder / "run")
    certified = sum(row.get("certified_radius", 0) > 0 for record in found.records for row in record["rows"])
    assert certified, "nothing is certified, so nothing can be judged"
    report = certify.audit(folder / "run", model, x, y, sample=1.0)
    assert report.holds, str(report)
    confirmed = sum(count for name, count in report.confirmed.items() if name.startswith((PROOFS, STORED)))
    left = Counter(finding.check for finding in report.unjudged)[PROOFS]
    assert confirmed + left == certified
    return "confirmed" if confirmed == certified else "not judged"


METHODS: dict[str, Method] = {
    "ibp": IntervalBounds(),
    "crown": LinearBounds(),
    "lipschitz": Lipschitz(),
    "verify": Verify(epsilon=1e-3, attack=False),
}


CASES = [("crown", 0.0), ("crown", 2.0)]
MORE = [("crown", 1.0), ("crown", math.inf), ("ibp", 0.0), *((name, 2.0) for name in METHODS if name != "crown")]


@pytest.mark.slow
@pytest.mark.parametrize("network", ["affine and ReLU", "other known layers", "unknown layers"])
@pytest.mark.parametrize(
    ("method", "norm"), CASES + [pytest.param(*case, marks=pytest.mark.combinations) for case in MORE]
)
def test_what_an_audit_says_of_certificates(method: str, norm: float, network: str, tmp_path: Path):
    if (network, method) == ("unknown layers", "lipschitz"):
        return  # it is unsupported there
    wanted = "not judged" if network == "unknown layers" else "confirmed"
    assert judged(networks()[network], METHODS[method], norm, tmp_path) == wanted


def test_the_page_names_every_method_of_an_evaluation():
    text = PAGE.read_text()
    table = text[text.index("| method |") :].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines()))) == set(BY_NAME)
