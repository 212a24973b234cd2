"""Record of a comparison of engines."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from bounds.engines.choice import ENGINES, OWN

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, kw_only=True)
class EngineBounds:
    """Bounds of one engine by one method, held against values that the network takes.

    Attributes:
        engine: ``"own"`` or ``"auto_lirpa"``.
        method: see :func:`bounds.margin_bounds`.
        lower: (N, K); None where the engine refused.
        upper: likewise; None also for margins, of which there are lower bounds alone.
        width: mean distance from the lower bounds to the upper ones; for margins to the least values met. NaN where the
            engine refused.
        refuted: (N, K) bool, where the network takes a value beyond a bound, by more than rounding; None where the
            engine refused.
        excess: how far beyond at most; 0 where nothing is refuted.
        seconds: of the call, without capturing or parsing the network.
        refusal: why the engine has no bounds, empty otherwise.
    """

    engine: str
    method: str
    lower: Tensor | None = None
    upper: Tensor | None = None
    width: float = math.nan
    refuted: Tensor | None = None
    excess: float = 0.0
    seconds: float = math.nan
    refusal: str = ""

    @property
    def count_refuted(self) -> int:
        """Number of outputs or margins with a bound that is refuted."""
        return 0 if self.refuted is None else int(self.refuted.sum())


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class EngineComparison:
    """Bounds of our engine and of auto_LiRPA next to each other, and which of them a point refutes.

    Attributes:
        bounds: of each engine by each method.
        least: (N, K), the least values of outputs or margins that were met.
        largest: (N, K), the largest ones of outputs; None for margins.
        version: of auto_LiRPA; empty where it is missing.
        missing: why auto_LiRPA cannot be used; our bounds are then held against points alone.
    """

    bounds: tuple[EngineBounds, ...]
    least: Tensor
    largest: Tensor | None
    version: str
    missing: str

    def of(self, engine: str, method: str) -> EngineBounds:
        """The bounds of one engine by one method."""
        (found,) = (each for each in self.bounds if (each.engine, each.method) == (engine, method))
        return found

    @property
    def methods(self) -> list[str]:
        """The methods that were compared, in order."""
        return list(dict.fromkeys(each.method for each in self.bounds))

    @property
    def refuted(self) -> list[EngineBounds]:
        """Bounds of which a point refutes some."""
        return [each for each in self.bounds if each.count_refuted]

    def width_ratio(self, method: str) -> float:
        """Mean width of auto_LiRPA's bounds over that of ours; NaN where one engine has none."""
        own, other = (self.of(engine, method).width for engine in ENGINES)
        return other / own if own else math.nan

    def to_dataframe(self) -> "pd.DataFrame":
        """One row for each method: widths, their ratio, seconds, refuted bounds and refusals of both engines."""
        import pandas as pd

        rows = []
        for method in self.methods:
            row: dict[str, object] = {"method": method, "width_ratio": self.width_ratio(method)}
            for engine in ENGINES:
                each = self.of(engine, method)
                values = (each.width, each.seconds, each.count_refuted, each.excess, each.refusal)
                names = ("width", "seconds", "refuted", "excess", "refusal")
                row |= {f"{engine}_{name}": value for name, value in zip(names, values, strict=True)}
            rows.append(row)
        return pd.DataFrame(rows, index=pd.RangeIndex(len(rows), name="row"))

    def entries(self) -> "pd.DataFrame":
        """One row for each bound of each method: those of both engines, the values met, and who is refuted."""
        import pandas as pd

        count, outputs = self.least.shape
        parts = []
        for method in self.methods:
            columns: dict[str, object] = {
                "method": method,
                "row": [row for row in range(count) for _ in range(outputs)],
                "output": list(range(outputs)) * count,
                "least": self.least.flatten().tolist(),
            }
            if self.largest is not None:
                columns["largest"] = self.largest.flatten().tolist()
            for engine in ENGINES:
                each = self.of(engine, method)
                for name, side in (("lower", each.lower), ("upper", each.upper), ("refuted", each.refuted)):
                    if name != "upper" or self.largest is not None:
                        columns[f"{engine}_{name}"] = None if side is None else side.flatten().tolist()
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)

    def __repr__(self) -> str:
        what = "outputs" if self.largest is not None else "margins"
        other = f"auto_LiRPA {self.version}" if self.version else "our bounds alone, since auto_LiRPA is missing"
        said = [f"{each.engine} {each.method} refuted at {each.count_refuted}" for each in self.refuted]
        said = said or ["no bound refuted"]
        for engine in ENGINES if self.version else (OWN,):
            refused = [each.method for each in self.bounds if each.refusal and each.engine == engine]
            said += [f"{engine} refused {', '.join(refused)}"] if refused else []
        ratios = [(method, self.width_ratio(method)) for method in self.methods]
        known = [f"{method} {ratio:.3g}" for method, ratio in ratios if not math.isnan(ratio)]
        said += [f"widths in units of ours: {', '.join(known)}"] if known else []
        return f"<EngineComparison of {self.least.numel()} {what}, {other}: {'; '.join(said)}>"
