"""Presets: methods of every kind on any model, and what they leave out."""

import math
from pathlib import Path

import pytest
import torch
from oracles.commands import certify
from oracles.models import Divide
from oracles.unbounded import LogGamma
from torch import Tensor, nn

from bounds import InvalidInput
from certify import Evaluation, TwoClasses, evaluate, reference
from certify.configuration.config import config_of_manifest, read_config
from certify.evaluation.budget.probe import _Extent
from certify.evaluation.rows import noise_rows
from certify.methods import (
    PRESETS,
    CompleteSearch,
    IntervalBounds,
    RandomNoise,
    Smoothing,
    Space,
    chosen_methods,
    methods_of,
)
from certify.results import NoiseTolerance

NORMS = [1.0, 2.0, math.inf]
KINDS = {"certificate", "estimate", "witness", "noise"}


def cnn(last: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4), last, nn.Linear(4, 3)).eval()


def small(model: nn.Module, shape: tuple[int, ...] = (4,), count: int = 4) -> tuple[nn.Module, Tensor, Tensor]:
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1)


def one_logit() -> nn.Module:
    torch.manual_seed(3)
    return TwoClasses(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))).eval()


def kinds_of(run: Evaluation) -> dict[float, set[str]]:
    found: dict[float, set[str]] = {}
    for row in run.rows():
        found.setdefault(row["norm"], set()).add(row["kind"])
    return found


@pytest.mark.parametrize("name", PRESETS)
def test_every_norm_gets_methods_of_every_kind(name: str):
    methods = methods_of(name, NORMS, Space(1.0, 9))
    served = {norm: {method.name for method in methods if norm in method.norms} for norm in NORMS}
    for norm in NORMS:
        assert {"ibp", "lipschitz", "clever", "attack", "noise"} <= served[norm]
        assert sum(other.startswith("smoothing") for other in served[norm]) == 1
    more = {"crown", "alpha_crown", "complete"}
    assert more.isdisjoint(served[2.0]) if name == "quick" else more <= served[2.0]
    assert {method.name for method in methods_of(name, [0.0])} >= {"ibp", "attack"}


def test_lengths_follow_the_box():
    wide = {method.name: method for method in methods_of("standard", NORMS, Space(255.0, 9))}
    unit = {method.name: method for method in methods_of("standard", NORMS, Space(1.0, 9))}
    x = torch.rand(3, 3, 3)
    assert str(wide["smoothing"].randomization) == "gaussian(sigma=63.75)"
    for name in ("smoothing", "smoothing_l1", "smoothing_linf"):
        p = torch.tensor([0.9], dtype=torch.float64)
        radii = [method.randomization.radius(p) for method in (unit[name], wide[name])]
        assert torch.allclose(radii[1], 255 * radii[0]), name
    assert wide["clever"].radius_l2 == 255 * unit["clever"].radius_l2
    assert wide["noise"].limit == 255
    assert Space.of(x, 0.0, 255.0) == Space(255.0, 9)
    assert Space.of(x, None, 1.0) == Space(1.0, 9)
    assert Space.of(x, torch.zeros(3), torch.tensor([1.0, 2.0, 4.0])) == Space(2.0, 9)


def test_settings_next_to_a_preset_replace_those_of_the_same_name():
    choice = chosen_methods(["quick", IntervalBounds(tolerance=0.5), Smoothing(name="mine", n=7)], [2.0], Space())
    named = {method.name: method for method in choice.methods}
    assert named["ibp"].tolerance == 0.5
    assert named["mine"].n == 7
    assert choice.preset == "quick"
    assert "ibp" not in choice.lenient
    assert {"crown_ibp", "attack"} <= choice.lenient
    with pytest.raises(InvalidInput, match="methods must name one preset, got quick and standard"):
        methods_of(["quick", "standard"])
    with pytest.raises(InvalidInput, match=r"methods must be one of quick, standard, thorough, .*got 'fast'"):
        methods_of("fast")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["embedded", "one logit", "unsupported", "no box"])
def test_a_preset_runs_on_any_model_and_says_what_it_leaves_out(model: str, tmp_path: Path):
    options: dict[str, object] = {"norms": (2, math.inf)}
    if model == "embedded":
        problem = reference.load("ibp", 1)
    elif model == "one logit":
        problem = small(one_logit())
        options["norms"] = (1, 2, math.inf)
    elif model == "no box":
        problem = small(nn.Sequential(Divide(3.0), nn.Linear(4, 3)).eval())
        options |= {"low": None, "high": None}
    else:
        problem = small(cnn(LogGamma()), (1, 5, 5), count=3)
    run = evaluate(*problem, methods="quick", **options)
    for norm, kinds in kinds_of(run).items():
        assert kinds - {"unsupported"} == KINDS, norm
    assert run.check() == []
    assert run.unfinished() is None
    sentences = run.left_out()
    if model == "unsupported":
        assert any(each.startswith("ibp in l2: all 3 inputs left out: ") and "lgamma" in each for each in sentences)
        assert {row["method"] for row in run.rows() if row["kind"] == "unsupported"} >= {"ibp", "crown_ibp"}
    elif model != "no box":
        assert sentences == []
    run.to_html(tmp_path / "page.html")
    run.save(tmp_path / "run")
    assert Evaluation.load(tmp_path / "run").left_out() == sentences


