"""What a metric is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Better = Literal["higher", "lower", None]


@dataclass(frozen=True)
class Metric:
    """One metric, or a family of them whose name holds one `{}` for an action, a state column or a network."""

    name: str  # such as "fidelity/psnr" or "state/{}"
    what: str  # one sentence, and how good is good where that is known
    unit: str
    better: Better
    computed_in: str = ""  # module; where none is named, the room's own: "fidelity/psnr" in videowm.evaluate.fidelity
    ceiling: str | None = None  # what the best that a model could reach is
    floor: str | None = None  # what a model without any information gets
    sentence: str | None = None  # of the evaluation page, with {value}, and {of} for what a family's name holds
    others: Mapping[str, str] = field(default_factory=dict)  # suffix -> name, where it is not the name and the suffix

    def __post_init__(self) -> None:
        own = f"videowm.evaluate.{self.name.partition('/')[0]}"
        object.__setattr__(self, "computed_in", self.computed_in or own)

    def matches(self, name: str) -> bool:
        """Whether `name`, without bound suffixes, is this metric or of this family."""
        head, braces, tail = self.name.partition("{}")
        if not braces:
            return name == self.name
        return name.startswith(head) and name.endswith(tail) and len(name) > len(head) + len(tail)

    def of(self, name: str) -> str:
        """What stands for the `{}` of a family in `name`: "left" for "control/left_r2"; empty for a single metric."""
        head, braces, tail = self.name.partition("{}")
        return name.removeprefix(head).removesuffix(tail) if braces else ""
