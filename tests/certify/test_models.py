"""Rules that every method asks of a model, each with a model that breaks it."""

import math
from collections.abc import Callable

import pytest
import torch
from oracles.halfspace import generator
from torch import Tensor, nn

from bounds import InvalidInput, InvalidModel, LpBall, Normalize, crown, ibp, margin_bounds
from certify import SmoothedClassifier, TwoClasses, certified_radius, evaluate, verify
from certify.attacks import minimal_perturbation
from certify.methods import LinearBounds
from certify.models import frozen, predictions, probe
from certify.smoothing import Gaussian
from certify.smoothing.classifiers.noisy_model import PROBED

SHAPE = (3, 5, 7)
FEATURES = math.prod(SHAPE)


class Function(nn.Module):
    """A function of a batch as a model."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def two(x: Tensor) -> Tensor:
    """The first two entries of each row as logits."""
    return x.flatten(1)[:, :2]


def inputs(count: int = 4) -> Tensor:
    return torch.rand(count, *SHAPE, generator=generator(1))


def probed(model: nn.Module, x: Tensor, **options: int) -> int:
    with frozen(model):
        return probe(model, x, **options)


# ----------------------------------------------------------------------------------------------- writing into inputs

WRITERS = {
    "round_": lambda x: two(x.round_()),
    "clamp_ that changes nothing here": lambda x: two(x.clamp_(0, 1)),
    "relu of a view": lambda x: two(nn.functional.relu(x.flatten(1), inplace=True)),
    "new shape": lambda x: two(x.squeeze_(0).unsqueeze_(0).transpose_(1, 2)),
    "behind the back of autograd": lambda x: two(x.data.mul_(2)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_model_that_writes_into_its_input_is_refused(name: str):
    """It changed the caller's inputs, and the certificate then spoke of the changed ones."""
    x = inputs()
    before = x.clone()
    with pytest.raises(InvalidModel, match="the model writes into its input"):
        probed(Function(WRITERS[name]), x)
    assert torch.equal(x, before)


def test_no_method_hands_out_a_certificate_for_inputs_that_the_model_rounds_away():
    x = inputs()
    before, labels = x.clone(), torch.zeros(4, dtype=torch.int64)
    inplace = nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(FEATURES, 2))
    with pytest.raises(InvalidModel, match="writes into its input"):
        certified_radius(inplace, x, labels, norm=2)
    with pytest.raises(InvalidModel, match="writes into its input"):
        SmoothedClassifier(Function(WRITERS["round_"]), Gaussian(0.1), num_classes=2).certify(x, n=10)
    assert torch.equal(x, before)


def test_models_that_write_into_their_own_tensors_are_served():
    later = nn.Sequential(
        Normalize([0.5] * 3, [0.2] * 3), nn.ReLU(inplace=True), nn.Dropout(inplace=True), nn.Flatten(), nn.LazyLinear(4)
    )
    later(inputs())
    assert probed(later, inputs(), batch_size=50) == 4
    assert probed(nn.Sequential(nn.Dropout(inplace=True), nn.Flatten()), inputs()) == FEATURES
    with torch.inference_mode():
        assert probed(later, inputs()) == 4


# ------------------------------------------------------------------------------------------------ coupling of inputs

COUPLED = {
    "batch statistics": nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten()),
    "mean": Function(lambda x: two(x - x.mean(0))),
    "NaN alone": Function(lambda x: two(x) + (math.nan if len(x) == 1 else 0)),
    "deviation, which is NaN alone": Function(lambda x: two(x) / (x.std() if len(x) > 1 else math.nan)),
    "fewer classes alone": Function(lambda x: x.flatten(1)[:, : 1 + len(x)]),
}


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("rows", ["different", "one", "equal", "constant"])
def test_coupling_of_rows_is_seen(name: str, rows: str):
    """With one row, or two equal ones, batch statistics are those of the row itself."""
    one = inputs(1)
    kinds = {"different": inputs(), "one": one, "equal": one.repeat(3, 1, 1, 1), "constant": torch.full_like(one, 0.5)}
    with pytest.raises(InvalidModel, match=r"depend on the other rows of its batch|must return logits"):
        probed(COUPLED[name], kinds[rows])


