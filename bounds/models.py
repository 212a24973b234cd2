"""A caller's model: set up for one computation, handed back as it was, and tried for what guarantees rest on."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils._python_dispatch import TorchDispatchMode

from bounds.errors import InvalidModel
from bounds.memory import out_of_memory

# Rows of a probe: distinct, and so many that neither a turn nor a shift by up to four leaves each where it was.
PROBE_ROWS = 5
# Answers for one input in batches of different size, relative to the largest; sums run in other orders there.
COUPLING_TOLERANCE = 1e-3
ROUNDINGS = 64  # by which kernels for batches of other sizes may differ, in units of the largest answer
SWITCHES = ("train", "training")  # arguments that switch randomness off where they are False
CHANCES = ("p", "dropout_p")  # and where they are 0
TORCH = str(Path(torch.__file__).parent)


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode and without gradients for its weights; restored on leaving.

    Raises:
        InvalidModel: not an ``nn.Module``.
    """
    with evaluation_mode(model):
        # Weights made under inference mode take part in no gradient, and refuse to be asked for one.
        gradients = [(weight, weight.requires_grad) for weight in model.parameters() if not weight.is_inference()]
        try:
            for weight, _ in gradients:
                weight.requires_grad_(False)
            yield model
        finally:
            for weight, required in gradients:
                weight.requires_grad_(required)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode, with gradients as they are; restored on leaving."""
    require_module(model)
    # Frozen TorchScript has no modes.
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    try:
        for module, _ in modes:
            module.training = False  # not .eval(): modules from torch.export refuse that call
        yield model
    finally:
        for module, training in modes:
            module.training = training


def require_module(model: object) -> None:
    """Refuse what is no ``nn.Module``."""
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise InvalidModel(f"the model must be a torch.nn.Module, got the class {model.__name__}: call it to make one")
    if not isinstance(model, nn.Module):
        raise InvalidModel(
            f"the model must be a torch.nn.Module, got {type(model).__name__}: wrap it in one, whose forward calls it"
        )
    for name, weight in model.named_parameters():
        if isinstance(weight, UninitializedParameter):
            raise InvalidModel(
                f"the model must have weights, but {name} of a lazy layer has none yet: call model(x) once"
            )


# ------------------------------------------------------------------------------------------------------------ answers


def answer(model: nn.Module, rows: Tensor) -> Tensor:
    """The output of a model, one tensor; whatever it raises, or returns instead, is told in one line.

    Raises:
        InvalidModel: the model does not accept the rows (B, *D), or returns no single tensor.
    """
    try:
        output = model(rows)
    except Exception as error:  # models raise anything
        if out_of_memory(error) or isinstance(error, InvalidModel):
            raise
        reason = (str(error).strip() or "no message").splitlines()[0]
        remedy = ""
        if rows.ndim < 4 and any(isinstance(part, nn.Conv2d) for part in model.modules()):
            remedy = "; it takes images (N, C, H, W): one image becomes x[None], flat ones x.unflatten(1, (C, H, W))"
        if len(rows) > PROBE_ROWS or "[0]" in reason:
            remedy = "; export the model with a dynamic batch dimension, or lower batch_size"
        if rows.ndim == 4 and rows.shape[3] in (1, 3) and rows.shape[1] not in (1, 3):
            remedy = "; images with their channels last become x.permute(0, 3, 1, 2) ([data] channels_last = true)"
        weight = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), rows.dtype)
        if rows.is_floating_point() and rows.dtype != weight:
            needed = {torch.float32: "x.float()", torch.float64: "x.double()"}.get(weight, f"x.to({weight})")
            remedy = f"; its weights are {weight}, so pass {needed}"
        raise InvalidModel(
            f"the model does not accept x of shape {tuple(rows.shape)}, {rows.dtype} on {rows.device}: "
            f"{type(error).__name__}: {reason}{remedy}"
        ) from error
    return one_tensor(output)


def one_tensor(output: object) -> Tensor:
    """The output of a model; refused if it is no tensor, with what to return instead."""
    if isinstance(output, Tensor):
        return output
    pick = "its logits as one tensor"
    if isinstance(getattr(output, "logits", None), Tensor):
        pick = "output.logits, such as certify.Logits(model)"
    elif isinstance(output, Mapping):
        names = [name for name, value in output.items() if isinstance(value, Tensor)]
        pick = f"output[{('logits' if 'logits' in names else names[0])!r}]" if names else pick
    elif isinstance(output, tuple | list) and output:
        pick = "output[0]"
    raise InvalidModel(
        f"the model must return logits of shape (N, K), got {type(output).__name__}: wrap it in a module that "
        f"returns {pick}"
    )


def class_logits(output: object, count: int) -> Tensor:
    """The output of a model for ``count`` inputs, which must be logits (N, K) of at least two classes."""
    logits = one_tensor(output)
    if not (logits.ndim == 2 and len(logits) == count and logits.shape[1] > 1):
        single = logits.shape in ((count,), (count, 1))
        remedy = ": wrap a model of one logit as certify.TwoClasses(model)" if single else ""
        raise InvalidModel(
            f"the model must return logits of shape (N, K) with K >= 2, got {tuple(logits.shape)} for N = {count}"
            f"{remedy}"
        )
    return logits


def tolerance(model: nn.Module, logits: Tensor) -> float:
    """The absolute difference that answers for one input may have between batches: sums run in other orders there."""
    unit = _unit(model, logits)
    if logits.is_cuda:
        unit = max(unit, 2.0**-10)  # TensorFloat-32
    return max(COUPLING_TOLERANCE, 16 * unit) * _largest(logits)


def _largest(logits: Tensor) -> float:
    size = logits[logits.isfinite()].abs()
    return float(size.max()) if size.numel() else 0.0


def _unit(model: nn.Module, logits: Tensor) -> float:
    """The spacing of numbers in the coarsest dtype that a model computes in, as far as its weights tell."""
    dtypes = {logits.dtype, *(weight.dtype for weight in model.parameters())}
    return max((torch.finfo(dtype).eps for dtype in dtypes if dtype.is_floating_point), default=0.0)


def agree(one: Tensor, other: Tensor, allowed: float = 0.0) -> bool:
    """Whether answers are of one shape and differ by no more than is allowed; NaN equals NaN."""
    if one.shape != other.shape:
        return False
    same = (one == other) | (one.isnan() & other.isnan())
    return bool((same | ((one - other).abs() <= allowed)).all())


def mixes_rows(
    model: nn.Module, rows: Tensor, together: Tensor, allowed: float = 0.0, *, in_parts: bool = False
) -> bool:
    """Whether the answer for one of the rows changes with the others, in a batch of the same size.

    The others become NaN, which no arithmetic hides; or, where the model does not take it, the rows change places. The
    same shapes run the same kernels, so that answers agree bit by bit, whatever their scale, unless other rows matter.

    Args:
        model: in evaluation mode.
        rows: (B, *D), distinct.
        together: answers for them.
        allowed: difference of answers that does not count, for kernels that do not repeat their sums.
        in_parts: whether the model may take its batch apart, by experts or by what is undecided. Other kernels run on
            parts of another size, so that answers next to NaN may differ by rounding.
    """
    rounding = ROUNDINGS * _unit(model, together) * _largest(together) if in_parts else 0.0
    for place in range(len(rows)):
        kept = torch.arange(len(rows), device=rows.device).eq(place).view(-1, *[1] * (rows.ndim - 1))
        found, least = None, allowed
        with torch.no_grad():
            if rows.device.type == "cpu":  # elsewhere a NaN that is made an index may end the process
                with suppress(InvalidModel):
                    found = answer(model, torch.where(kept, rows, torch.nan))
                    least = max(allowed, rounding)
            if found is None:
                found = answer(model, torch.where(kept, rows, rows.roll(1, 0)))
        if found.shape != together.shape or not agree(found[place], together[place], least):
            return True
    return False


# --------------------------------------------------------------------------------------------------------- randomness


def draws(operation: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of an ATen operation takes numbers from torch's generator.

    It does not where it is switched off: dropout in evaluation mode, attention without dropout. Numbers from a
    generator of one's own are left to the comparison of two passes.
    """
    if not isinstance(operation, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in operation.tags:
        return False
    values = dict(kwargs)
    for place, argument in enumerate(operation._schema.arguments):
        if place < len(args):
            values.setdefault(argument.name, args[place])
        elif argument.has_default_value():
            values.setdefault(argument.name, argument.default_value)
    off = any(values.get(name) is False for name in SWITCHES)
    off = off or any(isinstance(values.get(name), int | float) and values[name] == 0 for name in CHANCES)
    return not (off or values.get("generator") is not None)


class _Draws(TorchDispatchMode):
    """Remembers the first operation that takes random numbers, and where it stands."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it without types
        self.found = ""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401  # whatever it returns
        """Run the operation as it is."""
        if not self.found and draws(func, args, kwargs or {}):
            frames = traceback.extract_stack()
            start = max(i for i, frame in enumerate(frames) if frame.name == random_operation.__name__)
            inside = [frame for frame in frames[start + 1 :] if frame.filename != __file__]
            line = ([frame for frame in inside if not frame.filename.startswith(TORCH)] or inside)[-1]
            self.found = f'{func} at File "{line.filename}", line {line.lineno}, in {line.name}: {line.line}'
        return func(*args, **(kwargs or {}))


def random_operation(model: nn.Module, rows: Tensor) -> str:
    """The operation of a model that takes random numbers, and its line of source code; empty if there is none."""
    watch = _Draws()
    with suppress(Exception), torch.no_grad(), watch:  # some code runs in no such mode; its answers are compared still
        model(rows.clone())
    return watch.found


def randomness(found: str) -> str:
    """The sentence for a model that draws numbers."""
    return (
        f"the model draws random numbers, {found}: a guarantee needs a deterministic model, so switch this off in "
        f"evaluation mode (training=False, p=0), or keep the numbers in a buffer"
    )
