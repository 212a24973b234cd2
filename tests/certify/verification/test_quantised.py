"""Certificates of quantised copies against the copies as they run, and copies that must be refused."""

import copy
import math

import pytest
import torch
from oracles.devices import elsewhere
from oracles.halfspace import generator
from torch import Tensor, nn
from torch.nn.utils import prune

import bounds
import certify
from bounds import InvalidInput, InvalidModel, UnsupportedLayer
from certify import QuantisedTensor, certified_quantised
from certify.verification.quantisation.quantised_weights import box_of_copy

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.quantize_per_"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated"),
]
LINF = {"norm": math.inf, "epsilon": 0.02}


def small(seed: int = 24) -> nn.Sequential:
    """A dense network, of whose classes inputs get several."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for i, weight in enumerate(model.parameters()):
            weight.copy_(torch.randn(weight.shape, generator=generator(seed + i)) * 0.5)
    return model.eval()


def images(rows: int = 12) -> Tensor:
    return torch.rand(rows, 1, 4, 4, generator=generator(9))


def rounded(weight: Tensor, bits: int = 8, axis: int | None = None) -> QuantisedTensor:
    """Symmetric rounding to nearest, by tensor or by channel."""
    size = weight.abs().amax() if axis is None else weight.abs().flatten(1).amax(1)
    scale = size / (2 ** (bits - 1) - 1)
    steps = scale if axis is None else scale.view(-1, *[1] * (weight.ndim - 1))
    return QuantisedTensor(values=(weight / steps).round().to(torch.int8), scale=scale, axis=axis)


def state_of(model: nn.Module, bits: int = 8, axis: int | None = None) -> dict[str, QuantisedTensor]:
    state = model.state_dict()
    return {name: rounded(state[name], bits, axis) for name in state if name.endswith("weight")}


def dequantised(model: nn.Module, state: dict[str, QuantisedTensor]) -> nn.Module:
    """The copy in double precision, from the middles of the ends."""
    plain = {name: value.double() for name, value in model.state_dict().items()}
    made = copy.deepcopy(model).double()
    made.load_state_dict(plain | {name: sum(value.ends()) / 2 for name, value in state.items()})
    return made


class Halved(nn.Linear):
    """Counts its bias half, where a flag says so that no look at settings sees."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - (0 if getattr(self, "_whole", True) else 0.5) * self.bias


def dynamic(model: nn.Module, dtype: torch.dtype = torch.qint8) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=dtype)