class Routed(nn.Module):
    """Two experts, each of which takes its rows in parts; sums end differently by rounding where a part has one row."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = 4 * torch.finfo(torch.float32).eps

    def forward(self, x: Tensor) -> Tensor:
        first = x.flatten(1).sum(1) > 0.5  # False for NaN
        logits = two(x).clone()
        for mask in (first, ~first):
            logits[mask] = logits[mask] * (1 + self.unit * (int(mask.sum()) == 1))
        return logits


def test_rows_may_be_dealt_out_by_what_they_are():
    """Experts, and a consensus that asks further members where it is undecided, run parts of another size."""
    assert probed(Routed(), inputs()) == 2
    with pytest.raises(InvalidModel, match="depend on the other rows of its batch"):
        probed(Function(lambda x: two(x) + 1e-6 * x.flatten(1).mean()), inputs())


def test_models_of_whole_numbers_get_only_numbers_of_the_input():
    """A row made up for the check must not be refused by a model that looks its entries up."""
    table = nn.Embedding(6, 4)
    model = Function(lambda x: table(x.long()).mean(1))
    for x in (torch.tensor([[5.0, 2.0, 3.0]]), torch.tensor([[5.0, 5.0, 5.0]]), torch.zeros(2, 3)):
        assert probed(model, x, batch_size=10) == 4


def test_another_input_may_have_logits_that_overflow_but_not_the_first():
    model = Function(lambda x: two(torch.where(x > 0.5, math.nan, x)))
    x = torch.zeros(2, 3)
    x[1] = 1
    assert probed(model, x) == 2
    assert probed(model, x[:1]) == 2
    with pytest.raises(InvalidModel, match="logits that are not finite"):
        probed(model, x.flip(0))


SMALL = {
    "roll by 2": lambda x: two(x.roll(2, 0)),
    "roll by 3": lambda x: two(x.roll(3, 0)),
    "flip": lambda x: 1e-4 * two(x.flip(0)),
    "share": lambda x: two(x) + 1e-6 * two(x.flip(0)),
    "mean": lambda x: 1e-20 * two(x - 1e-6 * x.mean(0)),
    "softmax": lambda x: two(x.softmax(0)),
    "cumsum": lambda x: 1e20 * two(x.cumsum(0)),
    "sort": lambda x: two(x.sort(0).values),
    "place": lambda x: two(x) + torch.arange(len(x))[:, None],
}


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("name", SMALL)
def test_coupling_is_seen_at_any_scale(name: str, count: int):
    """Two rows, rolled by two, stay where they are; and an absolute tolerance let small logits pass."""
    with pytest.raises(InvalidModel, match="depend on the other rows of its batch"):
        probed(Function(SMALL[name]), inputs(count))


def test_answers_of_any_scale_and_precision_pass():
    network = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 9), nn.ReLU(), nn.Linear(9, 3)).eval()
    for scale in (0.0, 1e-30, 1.0, 1e30):
        model = nn.Sequential(network, Function(lambda y, scale=scale: y * scale))
        assert probed(model, inputs(), batch_size=64) == 3
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert probed(network.to(dtype), inputs().to(dtype), batch_size=64) == 3


# --------------------------------------------------------------------------------------------------------- randomness

RANDOM = {
    "dropout": lambda x: nn.functional.dropout(two(x), 0.3, training=True),
    "rrelu of numbers above 0": lambda x: nn.functional.rrelu(two(x) + 1, training=True),
    "an event that hardly happens": lambda x: two(x) + torch.bernoulli(torch.full((), 1e-9)),
    "attention": lambda x: two(nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.3)),
}
ENTRIES = {
    "radius": lambda m, x: certified_radius(m, x, torch.zeros(len(x), dtype=torch.int64), norm=2),
    "verify": lambda m, x: verify(m, x, torch.zeros(len(x), dtype=torch.int64), norm=2, epsilon=0.1),
    "attack": lambda m, x: minimal_perturbation(m, x, torch.zeros(len(x), dtype=torch.int64), norm=2),
    "smoothing": lambda m, x: SmoothedClassifier(m, Gaussian(0.1), num_classes=2).certify(x, n=10),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_named_with_their_line_even_where_two_passes_agree(name: str, entry: str):
    with pytest.raises(InvalidModel, match=r"the model draws random numbers, aten\.\w+\.\w+ at File .*test_models\.py"):
        ENTRIES[entry](Function(RANDOM[name]), inputs())


def test_fixed_numbers_and_switched_off_layers_are_not_random():
    fixed = Function(lambda x: two(x) + torch.rand(2, generator=generator(3)))
    assert probed(fixed, inputs()) == 2
    assert probed(nn.Sequential(nn.RReLU(), nn.Dropout(0.3), nn.Flatten(), nn.AlphaDropout()), inputs()) == FEATURES


# ------------------------------------------------------------------------------------------------------ other faults


def fails(error: Exception) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        raise error

    return function


def test_images_without_their_axes_are_told_how_to_get_them():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(60, 2))
    for x in (torch.rand(3, 5, 7), torch.rand(2, 105)):
        with pytest.raises(
            InvalidModel, match=r"images \(N, C, H, W\): one image becomes x\[None\], flat ones x.unflatten"
        ):
            probed(model.eval(), x)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AssertionError(), "AssertionError: no message"),
        (AssertionError("odd\nlines"), "AssertionError: odd$"),
        (KeyError("a"), "KeyError: 'a'"),
        (NotImplementedError("later"), "NotImplementedError: later"),
    ],
)
def test_whatever_a_model_raises_becomes_one_line(error: Exception, message: str):
    with pytest.raises(InvalidModel, match=message) as caught:
        probed(Function(fails(error)), inputs())
    assert "does not accept x of shape (5, 3, 5, 7)" in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: two(x).to(torch.complex64), "must return real logits, got torch.complex64"),
        (lambda x: two(x) > 0, "must return real logits, got torch.bool"),
        (
            lambda x: (two(x),),
            r"must return logits of shape \(N, K\), got tuple: wrap it in a module that returns output\[0\]",
        ),
        (lambda x: two(x)[:, :1], r"must return logits of shape .* got \(5, 1\).*certify.TwoClasses"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(function: Callable[[Tensor], object], message: str):
    with pytest.raises(InvalidModel, match=message):
        probed(Function(function), inputs())


@pytest.mark.parametrize("model", [two, nn.Linear, None])
def test_what_is_no_module_is_refused(model: object):
    for call in (lambda: probe(model, inputs()), lambda: probed(model, inputs())):
        with pytest.raises(InvalidModel, match=r"the model must be a torch.nn.Module, got"):
            call()


def test_no_input_is_refused():
    with pytest.raises(InvalidInput, match="number of inputs must be an integer of at least 1, got 0"):
        probed(Function(two), inputs(0))


@pytest.mark.parametrize(
    ("example", "dynamic", "message"),
    [
        (8, None, "dynamic batch dimension"),
        (2, None, "dynamic batch dimension"),
        (8, 16, r"x of shape \(32, 3, 5, 7\).*dynamic batch dimension, or lower batch_size"),
    ],
)
def test_a_bounded_batch_of_an_exported_model_is_found_at_once(example: int, dynamic: int | None, message: str):
    """It used to fail in the middle of the run, where batches were full."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 3))
    shapes = None if dynamic is None else ({0: torch.export.Dim("batch", max=dynamic)},)
    exported = torch.export.export(model, (inputs(example),), dynamic_shapes=shapes).module()
    with pytest.raises(InvalidModel, match=message):
        SmoothedClassifier(exported, Gaussian(0.1), num_classes=3, batch_size=40).certify(inputs(1), n=100)
    if dynamic is not None:
        few = SmoothedClassifier(exported, Gaussian(0.1), num_classes=3, batch_size=dynamic)
        assert len(few.certify(inputs(), n=100)) == 4
        assert len(certified_radius(model, inputs(), torch.zeros(4, dtype=torch.int64), norm=2, batch_size=40)) == 4


