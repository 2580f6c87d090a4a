"""The tensors of a file become deltas whose place is not known yet, module by module."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial

from loramix.adapters.deltas import Delta
from loramix.errors import FormatError, ModelError, ParamError
from loramix.formats import families, keys, scales
from loramix.formats.dialects import Stem, split_stem
from loramix.formats.families import Draft, Parts
from loramix.types import Reading, Source

_NOTES = {
    "no alpha": "pairs have neither alpha nor config: scale 1 (alpha = rank)",
    "alpha 0": "pairs have alpha 0: their delta is zero",
    "rank 0": "pairs of rank 0: absent",
    "alpha ignored": "dense differences have an alpha, which no client reads: ignored",
    "full": "LoKr modules have two full factors: their alpha does not count",
}


class Drafting:
    """Deltas of one file; counts what the user should hear about.

    Parameters
    ----------
    configs : of PEFT, by component.
    reading : what the user says of the file.
    """

    def __init__(
        self,
        file: Source,
        where: str,
        configs: Mapping[str, scales.PeftConfig],
        reading: Reading,
    ) -> None:
        self._file = file
        self._where = where
        self._configs = configs
        self._reading = reading
        self._counts: Counter[str] = Counter()

    def deltas(self, names: Iterable[str]) -> list[Delta]:
        """Those of all tensors of these names, in order.

        Raises
        ------
        FormatError, ShapeError : a tensor that belongs to no delta, or does not fit the others of
            its module; a family that needs the base model where there is none.
        """
        entries, unknown = keys.parse(names)
        self._refuse(unknown, entries.values())
        return [delta for entry in entries.values() for delta in self._of(entry)]

    def notes(self) -> list[str]:
        """What was noticed, one line each."""
        found = [
            f"{self._counts[what]} {text}" for what, text in _NOTES.items() if self._counts[what]
        ]
        said = scales.header_alpha(self._file.metadata)
        if said is not None and self._counts["bare"]:
            what = f"{self._counts['bare']} pairs have no alpha: scale 1, as in every client"
            rest = f"{said[0]} = {said[1][:20]} in the header is not read"
            found.append(f"{what}; {rest}: if it is meant, the weight is alpha / rank")
        return found

    def _of(self, entry: keys.Entry) -> list[Delta]:
        stem = split_stem(entry.stem)
        config = self._configs.get(stem.component or "") or self._configs.get("")
        parts = Parts(
            {role: self._file.tensors[name] for role, name in entry.names.items()},
            entry.names,
            self._where,
            stem.path,
            partial(self._scale, entry, stem, config),
            config,
        )
        found: list[Draft] = []
        main = _main(tuple(entry.names))
        family = families.family_of(main)
        if family is not None:
            own = parts if len(main) == len(entry.names) else parts.only(main)
            found += families.drafts(family, own)
            self._count(own, found)
        elif "alpha" in parts:  # beside vectors only
            self._counts["alpha ignored"] += 1
        for role, part in families.VECTORS.items():
            # What stands beside a pair of rank 0 is as absent as the pair.
            if role in parts and (role != "bias" or found):
                found.append(families.vector(parts, role, part))
        self._refuse_without_base(entry, found)
        turned = config is not None and bool(config.fields.get("fan_in_fan_out"))
        if turned:
            found = [replace(draft, transposed=True) for draft in found]
        return [Delta(stem, draft) for draft in found]

    def _count(self, parts: Parts, found: Sequence[Draft]) -> None:
        self._counts["rank 0"] += not found
        for _ in found:
            self._counts["alpha ignored"] += "diff" in parts and "alpha" in parts
            full = "lokr_w1" in parts and "lokr_w2" in parts and "alpha" in parts
            self._counts["full"] += full and (parts.config is None or parts.config.kind != "LOKR")

    def _scale(
        self, entry: keys.Entry, stem: Stem, config: scales.PeftConfig | None, rank: int
    ) -> float:
        rslora = self._reading.rslora
        if "scale" in entry.names:
            name = entry.names["scale"]
            return scales.scalar(self._file.tensors[name], f"{self._where}: {name}")
        if "alpha" in entry.names:
            name = entry.names["alpha"]
            alpha = scales.scalar(self._file.tensors[name], f"{self._where}: {name}")
            self._counts["alpha 0"] += alpha == 0
            return scales.over_rank(alpha, rank, rslora=rslora)
        if config is not None:
            return config.scale(stem.path, rank, rslora=rslora)
        if rslora:
            message = (
                f"{self._where}: {next(iter(entry.names.values()))} has no alpha beside it, and "
                "there is no config: rslora says how alpha is used, not what it is"
            )
            raise ParamError(message)
        self._counts["bare"] += 1
        self._counts["no alpha"] += stem.dialect == "kohya"
        return 1.0

    def _refuse(self, unknown: Sequence[str], entries: Iterable[keys.Entry]) -> None:
        """Refuse a file with tensors that no family knows."""
        odd = [entry for entry in entries if _is_odd(tuple(entry.names))]
        rest = [*unknown, *(name for entry in odd for name in entry.names.values())]
        if not rest:
            return
        if keys.is_model(entries, unknown):
            message = (
                f"{self._where}: no adapter, but the weights of a model, such as {unknown[0]}: "
                "'loramix bake' merges adapters into it, 'loramix extract' makes an adapter of its "
                "difference to another"
            )
            raise ModelError(message)
        if unknown:
            payload = keys.payload_of(unknown[0])
            what = f"belongs to {payload}, which loramix does not read" if payload else None
            if keys.has_role(unknown[0]):
                what = "is a second tensor for a factor that has one"
            first, what = unknown[0], what or "is not understood"
        else:
            main = _main(tuple(odd[0].names)) or tuple(odd[0].names)
            what = families.misfit(main)
            first = odd[0].names[next((r for r in main if r in families.REPLACEMENTS), main[0])]
        message = (
            f"{self._where}: tensor {first} {what}{_several(rest)}. Nothing is dropped silently: "
            "leave them out with --skip 'GLOB' if the rest is worth merging"
        )
        raise FormatError(message)

    def _refuse_without_base(self, entry: keys.Entry, found: Sequence[Draft]) -> None:
        needy = next((draft for draft in found if draft.base == "needed"), None)
        if needy is None or self._reading.base is not None:
            return
        message = (
            f"{self._where}: {_telling(entry)} belongs to {_title(needy)}, whose "
            "delta depends on the weights of the base model: say which with --base (in Python "
            "load(..., base=...)), or leave such modules out with --skip 'GLOB'"
        )
        if needy.family.startswith("dora"):
            message += ". Without its magnitude the rest would be another adapter"
        raise FormatError(message)


def _several(names: Sequence[str]) -> str:
    return f"; {len(names)} such tensors" if len(names) > 1 else ""


def _telling(entry: keys.Entry) -> str:
    """The tensor that tells the family of a module: not one that LoRA has as well."""
    usual = ("up", "down", "mid", "alpha", "bias")
    return next(
        (name for role, name in entry.names.items() if role not in usual),
        next(iter(entry.names.values())),
    )


@lru_cache(maxsize=1024)  # a file has a handful of kinds of modules
def _main(roles: tuple[keys.Role, ...]) -> tuple[keys.Role, ...]:
    """Roles of an entry that are not those of vectors."""
    rest = tuple(role for role in roles if role not in families.VECTORS)
    lone = set(rest) <= {"alpha"} and {"diff_b", "w_norm", "diff_m"} & set(roles)
    return () if lone else rest


@lru_cache(maxsize=1024)
def _is_odd(roles: tuple[keys.Role, ...]) -> bool:
    """Whether some tensors of an entry belong to no delta."""
    main = _main(roles)
    if "bias" in roles and "up" not in main:
        return True
    return bool(main) and families.family_of(main) is None


def _title(draft: Draft) -> str:
    titles = {"ia3": "(IA)3", "oft": "an OFT", "boft": "a BOFT", "glora": "a GLoRA"}
    return titles.get(draft.family, "a DoRA")
