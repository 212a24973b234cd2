"""Settings of methods: noises, frozen features, arithmetic, several of one kind, own classes, tables and back."""

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import certify
from bounds import InvalidConfiguration, InvalidInput
from certify import Evaluation, evaluate
from certify.cli import _exit_code
from certify.configuration.config import config_of_manifest, read_config
from certify.methods import (
    METHODS,
    IntervalBounds,
    LinearBounds,
    Lipschitz,
    Method,
    MinimalPerturbation,
    QuantisedCopy,
    SmoothedAttack,
    Smoothing,
    Verify,
)
from certify.methods.noises import NOISES, noise_of, plain_noise
from certify.methods.tables import methods_from, table_of
from certify.report import COLUMNS, Column
from certify.smoothing import (
    Ablation,
    DiscreteNoise,
    Gaussian,
    GeneralizedGaussian,
    InNorm,
    Laplace,
    SmoothedClassifier,
    SplittingNoise,
    Uniform,
    UniformInBox,
    UniformLInf,
)

EACH = [
    *(Gaussian(0.5), Laplace(0.3), Uniform(0.4), UniformInBox(0.4), UniformLInf(0.4, dimension=4)),
    *(SplittingNoise(0.4), DiscreteNoise(Fraction(4, 5)), Ablation(keep=2, pixels=4)),
    *(InNorm(Gaussian(0.5), math.inf, dimension=4), GeneralizedGaussian(0.5, dimension=64, k=8)),
]


