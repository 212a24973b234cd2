"""Wrong programs of what surveys claim: margins within subspaces and planes, laws of chance, corruption errors."""

from mutations.mutant import Mutant

SUBSPACES = "tests/certify/surveys/test_subspaces.py"
PLANES = "tests/certify/surveys/test_planes.py"
RELATIONS = "tests/certify/surveys/test_relations.py"
MUTANTS = (
    Mutant(
        "a skew basis loses nothing",
        "certify/surveys/subspaces.py",
        "round_down(found.radius * shrink)",
        "round_down(found.radius)",
        SUBSPACES,
    ),
    Mutant(
        "the input that a subspace starts from is left out",
        "certify/surveys/subspaces.py",
        "points = inputs[:, len(basis) :] + inputs[:, : len(basis)] @ basis",
        "points = inputs[:, : len(basis)] @ basis",
        SUBSPACES,
    ),
    Mutant(
        "cells are bounded in a half of themselves",
        "certify/surveys/sections.py",
        "box = Box(edges[cells], edges[cells + width])",
        "box = Box(edges[cells], (edges[cells] + edges[cells + width]) / 2)",
        PLANES,
    ),
    Mutant(
        "a proved cell is taken for one of the input's class",
        "certify/surveys/sections.py",
        "return self.proved & (self.label == self.own)",
        "return self.proved",
        PLANES,
    ),
    Mutant(
        "a share of energy is tested on the other side",
        "bounds/noise/spans.py",
        "special.betaincc(size / 2",
        "special.betainc(size / 2",
        "tests/bounds/noise/test_spans.py",
    ),
    Mutant(
        "an interval over inputs takes them for one",
        "certify/surveys/noise_errors.py",
        "error = math.sqrt(float((scores**2).sum()) * count / (count - 1))",
        "error = math.sqrt(float(information.sum()) / count)",
        RELATIONS,
    ),
    Mutant(
        "a transferred example need not be right before",
        "certify/surveys/transfer.py",
        "one & two & each.found",
        "one & each.found",
        "tests/certify/surveys/test_transfer.py",
    ),
    Mutant(
        "codes are bounded as if they were inputs",
        "certify/surveys/latent.py",
        "certificate = certified_radius(both,",
        "certificate = certified_radius(model,",
        "tests/certify/surveys/test_latent.py",
    ),
    Mutant(
        "clouds have half of their fall",
        "certify/corruptions/weather.py",
        "plasma(image, decay**2, generator)",
        "plasma(image, decay, generator)",
        "tests/certify/test_benchmark_corruptions.py",
    ),
    Mutant(
        "light of black pixels stays",
        "certify/corruptions/digital.py",
        "return torch.where(value > 0, scaled, raised)",
        "return scaled",
        "tests/certify/test_benchmark_corruptions.py",
    ),
    Mutant(
        "corruption errors leave out clean ones",
        "certify/corruptions/error.py",
        "(own - clean) / (base - base_clean)",
        "(own - clean) / base",
        "tests/certify/test_benchmark_corruptions.py",
    ),
)