def attacked(model: nn.Module, x: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """(N,) bool: gradient signs or random corners of the ball change the class, of the model as it runs."""
    changed = torch.zeros(len(x), dtype=torch.bool)
    for i in range(len(x)):
        point = x[i : i + 1]
        for seed in range(40):
            sign = (torch.rand(point.shape, generator=generator(seed)) < 0.5).to(x) * 2 - 1
            with torch.no_grad():
                changed[i] |= bool(model((point + epsilon * sign).clamp(0, 1)).argmax(1) != labels[i])
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("axis", [None, 0])
def test_a_verified_row_holds_for_both_networks_and_between(axis: int | None):
    model, x = small(), images()
    state = state_of(model, axis=axis)
    found = certified_quantised(model, state, x, **LINF)
    between = certify.verify(model, x, **LINF, attack=False, method="crown").verified
    assert 3 < int(found.verified.sum()) <= int(between.sum())
    assert (found.copy_label == -1).all()
    other = dequantised(model, state)
    with torch.no_grad():
        for share in (0.0, 0.3, 1.0):
            mixed = copy.deepcopy(other)
            for own, first, second in zip(mixed.parameters(), model.parameters(), other.parameters(), strict=True):
                own.copy_(first.double() + share * (second - first.double()))
            assert not (attacked(mixed, x.double(), found.label, 0.02) & found.verified).any()
    assert found.subject == "base, quantised copy and all between"
    assert torch.equal(found.radius, torch.where(found.verified, found.epsilon, 0.0))


@pytest.mark.slow
def test_fewer_bits_prove_less_and_the_copy_alone_proves_more():
    model, x = small(), images()
    fine, coarse = (certified_quantised(model, state_of(model, bits), x, **LINF) for bits in (8, 4))
    alone = certified_quantised(model, state_of(model, 4), x, **LINF, weights="copy")
    both = fine.margin.isfinite() & coarse.margin.isfinite()
    assert (coarse.margin[both] < fine.margin[both]).all()
    assert int(alone.verified.sum()) > int(coarse.verified.sum())
    exact = certify.verify(dequantised(model, state_of(model, 4)), x.double(), fine.label, **LINF, attack=False)
    assert (exact.verified | ~alone.verified).all()
    assert int(alone.verified.sum()) == int(
        certify.verify(
            dequantised(model, state_of(model, 4)), x.double(), fine.label, **LINF, attack=False, method="crown"
        ).verified.sum()
    )


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
def test_dynamic_layers_of_torch_are_certified_as_they_run(dtype: torch.dtype):
    model, x = small(), images()
    quantised = dynamic(model, dtype)
    found = certified_quantised(model, quantised, x, **LINF)
    assert found.quantised_inputs == (3 if dtype == torch.qint8 else 0)
    assert int(found.verified.sum()) > 2
    assert not (attacked(quantised, x, found.label, 0.02) & found.verified).any()
    with torch.no_grad():
        assert found.copy_label.tolist() == [int(quantised(row).argmax(1)) for row in x.split(1)]


@pytest.mark.slow
def test_outputs_of_dynamic_layers_leave_bounds_that_forget_quantised_inputs():
    model, x = small(), images(40)
    quantised = dynamic(model)
    ball = bounds.LpBall(x.double(), 0.0, low=None, high=None)
    box = box_of_copy(model, quantised, between=False)
    forgetful = bounds.WeightBox(box.lower, box.upper)
    with torch.no_grad():
        outputs = torch.cat([quantised(row) for row in x.split(1)]).double()
        whole, mutant = (bounds.crown(bounds.with_weight_box(model, x.double(), one), ball) for one in (box, forgetful))
    assert ((outputs >= whole.lower) & (outputs <= whole.upper)).all()
    assert ((outputs < mutant.lower - 1e-4) | (outputs > mutant.upper + 1e-4)).any()


@pytest.mark.slow
def test_convolutions_pruned_copies_and_explicit_boxes():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        for i, weight in enumerate(model.parameters()):
            weight.copy_(torch.randn(weight.shape, generator=generator(i)))
    x, pruned = images(), copy.deepcopy(model)
    with torch.no_grad():
        pruned[0].weight[pruned[0].weight.abs() < 0.02] = 0.0
    found = certified_quantised(model, pruned, x, **LINF)
    assert int(found.verified.sum()) > 2
    box = bounds.WeightBox.around(model, 0.003)
    every = certified_quantised(model, box, x, **LINF, method="alpha_crown")
    assert every.subject == "every network of a box of weights"
    assert int(every.verified.sum()) > 2
    corner = copy.deepcopy(model).double()
    for seed in range(5):
        with torch.no_grad():
            for name, weight in corner.named_parameters():
                high = torch.rand(weight.shape, generator=generator(seed)) < 0.5
                weight.copy_(torch.where(high, box.upper[name], box.lower[name]))
        assert not (attacked(corner, x.double(), every.label, 0.02) & every.verified).any()
    point = certified_quantised(model, box, x, norm=2, epsilon=0.0, method="ibp")
    assert (point.verified | ~every.verified).all()


def test_ends_hold_exact_and_rounded_products():
    values = torch.randint(-128, 128, (40, 3), generator=generator(1), dtype=torch.int8)
    scale, zero = torch.rand(3, generator=generator(2)), torch.tensor([0, 5, -7])
    low, high = QuantisedTensor(values=values, scale=scale, zero_point=zero, axis=1).ends()
    exact = (values.double() - zero) * scale.double()
    float32 = (values.float() - zero) * scale
    for product in (exact, float32.double()):
        assert ((low <= product) & (product <= high)).all()
    assert ((high - low) <= 1e-6 * exact.abs() + 1e-300).all()


def test_quantised_tensors_of_torch_are_read():
    weight = torch.randn(4, 3, generator=generator(3))
    scales, zeros = torch.rand(4, generator=generator(4), dtype=torch.float64) / 50, torch.zeros(4, dtype=torch.int64)
    model = nn.Sequential(nn.Linear(3, 4))
    for made in (
        torch.quantize_per_tensor(weight, 0.02, 3, torch.qint8),
        torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8),
    ):
        box = box_of_copy(model, {"0.weight": made}, between=False)
        numbers = made.dequantize().double()
        assert ((box.lower["0.weight"] <= numbers) & (numbers <= box.upper["0.weight"])).all()
        assert set(box.lower) == {"0.weight"}


