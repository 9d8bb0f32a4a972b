"""Label names and their ids. The only owner of label order."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from classifier.errors import LabelError


@dataclass(frozen=True)
class Labels:
    """At least two distinct label names; a label's id is its place in `names`.

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
        """The distinct values in code-point order, so that the order does not depend on the rows' order."""
        return cls(tuple(sorted(set(values))))

    @classmethod
    def from_id2label(cls, id2label: Mapping[int | str, str]) -> "Labels":
        """Read `config.json`'s `id2label`, whose keys JSON turned into strings.

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
        """Raises LabelError that lists the known names if `name` is none of them."""
        try:
            return self.label2id[name]
        except KeyError:
            raise LabelError(f"unknown label {name!r}; the labels are {', '.join(self.names)}") from None

    def __len__(self) -> int:
        return len(self.names)
