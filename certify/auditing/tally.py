"""Counts of what an audit confirmed, refuted and could not judge, and the reasons."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A statement of a run that is refuted, or that could not be judged.

    Attributes:
        check: what was looked at, such as ``"radii of smoothing"``.
        unit: name of the unit of work; empty where the run as a whole is meant.
        index: of the input, or None.
        reason: one sentence.
    """

    check: str
    unit: str
    index: int | None
    reason: str

    def __str__(self) -> str:
        place = (
            f"{self.unit}, input {self.index}: " if self.index is not None else f"{self.unit}: " if self.unit else ""
        )
        return f"{place}{self.reason}"


@dataclass
class Tally:
    """Verdicts as they come."""

    confirmed: Counter[str] = field(default_factory=Counter)
    refuted: list[Finding] = field(default_factory=list)
    unjudged: list[Finding] = field(default_factory=list)

    def confirm(self, check: str, count: int = 1) -> None:
        """Count statements that were derived anew."""
        self.confirmed[check] += count

    def refute(self, check: str, reason: str, unit: str = "", index: int | None = None) -> None:
        """Note a statement that does not hold."""
        self.refuted.append(Finding(check, unit, index, reason))

    def leave(self, check: str, reason: str, unit: str = "", index: int | None = None) -> None:
        """Note a statement that could not be judged."""
        self.unjudged.append(Finding(check, unit, index, reason))

    def judge(self, check: str, verdict: bool | None, reason: str, unit: str = "", index: int | None = None) -> None:
        """Count a verdict; the reason says what is wrong where it is not True."""
        if verdict is None:
            self.leave(check, f"not judged whether {reason}", unit, index)
        elif verdict:
            self.confirm(check)
        else:
            self.refute(check, reason, unit, index)

    def add(self, other: "Tally") -> None:
        """Take over the verdicts of another one."""
        self.confirmed.update(other.confirmed)
        self.refuted += other.refuted
        self.unjudged += other.unjudged


SHOWN = 10  # sentences of each kind that are printed


@dataclass(frozen=True)
class AuditReport:
    """Outcome of an audit: numbers of statements, and the reasons where they were not confirmed.

    Attributes:
        path: of the run.
        chained: whether its lines form a chain.
        scope: sentences on what the audit had at hand, and on what it took a sample of.
        confirmed: number of confirmed statements, by check.
        refuted: statements that do not hold.
        unjudged: statements that could not be judged, with the reason.
        seconds: that it took.
    """

    path: str
    chained: bool
    scope: tuple[str, ...]
    confirmed: dict[str, int]
    refuted: tuple[Finding, ...]
    unjudged: tuple[Finding, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing was refuted."""
        return not self.refuted

    def counts(self) -> dict[str, tuple[int, int, int]]:
        """Statements confirmed, refuted and not judged, by check."""
        wrong, open_ = (Counter(finding.check for finding in part) for part in (self.refuted, self.unjudged))
        names = dict.fromkeys([*self.confirmed, *wrong, *open_])
        return {name: (self.confirmed.get(name, 0), wrong[name], open_[name]) for name in names}

    def __repr__(self) -> str:
        """The totals, in one line."""
        total = sum(self.confirmed.values())
        return (
            f"AuditReport({self.path}: {total} statements confirmed, {len(self.refuted)} refuted, "
            f"{len(self.unjudged)} not judged)"
        )

    def __str__(self) -> str:
        """A table of numbers, then the reasons, of each kind the first ten."""
        rows = [("check", "confirmed", "refuted", "not judged")]
        rows += [(name, str(a), str(b), str(c)) for name, (a, b, c) in self.counts().items()]
        wide = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join(
                [row[0].ljust(wide[0]), *(cell.rjust(width) for cell, width in zip(row[1:], wide[1:], strict=True))]
            )
            for row in rows
        ]
        lines += [f"note: {sentence}" for sentence in self.scope]
        for word, found in (("not judged", self.unjudged), ("refuted", self.refuted)):
            reasons = Counter(str(finding) if word == "refuted" else finding.reason for finding in found)
            lines += [
                f"{word}: {reason}{f' ({count} times)' if count > 1 else ''}"
                for reason, count in reasons.most_common(SHOWN)
            ]
            if len(reasons) > SHOWN:
                lines.append(f"{word}: and {len(reasons) - SHOWN} more reasons, which --format json has all")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain values, for JSON."""
        return {
            "path": self.path,
            "chained": self.chained,
            "scope": list(self.scope),
            "counts": {
                name: dict(zip(("confirmed", "refuted", "unjudged"), numbers, strict=True))
                for name, numbers in self.counts().items()
            },
            "refuted": [vars(finding) for finding in self.refuted],
            "unjudged": [vars(finding) for finding in self.unjudged],
            "seconds": self.seconds,
        }