# --------------------------------------------------------------------------------------------------- what is refused


class Twisted(nn.Sequential):
    """Same layers, another function."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(-1))


def refused(model: nn.Module, quantised: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        certified_quantised(model, quantised, images(3), **LINF)  # type: ignore[arg-type]  # wrong on purpose


def test_copies_that_quantise_inputs_in_other_ways_are_refused():
    model = small()
    refused(model, copy.deepcopy(model).bfloat16(), InvalidModel, "computes in torch.bfloat16, which rounds inputs")
    stubs = nn.Sequential(torch.ao.quantization.QuantStub(), *small()[1:])
    refused(model, stubs, InvalidModel, "is QuantStub where the model has Flatten")
    hooked = copy.deepcopy(model)
    hooked[1].register_forward_pre_hook(lambda layer, args: ((args[0] * 16).round() / 16,))
    refused(model, hooked, InvalidModel, "'1' has forward hooks")
    old = dynamic(model)
    old[1].version = 3
    refused(model, old, InvalidModel, "is of version 3, whose sums may saturate")


@pytest.mark.slow
def test_copies_of_other_networks_are_refused():
    model = small()
    refused(model, Twisted(*small()), InvalidModel, r"'\(the copy itself\)' is Twisted where the model has Sequential")
    refused(model, small()[:-1], InvalidModel, "'5' is missing in the copy")
    refused(model, nn.Sequential(*small(), nn.ReLU()), InvalidModel, "'6' is not in the model")
    other = copy.deepcopy(model)
    prune.random_unstructured(other[1], "weight", 0.1)
    refused(model, other, InvalidModel, "prune.remove")
    other = copy.deepcopy(model)
    other.forward = lambda x: nn.Sequential.forward(other, 1 - x)
    refused(model, other, InvalidModel, "forward of its own")
    own, other = (nn.Sequential(nn.Flatten(), Halved(16, 3)).eval() for _ in range(2))
    other.load_state_dict(own.state_dict())
    other[1]._whole = False
    refused(own, other, InvalidModel, "its answers leave the bounds")
    leaky, less = (nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.LeakyReLU(slope)).eval() for slope in (0.1, 0.2))
    refused(leaky, less, InvalidModel, "has negative_slope=0.2 where the model has 0.1")


def test_weights_that_cannot_be_read_are_refused():
    model = small()
    refused(model, {"1.weight": torch.zeros(2)}, InvalidInput, "must have the names and shapes of model.state_dict")
    refused(model, {"9.weight": torch.zeros(2)}, InvalidInput, "must have the names and shapes of model.state_dict")
    refused(model, {"1.weight": 3.0}, InvalidInput, "1.weight must be a plain tensor")
    refused(model, 7, InvalidInput, "quantised must be a module, a mapping")
    refused(model, {"1.bias": torch.full((12,), torch.nan)}, InvalidInput, "must be finite")
    norm = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3)).eval()
    refused(norm, {"1.weight": torch.full((16,), 0.9)}, UnsupportedLayer, "fold it into one first")
    with pytest.raises(InvalidInput, match="scale of a quantised tensor"):
        QuantisedTensor(values=torch.ones(2, dtype=torch.int8), scale=0.0).ends()
    with pytest.raises(InvalidInput, match="values of a quantised tensor must be integers"):
        QuantisedTensor(values=torch.ones(2), scale=1.0).ends()
    with pytest.raises(InvalidInput, match="one for each index along axis"):
        QuantisedTensor(values=torch.ones(2, dtype=torch.int8), scale=torch.ones(2)).ends()


@pytest.mark.slow
def test_no_inputs_labels_and_devices():
    model, x = small(), images(3)
    assert len(certified_quantised(model, state_of(model), x[:0], **LINF)) == 0
    wrong = (model(x).argmax(1) + 1) % 3
    found = certified_quantised(model, state_of(model), x, wrong, **LINF)
    assert not found.verified.any()
    assert not found.certified(wrong, 0.0).any()
    state = state_of(model)
    with elsewhere():
        certified_quantised(model, state, x, **LINF, method="crown_ibp")