def test_each_public_call_tries_the_model_once():
    sizes = []

    def function(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return two(x)

    SmoothedClassifier(Function(function), Gaussian(0.1), num_classes=2, batch_size=50).certify(
        inputs(1), n=100, n0=100
    )
    assert sizes == [5, 1, 5, *[5] * 5, 1, 1, PROBED, *[50] * 4]  # few draws are not worth a larger trial batch


# ------------------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_logits_that_are_not_finite_predict_no_class(batch_size: int):
    """NaN counted as class 0, since argmax takes it for the largest."""
    x = torch.tensor([[0.0, 1.0], [math.nan, 1.0], [1.0, math.nan], [1.0, 0.0], [0.0, math.inf]])
    found = predictions(Function(two), x, batch_size)
    assert found.tolist() == [1, -1, -1, 0, -1]
    assert found.dtype == torch.int64


# ----------------------------------------------------------------------------------------------------------- one logit


@pytest.mark.slow
@pytest.mark.parametrize("flat", [pytest.param(False, marks=pytest.mark.slow), True])
def test_one_logit_is_served_as_two_classes(flat: bool):
    """Closed form of a linear model: the distance of x to the boundary is |w x + b| / |w|."""
    x = inputs(3).flatten(1)[:, :6].double()
    linear = nn.Linear(6, 1).double()
    with torch.no_grad():
        linear.weight.copy_(torch.randn(1, 6, generator=generator(3)))
        linear.bias.copy_(-(linear.weight @ x.mean(0)))  # on both sides
    model = nn.Sequential(linear, nn.Flatten(0)) if flat else linear
    wrapped = TwoClasses(model)
    logit = linear(x).detach().squeeze(1)
    labels = (logit > 0).long()
    exact = logit.abs() / linear.weight.detach().norm()
    assert 0 < labels.sum() < 3
    for call in ENTRIES.values():
        with pytest.raises(InvalidModel, match=r"K >= 2, got .*certify\.TwoClasses"):
            call(model, x)
    with pytest.raises(InvalidInput, match=r"labels must be of at least two classes.*certify\.TwoClasses"):
        margin_bounds(linear, LpBall(x, 0.0), labels, "crown")
    for method in ("ibp", "crown"):
        margins = margin_bounds(wrapped, LpBall(x, 0.0), labels, method)
        torch.testing.assert_close(margins.sum(1), logit.abs())
    for method in (ibp, crown):
        torch.testing.assert_close(method(model, LpBall(x, 0.0)).lower.flatten(), logit)
    open_box = {"low": None, "high": None}
    torch.testing.assert_close(
        certified_radius(wrapped, x, labels, norm=2, **open_box).radius, exact, rtol=2e-3, atol=0
    )
    verdict = verify(wrapped, x, labels, norm=2, epsilon=exact * torch.tensor([0.9, 1.1, 0.9]), **open_box)
    assert verdict.verified.tolist() == [True, False, True]
    assert verdict.falsified.tolist() == [False, True, False]
    witness = minimal_perturbation(wrapped, x, labels, norm=2, **open_box)
    torch.testing.assert_close(witness.distance, exact, rtol=1e-2, atol=0)
    smoothed = SmoothedClassifier(wrapped, Gaussian(0.25), num_classes=2)
    assert (smoothed.certify(x, n=1000, generator=generator(3)).radius <= exact).all()
    found = evaluate(wrapped, x, labels, methods=[LinearBounds()], norms=[2])
    assert (found.to_dataframe().certified_radius.to_numpy() <= exact.numpy() * (1 + 1e-9)).all()


def test_more_than_one_logit_is_no_binary_model():
    with pytest.raises(InvalidModel, match=r"must return one logit for each input, got shape \(2, 3\)"):
        TwoClasses(nn.Linear(4, 3))(torch.rand(2, 4))
    with pytest.raises(InvalidModel, match=r"must be a torch\.nn\.Module"):
        TwoClasses(len)
