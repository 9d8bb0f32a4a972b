"""Label names and their ids. No other module decides the order of labels."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from classifier.errors import LabelError


@dataclass(frozen=True)
class Labels:
    """At least two distinct label names. The id of a label is its index in `names`.

    Raises:
        LabelError: fewer than two names, a blank name, or a name given twice.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise LabelError(f"a classifier needs at least two labels, got {list(self.names)}")
        blank = [i for i, name in enumerate(self.names) if not name.strip()]
        if blank:
            raise LabelError(f"label {blank[0]} of {len(self.names)} has a blank name")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise LabelError(f"label given more than once: {', '.join(map(repr, twice))}")

    @classmethod
    def from_values(cls, values: Iterable[str]) -> "Labels":
        """Return the distinct values in code-point order, which does not depend on the order of the rows."""
        return cls(tuple(sorted(set(values))))

    @classmethod
    def from_id2label(cls, id2label: Mapping[int | str, str]) -> "Labels":
        """Return the labels of `id2label` in config.json, whose keys are strings because JSON has no others.

        Raises:
            LabelError: the ids are not exactly 0..C-1.
        """
        by_id = {int(key): name for key, name in id2label.items()}
        if sorted(by_id) != list(range(len(by_id))):
            raise LabelError(f"label ids must be 0..{len(by_id) - 1}, got {sorted(by_id)}")
        return cls(tuple(by_id[i] for i in range(len(by_id))))

    @cached_property
    def label2id(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.names))

    def id_of(self, name: str) -> int:
        """Return the id of a label.

        Raises:
            LabelError: the name is unknown. The message lists the known names.
        """
        try:
            return self.label2id[name]
        except KeyError:
            raise LabelError(f"unknown label {name!r}; the labels are {', '.join(self.names)}") from None

    def __len__(self) -> int:
        return len(self.names)
