"""Names by which reports tell adapters apart."""

from collections.abc import Collection, Sequence
from pathlib import Path

from loramix.finding import plain_name


def labels_of(paths: Sequence[Path], taken: Collection[str] = ()) -> tuple[str, ...]:
    """A name for each path, no two alike, with no more of the path than that takes.

    ``style``; with a folder beside the file ``style.safetensors``; from two folders ``a/style`` and
    ``b/style``.

    Parameters
    ----------
    taken : names of others.
    """
    tried = [list(_tries(path)) for path in paths]
    at = [0] * len(paths)
    while True:
        labels = [each[i] for each, i in zip(tried, at, strict=True)]
        again = [
            i
            for i, label in enumerate(labels)
            if (labels.count(label) > 1 or label in taken) and at[i] + 1 < len(tried[i])
        ]
        if not again:
            break
        for i in again:
            at[i] += 1
    met: dict[str, int] = dict.fromkeys(taken, 1)
    for i, label in enumerate(labels):
        met[label] = met.get(label, 0) + 1
        if met[label] > 1:
            labels[i] = f"{label} ({met[label]})"
    return tuple(labels)


def _tries(path: Path) -> Sequence[str]:
    """Names of a path, shortest first."""
    short = plain_name(path)
    above = path.parent.parts
    return [
        short,
        path.name,
        *("/".join((*above[-depth:], short)) for depth in range(1, len(above) + 1)),
        str(path),
    ]
