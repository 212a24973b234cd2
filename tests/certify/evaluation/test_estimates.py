"""Estimates between certificates and witnesses: a column of their own, flags, the page; Lipschitz certificates."""

import json
import math

import pytest
import torch
from torch import nn

from bounds import GroupSort, InvalidInput, margin_lipschitz
from certify import Evaluation, evaluate, lipschitz_certificate, reference
from certify.attacks import minimal_perturbation
from certify.methods import Clever, IntervalBounds, MinimalPerturbation
from certify.results import Certificate, Estimate

QUICK = [IntervalBounds(), Clever(num_batches=10, batch_size=16), MinimalPerturbation(steps=20)]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(*reference.load("pgd", 6), methods=QUICK, seed=1)


@pytest.mark.slow
def test_estimates_share_no_row_with_anything_else(evaluation: Evaluation):
    table = evaluation.to_dataframe()
    columns = list(table.columns)
    assert columns.index("certified_radius") + 1 == columns.index("estimated_distance")
    assert columns.index("estimated_distance") + 1 == columns.index("attack_distance")
    numbers = table[["certified_radius", "estimated_distance", "attack_distance"]].notna().sum(axis=1)
    assert (numbers[table.kind != "estimate"] == 1).all()
    rows = table[table.kind == "estimate"]
    assert len(rows) == 12
    assert rows[["certified_radius", "attack_distance"]].isna().all(axis=None)
    assert (rows[rows.status != "misclassified"].estimated_distance > 0).all()
    assert set(rows.reach) == {2.0, 0.2}
    summary = evaluation.summary().set_index(["norm", "method"])
    assert summary.loc[("l2", "clever"), "promise"] == "none: an estimate, of points within 2"
    assert "clever" not in {curve.method for curve in evaluation.curves()}


def changed(evaluation: Evaluation, value: float) -> Evaluation:
    records = json.loads(json.dumps(evaluation.records))
    record = next(record for record in records if record["kind"] == "estimate")
    row = next(row for row in record["rows"] if "estimated_distance" in row)
    row["estimated_distance"] = value
    return Evaluation(evaluation.manifest, records, evaluation.tensors)


@pytest.mark.slow
def test_estimates_outside_are_flagged_and_are_no_error(evaluation: Evaluation):
    """The mutants: an estimate below the certificate, and one above the witness; in between there is no flag."""
    table = evaluation.to_dataframe()
    certified = table[(table.method == "ibp") & (table.norm == 2)].certified_radius.max()
    before = {(each.index, each.norm) for each in evaluation.outside()}
    low, high = changed(evaluation, 0.0), changed(evaluation, 1.99)
    assert not low.check()
    assert not high.check()
    assert any(each.estimate == 1.99 and "above the witness" in str(each) for each in high.outside())
    if certified > 0:
        assert any("below the certified radius" in str(each) for each in low.outside())
    for each in evaluation.outside():
        assert each.estimate < each.certified or each.estimate > each.distance
    assert before == {(each.index, each.norm) for each in evaluation.outside()}


@pytest.mark.slow
def test_the_page_shows_estimates_between_the_others(evaluation: Evaluation, tmp_path):
    changed(evaluation, 1.99).to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "estimate, no bound" in page
    assert "clever estimates bound nothing" in page.lower()
    assert "above the witness" in page
    assert "An estimate promises nothing" in page
    assert page.index("certified radius\xa0≥") < page.index("estimate, no bound") < page.index("attack distance\xa0≤")


@pytest.mark.slow
def test_estimates_survive_on_disk_and_are_not_made_twice(evaluation: Evaluation, tmp_path):
    evaluation.save(tmp_path)
    assert Evaluation.load(tmp_path).outside() == evaluation.outside()
    again = evaluate(*reference.load("pgd", 6), methods=QUICK, seed=1, norms=(2,)).to_dataframe()
    first = evaluation.to_dataframe()
    one, other = (t[(t.kind == "estimate") & (t.norm == 2)].estimated_distance.tolist() for t in (first, again))
    assert one == pytest.approx(other, nan_ok=True)


def test_an_estimate_is_no_certificate():
    assert not issubclass(Estimate, Certificate)
    assert not any(hasattr(Estimate, name) for name in ("certified", "radius"))


# -------------------------------------------------------------------------------------------- Lipschitz certificates


def small_network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).double()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "methods"),
    [(2, ("product", "eclipse", "local")), (math.inf, ("product", "recurjac"))],
)
def test_certificates_lie_below_what_attacks_find_and_local_ones_reach_farther(norm, methods):
    model = small_network()
    x = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = model(x).argmax(1)
    y[3] = (y[3] + 1) % 3  # one is misclassified
    radii = None if norm == math.inf else torch.tensor([0.3, 0.5, 1.0])
    witness = minimal_perturbation(model, x, y, norm=norm, low=-9.0, high=9.0, steps=200)
    found = [lipschitz_certificate(model, x, y, norm=norm, method=method, radii=radii) for method in methods]
    for certificate in found:
        assert (certificate.radius[:3] > 0).all()
        assert certificate.radius[3] == 0
        assert (certificate.radius <= witness.distance)[:3].all()
        assert certificate.method.startswith("lipschitz_")
    assert (found[-1].radius >= found[0].radius).all()
    assert (found[-1].radius[:3] > 0.2 * witness.distance[:3]).any()  # and they are no triviality
    mutant = margin_lipschitz(model, norm, y) / 30
    assert (found[0].radius[:3] * 30 > witness.distance[:3]).any()
    assert (mutant >= 0).all()


@pytest.mark.slow
def test_networks_that_are_lipschitz_by_construction():
    generator = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(3):
        layer = nn.Linear(6, 6).double()
        with torch.no_grad():
            layer.weight.copy_(torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q)
        layers += [layer, GroupSort()]
    model = nn.Sequential(*layers[:-1])
    x = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    logits = model(x).detach()
    found = lipschitz_certificate(model, x, logits.argmax(1), norm=2)
    top = logits.topk(2, dim=1).values
    torch.testing.assert_close(found.radius, (top[:, 0] - top[:, 1]) / math.sqrt(2), rtol=1e-7, atol=0)
    with pytest.raises(InvalidInput, match="method must be one of"):
        lipschitz_certificate(model, x, logits.argmax(1), norm=2, method="network")