def test_norms_that_a_method_does_not_serve_are_named():
    notes = chosen_methods("standard", [0.0, 2.0], Space()).notes
    assert {"smoothing does not serve l0", "clever does not serve l0", "complete does not serve l0"} <= set(notes)
    assert not any(note.startswith(("ibp", "attack")) for note in notes)
    assert chosen_methods("standard", [1.0, 2.0, math.inf], Space()).notes == ()


@pytest.mark.slow
def test_a_method_of_ones_own_choice_is_not_left_out_quietly():
    """A mistake of a caller stays an error; only methods that a preset brings along may be dropped."""
    model, x, y = small(nn.Linear(4, 3).eval())
    wrong = Smoothing(name="smoothing", sigma=None, noise=methods_of("quick", [math.inf], Space(1.0, 9))[0].noise)
    with pytest.raises(InvalidInput, match="dimension is 9, but the inputs have 4 entries"):
        evaluate(model, x, y, norms=math.inf, methods=["quick", wrong])


@pytest.mark.slow
def test_complete_search_is_left_out_where_it_does_not_pay(monkeypatch: pytest.MonkeyPatch):
    model, x, y = small(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).eval(), count=3)
    original = CompleteSearch.run

    def slow(self: CompleteSearch, *arguments: object) -> object:
        found = original(self, *arguments)
        import dataclasses
        import time

        time.sleep(0.25)
        return dataclasses.replace(found, radius=found.radius / 2)

    monkeypatch.setattr(CompleteSearch, "run", slow)
    monkeypatch.setattr(_Extent, "within", lambda limit: _Extent(complete=0.2))
    run = evaluate(model, x, y, norms=2, methods=["standard", Smoothing(n=20)])
    assert any(each.startswith("complete in l2: all 3 inputs left out: does not pay: ") for each in run.left_out())


def test_random_noise_has_a_kind_of_its_own(tmp_path: Path):
    model, x, y = small(nn.Linear(4, 3).eval(), count=5)
    run = evaluate(model, x, y, norms=2, methods=[RandomNoise(draws=200), IntervalBounds()], low=None, high=None)
    table = run.to_dataframe()
    noise = table[table.method == "noise"]
    assert noise.noise_radius.notna().all()
    assert noise[["certified_radius", "estimated_distance", "attack_distance"]].isna().all(axis=None)
    ibp = table[table.method == "ibp"].certified_radius
    assert (noise.noise_radius.to_numpy() >= ibp.to_numpy()).all()  # nothing within a certificate changes the class
    assert {curve.method for curve in run.curves()} == {"ibp"}
    assert run.outside() == []
    run.to_html(tmp_path / "page.html")
    assert "random noise" in (tmp_path / "page.html").read_text("utf-8")


def test_noise_that_changes_nothing_is_infinite_and_not_zero():
    inf = torch.tensor([math.inf], dtype=torch.float64)
    found = NoiseTolerance(
        label=torch.tensor([1]), radius=inf, lower=inf, upper=inf, epsilon=0.01, norm=2.0, method="noise"
    )
    (row,) = noise_rows(found, torch.tensor([1]))
    assert row["status"] == "not changed"
    assert "noise_radius" not in row


def test_a_configuration_names_a_preset_and_a_budget(tmp_path: Path):
    file = tmp_path / "config.toml"
    file.write_text(
        'preset = "quick"\nbudget = "1h30m"\nnorms = [2]\n[model]\nnetwork = "ibp"\n[methods.ibp]\ntolerance = 0.5\n'
        '[[require]]\nmethod = "crown_ibp"\nnorm = 2\nradius = 0\nat_least = 0\n'
    )
    config = read_config(file)
    assert config.asked_methods()[0] == "quick"
    assert {method.name: method for method in config.chosen_methods()}["ibp"].tolerance == 0.5
    assert config.source()["budget"] == "1h30m"
    for key, told in (
        ('preset = "fast"', 'preset must be one of "quick", "standard", "thorough", got .fast.'),
        ('budget = "soon"', 'budget must be a duration above 0 such as "90s"'),
    ):
        file.write_text(f'{key}\n[model]\nnetwork = "ibp"\n')
        with pytest.raises(InvalidInput, match=told):
            read_config(file)


@pytest.mark.slow
def test_a_run_of_a_preset_tells_its_cost_keeps_its_budget_and_goes_on(tmp_path: Path):
    (tmp_path / "c.toml").write_text(
        'preset = "quick"\nnorms = [2]\n[model]\nnetwork = "ibp"\n[data]\ncount = 2\n'
        "[methods.clever]\nnum_batches = 2\n"
    )
    told = certify("run", "c.toml", "--dry-run", "--output", "out", cwd=tmp_path)
    assert "forward passes" in told
    assert "in all, by a probe of 2 inputs" in told
    assert not (tmp_path / "out").exists()
    told = certify("run", "c.toml", "--output", "out", "--budget", "0.5s", cwd=tmp_path)
    assert "left out: clever in l2: all 2 inputs left out: out of budget" in told
    assert "unfinished" not in told
    told = certify("resume", "out", "--budget", "10m", cwd=tmp_path)
    assert "left out" not in told
    config = config_of_manifest(Evaluation.load(tmp_path / "out").manifest)
    assert (config.preset, config.budget) == ("quick", "10m")
    certify("check", "out", cwd=tmp_path)
