"""The answer to whether a property holds: violated with an input, proved, or open."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

SOUND = ("rounding", "real", "deployed")
VERDICTS = ("sat", "unsat", "unknown", "timeout")


@dataclass(frozen=True, eq=False, kw_only=True)
class Decision:
    """Whether some input of a network is unsafe by a property.

    Attributes:
        verdict: ``"sat"``: the input below is unsafe. ``"unsat"``: proved that none is. ``"unknown"``: neither, for the
            given reason. ``"timeout"``: neither within the time.
        input: (1, *D), the unsafe input as the network takes it; None unless ``"sat"``.
        output: (1, K), the answer of the network as it runs to this input; None likewise.
        decided_by: ``"attack"``, ``"property"`` where the property itself leaves no unsafe input, or the strongest
            means that was needed: ``"bounds"``, ``"input splits"``, ``"neuron splits"``,
            ``"mixed-integer programme"``; empty where nothing was decided.
        domains: sub-problems that were bounded.
        seconds: from the call to the answer.
        sound: the arithmetic that ``"unsat"`` is about, see :func:`bounds.crown`.
        reason: one line that says why nothing was decided, empty otherwise.
        proof: path of the file that proves the verdict to :func:`certify.check_proof`; empty where none was written.
        without_proof: one line that says why none was, although one was asked for; empty otherwise.
    """

    verdict: str
    input: Tensor | None = None
    output: Tensor | None = None
    decided_by: str = ""
    domains: int = 0
    seconds: float = 0.0
    sound: str = "rounding"
    reason: str = ""
    proof: str = ""
    without_proof: str = ""

    def to_dataframe(self) -> "pd.DataFrame":
        """One row, with the entries of the input and the output as lists."""
        import pandas as pd

        row = {
            name: value.flatten().tolist() if isinstance(value, Tensor) else value for name, value in vars(self).items()
        }
        return pd.DataFrame([row], index=pd.RangeIndex(1, name="row"))

    def to_competition(self) -> str:
        """The result file of the verification competition VNN-COMP: the verdict and, if violated, input and output.

        Every number is the shortest that float64 rounds back to it.
        """
        if self.input is None or self.output is None:
            return f"{self.verdict}\n"
        lines = [
            f"({letter}_{place} {value!r})"
            for letter, side in (("X", self.input), ("Y", self.output))
            for place, value in enumerate(side.double().flatten().tolist())
        ]
        return "\n ".join([f"{self.verdict}\n({lines[0]}", *lines[1:]]) + ")\n"