def problem(count: int = 4) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.rand(count, 4, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("noise", EACH, ids=lambda noise: type(noise).__name__)
def test_every_noise_can_be_written_down_and_read(noise):
    plain = json.loads(json.dumps(plain_noise(noise)))
    again = noise_of(plain)
    assert type(again) is type(noise)
    assert plain_noise(again) == plain_noise(noise)
    assert (str(again), again.norm) == (str(noise), noise.norm)
    assert Smoothing(noise=noise).norms == (noise.norm,)
    assert {type(one) for one in EACH} == set(NOISES.values())


@pytest.mark.parametrize("noise", [EACH[1], EACH[3], EACH[4], EACH[8]], ids=lambda noise: type(noise).__name__)
def test_smoothing_certifies_with_any_noise_what_the_classifier_does(noise):
    model, x, y = problem()
    evaluation = evaluate(model, x, y, norms=noise.norm, methods=Smoothing(noise=noise, n=300, n0=20))
    direct = SmoothedClassifier(model, noise, num_classes=3, grid=None).certify(
        x, 300, 20, generator=torch.Generator().manual_seed(0)
    )
    rows = [row for record in evaluation.records for row in record["rows"]]
    assert [row["counts"] for row in rows] == direct.counts.tolist()
    assert [row["certified_radius"] for row in rows] == direct.radius.tolist()
    assert max(direct.radius) > 0
    assert {row["subject"] for row in rows} == {direct.subject}


def test_sigma_belongs_to_gaussian_noise():
    assert Smoothing().norms == (2.0,)
    assert Smoothing().sigma == 0.25
    with pytest.raises(InvalidInput, match=r"sigma is that of Gaussian noise, so pass sigma= or noise="):
        Smoothing(sigma=0.5, noise=Laplace(0.5))
    with pytest.raises(InvalidInput, match="noise must be a Noise, got"):
        Smoothing(noise="laplace")


TABLES = {
    '[methods.smoothing]\nnoise = "laplace"\nscale = 0.5': [Smoothing(noise=Laplace(0.5))],
    '[methods.smoothing]\nnoise = {name = "laplace", scale = 0.5}': [Smoothing(noise=Laplace(0.5))],
    '[methods.smoothing]\nnoise = "gaussian"\nsigma = 0.5': [Smoothing(noise=Gaussian(0.5))],
    '[methods.smoothing]\nnoise = "discrete"\nkeep_probability = "4/5"': [Smoothing(noise=EACH[6])],
    "[[methods.smoothing]]\nsigma = 0.5\n[[methods.smoothing]]\nn = 50": [
        Smoothing(sigma=0.5, name="smoothing 1"),
        Smoothing(n=50, name="smoothing 2"),
    ],
    '[[methods.smoothing]]\nname = "wide"\nsigma = 0.5': [Smoothing(sigma=0.5, name="wide")],
    "[methods.smoothing.wide]\nsigma = 0.5\n[methods.smoothing.narrow]\nsigma = 0.1\n[methods.ibp]": [
        Smoothing(sigma=0.5, name="wide"),
        Smoothing(sigma=0.1, name="narrow"),
        IntervalBounds(),
    ],
    '[methods.crown]\nsound = "deployed"\nfrozen_features = [0, 2]': [
        LinearBounds(sound="deployed", frozen_features=[0, 2])
    ],
    '[methods.ibp]\nfrozen_features = "mask.npy"': [
        IntervalBounds(frozen_features=torch.tensor([True, False, True, False]))
    ],
    "[methods.verify]\nepsilon = 0.1": [Verify(epsilon=0.1)],
    '[methods.lipschitz]\nmethod = "sdp"': [Lipschitz(method="sdp")],
}


@pytest.mark.parametrize("text", TABLES)
def test_tables_of_a_configuration_are_methods(text: str, tmp_path: Path):
    np.save(tmp_path / "mask.npy", np.array([True, False, True, False]))
    (tmp_path / "config.toml").write_text(f'[model]\nnetwork = "ibp"\n{text}\n')
    methods = read_config(tmp_path / "config.toml").chosen_methods()
    plain = [(method.name, table_of(method)) for method in methods]
    assert plain == [(method.name, table_of(method)) for method in TABLES[text]]
    assert [(method.name, table_of(method)) for method in methods_from(json.loads(json.dumps(dict(plain))))] == plain


REFUSED = {
    '[methods.smoothing]\nnoise = "laplace"': r"\[methods.smoothing\]: noise 'laplace' takes scale, but: missing",
    '[methods.smoothing]\nnoise = "laplace"\nscale = 0.5\nsigma = 0.5': "sigma is that of Gaussian noise",
    '[methods.smoothing]\nnoise = "pink"': "noise must be one of gaussian, .*, got 'pink'",
    '[methods.smoothing]\nnoise = "laplace"\nscale = -1': "scale must be",
    "[methods.smoothing]\nscale = 1.0": r"\[methods.smoothing\] must have known keys only, got 'scale': known are ",
    '[[methods.ibp]]\nname = "a"\n[methods.crown]\nname = "a"': r"\[methods\] must have different names, got a, a",
    '[methods.ibp]\nname = "a/b"': "name must be a short text",
    '[methods.ibp]\nsound = "loud"': 'sound must be one of "deployed", .*, got .loud.',
    "[methods.ibp]\nfrozen_features = [-1]": "frozen_features must be a bool tensor",
    '[methods.ibp]\nfrozen_features = "none.npy"': "none.npy cannot be read",
    "[methods.verify]": r"\[methods.verify\] epsilon must be given: it is a number above 0",
    '[methods.mine]\nclass = "nowhere:Mine"': "class 'nowhere:Mine' failed: ModuleNotFoundError",
    '[methods.mine]\nclass = "math:floor"': r"\[methods.mine\] must be one of smoothing, .*, got 'math:floor'",
    "[methods.mine]\nclass = [1]": r"class must be a text such as .*, got \[1\]",
    "methods = 3": "methods must be tables",
    "[methods]\nibp = 3": r"\[methods.ibp\] must be a table of settings, got 3",
}


@pytest.mark.parametrize("text", REFUSED)
def test_wrong_tables_are_refused_in_words(text: str, tmp_path: Path):
    head = '[model]\nnetwork = "ibp"\n'
    (tmp_path / "config.toml").write_text(f"{text}\n{head}" if text.startswith("methods") else f"{head}{text}\n")
    with pytest.raises(InvalidConfiguration, match=REFUSED[text]):
        read_config(tmp_path / "config.toml")


OWN = """
import torch
from certify.methods import Method
from certify.results import Certificate

class Mine(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    norms = (2.0,)
    rows_per_unit = 2
    name: str = "mine"
    radius: float = 0.25

    def run(self, problem, rows, norm):
        label = problem.y[rows]
        return Certificate(label=label, radius=torch.full(label.shape, self.radius, dtype=torch.float64),
                           abstained=torch.zeros_like(label, dtype=torch.bool), norm=norm, alpha=0.0, subject="base",
                           method=self.name)

def make():
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
"""


@pytest.mark.slow
def test_a_run_of_an_own_method_is_started_and_resumed_from_a_table(tmp_path: Path):
    _, x, _ = problem(5)
    (tmp_path / "my_module.py").write_text(OWN)
    np.savez(
        tmp_path / "data.npz", x=x.numpy(), y=np.zeros(5, dtype=int)
    )  # as the model has it, whose logits are equal
    save_file({"1.weight": torch.ones(3, 4), "1.bias": torch.zeros(3)}, tmp_path / "w.safetensors")
    (tmp_path / "config.toml").write_text(
        'norms = [2]\n[model]\nbuild = "my_module:make"\nweights = "w.safetensors"\n[data]\nfile = "data.npz"\n'
        '[methods.mine]\nclass = "my_module:Mine"\nradius = 0.5\n[methods.ibp]\n'
        '[[require]]\nmethod = "mine"\nnorm = 2\nradius = 0.5\nat_least = 1\nabout = "these inputs"\n'
    )
    assert _exit_code(["run", str(tmp_path / "config.toml"), "--output", str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out/records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out/records.jsonl").write_bytes(b"".join(lines[:2]))
    assert _exit_code(["check", str(tmp_path / "out")]) == 1
    assert _exit_code(["resume", str(tmp_path / "out")]) == 0
    loaded = Evaluation.load(tmp_path / "out")
    table = loaded.to_dataframe()
    assert table[table.method == "mine"].certified_radius.tolist() == [0.5] * 5
    (mine, _) = config_of_manifest(loaded.manifest).chosen_methods()
    assert (type(mine).__name__, mine.radius) == ("Mine", 0.5)


def test_several_settings_of_one_method_stand_next_to_each_other(tmp_path: Path):
    chosen = [Smoothing(sigma=sigma, n=100, n0=10, name=f"smoothing {sigma}") for sigma in (0.1, 0.5)]
    evaluation = evaluate(*problem(), norms=2, methods=chosen, output=tmp_path / "run")
    assert evaluation.summary()["method"].tolist() == ["smoothing 0.1", "smoothing 0.5"]
    assert Evaluation.load(tmp_path / "run").summary()["inputs"].tolist() == [4, 4]
    with pytest.raises(InvalidInput, match=r'different names.*such as Smoothing\(name="\.\.\."\)'):
        evaluate(*problem(), norms=2, methods=[Smoothing(), Smoothing(n=5)])


class Fixed(Method, frozen=True, kw_only=True):
    """A class that hides the setting ``name``."""

    name = "fixed"
    norms = (2.0,)
    rows_per_unit = 3


@pytest.mark.parametrize("draws", [0, 1, 3])
def test_draws_in_pairs_are_asked_for_before_the_work(draws: int):
    """An odd number used to end a run when the turn of the attack came."""
    with pytest.raises(InvalidInput, match=f"draws must be an even number of at least 2, got {draws}"):
        SmoothedAttack(draws=draws)


def test_a_name_is_never_lost():
    assert Fixed().name == "fixed"
    with pytest.raises(InvalidInput, match="name='other' is lost"):
        Fixed(name="other")
    needed = {Verify: {"epsilon": 0.1}, QuantisedCopy: {"copy": {"weight": torch.zeros(1)}}}
    for kind in METHODS:
        assert kind(**needed.get(kind, {}), name="other").name == "other"


@pytest.mark.slow
def test_settings_of_proofs_reach_them():
    model, x, y = problem()
    mask = torch.tensor([True, False, False, True])
    for frozen in (mask, [0, 3], mask.numpy()):
        chosen = IntervalBounds(sound="deployed", frozen_features=frozen)
        table = evaluate(model, x, y, norms=math.inf, methods=chosen).to_dataframe()
        direct = certify.certified_radius(
            model, x, y, norm=math.inf, method="ibp", sound="deployed", frozen_features=mask
        )
        assert table.certified_radius.tolist() == direct.radius.tolist()
    renamed = evaluate(model, x, y, norms=math.inf, methods=LinearBounds(name="other")).to_dataframe()
    direct = certify.certified_radius(model, x, y, norm=math.inf, method="crown", tolerance=1e-2)
    assert renamed.certified_radius.tolist() == direct.radius.tolist()
    constants = evaluate(model, x, y, norms=2, methods=Lipschitz()).to_dataframe()
    proved = certify.lipschitz_certificate(model, x, y, norm=2, low=0.0, high=1.0)
    assert constants.certified_radius.tolist() == proved.radius.tolist()


def test_radii_with_frozen_features_are_refuted_only_by_witnesses_that_keep_them():
    """The radius of a linear model with all but one weight frozen exceeds the distance of other perturbations."""
    model = nn.Linear(2, 2, bias=False).eval()
    model.weight.data = torch.tensor([[3.0, 0.5], [-3.0, -0.5]])
    x = torch.tensor([[0.1, 0.9]])
    settings = {"norms": math.inf, "low": -5.0, "high": 5.0}
    proof, attack = IntervalBounds(frozen_features=[0]), MinimalPerturbation(steps=20, restarts=1)
    kept = MinimalPerturbation(steps=20, restarts=1, frozen_features=[0], name="kept")
    y = torch.tensor([0])
    free = evaluate(model, x, y, methods=[proof, attack], **settings)
    radius, distance = free.to_dataframe().certified_radius.max(), free.to_dataframe().attack_distance.min()
    assert radius > distance  # or nothing was at stake: 1.5 against 0.2143
    assert (free.check(), free.comparisons()) == ([], 0)
    both = evaluate(model, x, y, methods=[proof, attack, kept, IntervalBounds(name="free")], **settings)
    assert (both.check(), both.comparisons()) == ([], 2)
    records = json.loads(json.dumps(both.records))
    for record in records:
        if record["method"] == "ibp":
            record["rows"][0]["certified_radius"] = 1.6
    assert len(Evaluation(both.manifest, records).check()) == 1


@pytest.mark.slow
def test_verdicts_are_certificates_of_one_radius(tmp_path: Path):
    model, x, y = problem(12)
    y[0] = (y[0] + 1) % 3
    epsilon = 0.1
    found = certify.verify(model, x, y, norm=math.inf, epsilon=epsilon, generator=torch.Generator().manual_seed(0))
    chosen = [Verify(epsilon=epsilon), MinimalPerturbation(steps=20)]
    evaluation = evaluate(model, x, y, norms=math.inf, methods=chosen, output=tmp_path / "run")
    table = Evaluation.load(tmp_path / "run").to_dataframe()
    table = table[table.method == "verify"]
    assert table.certified_radius.tolist() == [epsilon * proved for proved in found.verified.tolist()]
    assert {"verified", "falsified"} == set(table.verdict)  # or only one outcome was seen
    assert table.attack_distance.isna().all()
    (curve,) = [curve for curve in evaluation.curves() if curve.method == "verify"]
    assert float(curve.at(epsilon)) == float(found.verified.double().mean())
    assert evaluation.check() == []
    records = json.loads(json.dumps(evaluation.records))
    alone = [{**record, "rows": record["rows"]} for record in records if record["method"] == "verify"]
    for row in alone[0]["rows"]:
        row["certified_radius"] = 0.5
    broken = Evaluation(evaluation.manifest, alone).check()
    assert {one.index for one in broken} == set(table[(table.verdict == "falsified") & table.correct]["index"]) - {
        10,
        11,
    }
    open_ = Verify(epsilon=epsilon, method="ibp", attack=False)
    unknown = evaluate(model, x, y, norms=math.inf, methods=open_).to_dataframe()
    assert "unknown" in set(unknown.verdict)
    assert unknown.certified_radius.tolist() == [epsilon * (verdict == "verified") for verdict in unknown.verdict]
    assert Verify(epsilon=0.1).norms == (1.0, 2.0, math.inf)
    assert Verify(epsilon=2.0).norms == (0.0, 1.0, 2.0, math.inf)


SAID = {
    "real": ("lower bound, proved up to rounding errors", "about the model in real arithmetic, up to rounding errors"),
    "rounding": ("lower bound, proved", "about the model in real arithmetic, with rounding errors included"),
    "deployed": ("lower bound, proved of the float32 network", "about the model as it runs in float32"),
}


@pytest.mark.parametrize("sound", SAID)
def test_table_and_page_say_which_arithmetic_a_proof_is_about(sound: str, tmp_path: Path):
    """The page said "in real arithmetic" whatever was asked."""
    evaluate(*problem(), norms=2, methods=IntervalBounds(sound=sound), output=tmp_path / "run")
    loaded = Evaluation.load(tmp_path / "run")
    assert loaded.summary()["promise"].tolist() == [SAID[sound][0]]
    loaded.to_html(tmp_path / "page.html")
    assert f"Interval bounds are proofs {SAID[sound][1]}." in (tmp_path / "page.html").read_text()


def test_rows_that_break_the_promise_of_their_record_are_refused(tmp_path: Path):
    evaluate(*problem(), norms=2, methods=Smoothing(n=50, n0=5), output=tmp_path / "run")
    path = tmp_path / "run/records.jsonl"
    (record,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert record["promise"]["alpha"] == 0.001
    for change in ({"alpha": 0.0}, {"subject": "base"}, {"kind": "witness"}):
        path.write_text(json.dumps({**record, "promise": {**record["promise"], **change}}) + "\n")
        with pytest.raises(InvalidConfiguration, match="line 1 is damaged: Expected"):
            Evaluation.load(tmp_path / "run")


def test_an_own_column_stands_in_table_and_page(tmp_path: Path):
    share = Column(
        name="share",
        title="share certified",
        of=lambda line: (line.statuses("certificate", "certified") or 0) / len(line.rows),
        rounding=lambda line, value: f"{100 * value:.0f} %",
    )
    evaluation = evaluate(*problem(), norms=2, methods=[IntervalBounds(), MinimalPerturbation(steps=2, restarts=1)])
    columns = [*COLUMNS, share]
    summary = evaluation.summary(columns).set_index("method")
    table = evaluation.to_dataframe()
    assert summary.share["ibp"] == (table[table.method == "ibp"].status == "certified").mean() > 0
    evaluation.to_html(tmp_path / "page.html", columns=columns)
    text = (tmp_path / "page.html").read_text()
    assert '<th class="number">share certified</th>' in text
    assert f'<td class="number">{100 * summary.share["ibp"]:.0f} %</td>' in text
    assert "median estimate" not in text  # an optional column without a value
    assert list(evaluation.summary()) == [column.name for column in COLUMNS if "table" in column.places]
