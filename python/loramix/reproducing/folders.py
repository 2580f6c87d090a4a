"""Two models file by file."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from loramix.checkpoints.writing import files_of
from loramix.io.safetensors import SafetensorsFile
from loramix.reproducing.comparing import Comparison, differences, same_bytes

_SUFFIX = ".safetensors"


@dataclass(slots=True)
class _Found:
    """What differs so far; names have the place of their file in front."""

    header: list[str] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    total: int = 0

    def look(self, one: Path, other: Path, place: str) -> None:
        """Compare two files of tensors."""
        mapped = SafetensorsFile(one), SafetensorsFile(other)
        self.total += len(mapped[0].tensors)
        if same_bytes(one, other):
            return
        header, tensors = differences(*mapped)
        self.header += [place + key for key in header]
        self.tensors += [place + name for name in tensors]

    def result(self) -> Comparison:
        """All of it."""
        return Comparison(
            identical=not (self.header or self.tensors or self.files),
            header=tuple(self.header),
            tensors=tuple(self.tensors),
            files=tuple(self.files),
            total=self.total,
        )


def compare_models(one: Path, other: Path) -> Comparison:
    """Compare two models.

    Parameters
    ----------
    one, other : two files, or two folders; what is hidden in those does not count.

    Notes
    -----
    Cost: reads both once, and again where they differ; resident is a piece of each.
    """
    found = _Found()
    if one.is_file():
        found.look(one, other, "")
        return found.result()
    for place in _places((one, other)):
        first, second = one / place, other / place
        if not (first.is_file() and second.is_file()):
            found.files.append(place)
        elif first.suffix == _SUFFIX:
            found.look(first, second, f"{place}: ")
        elif not same_bytes(first, second):
            found.files.append(place)
    return found.result()


def _places(roots: Iterable[Path]) -> list[str]:
    """Of all files in these folders."""
    found = {path.relative_to(root).as_posix() for root in roots for path in files_of(root)}
    return sorted(found)
