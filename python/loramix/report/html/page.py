"""The whole page."""

import base64
import hashlib
from importlib.resources import files

from loramix.report.facts import Overview
from loramix.report.html import bars, maps, pairs, tables
from loramix.report.html.markup import Markup, lines, prose, section, tag

_TERMS = (
    ("cosine", "of two weighted deltas, exact, over the weights that both change"),
    ("conflict", "share of the entries whose signs differ; a half for independent adapters"),
    ("weighted conflict", "the same, every entry counting by the smaller of its two magnitudes"),
    ("excess conflict", "weighted conflict beyond what the cosine and the sizes let expect"),
    ("lost energy", "energy that a plain sum loses at entries whose signs differ"),
    ("overlap", "energy in the same input and output directions, 0 where it is chance"),
    ("score", "what is left of both in a plain sum, less for clashing signs and contended "
     "directions; 1 is best"),
    ("published score", "cosine times agreement of signs, as other tools have it"),
    ("retention", "how much of an adapter is in the result"),
    ("interference", "what the other adapters would add to its retention in a plain sum"),
)  # fmt: skip


def page(found: Overview, pictures: Markup | None = None) -> str:
    """A report as HTML, in one file that loads nothing.

    Parameters
    ----------
    found : see `loramix.report.overview`.
    pictures : a section of them, see `loramix.report.html.pictures`; they are the only thing that
        the page may show beside its text, and only if there are any.

    Notes
    -----
    Names are escaped; the content policy allows this style sheet and this script by their
    digests, and nothing else, so that what slips through does not run.
    """
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        f"{'img-src data:; ' if pictures else ''}"
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", _title(found)),
        tag("style", style),
    )
    body = tag(
        "body",
        _header(found),
        tag("main", pictures, *_parts(found)),
        _footer(),
        tag("script", script),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _asset(name: str) -> Markup:
    path = files("loramix.report.html") / name
    return Markup(path.read_text(encoding="utf-8"))


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _title(found: Overview) -> str:
    return "loramix: " + " + ".join(one["name"] for one in found["adapters"])


def _header(found: Overview) -> Markup:
    facts = [
        f"{len(found['groups'])} targets",
        *([f"{found['shared']} of them shared"] if found["pairs"] else []),
        found["architecture"] or "base model unknown",
        _looked(found["samples"]),
        f"loramix {found['version']}",
    ]
    return tag(
        "header",
        tag("h1", *_names(found)),
        tag("p", prose(found["verdict"]), class_="verdict"),
        tag("p", " \u00b7 ".join(facts), class_="note"),
    )


def _names(found: Overview) -> list[Markup]:
    """Letters and names, so that the letters are known from the start."""
    return [tag("span", tag("b", one["letter"]), " ", one["name"]) for one in found["adapters"]]


def _looked(samples: int | None) -> str:
    if samples is None:
        return "signs of all entries"
    return f"signs of blocks of {samples} \u00d7 {samples}" if samples else "inner products only"


def _parts(found: Overview) -> list[Markup | None]:
    return [
        _warnings(found),
        tables.adapters(found),
        pairs.pairs(found),
        maps.model_map(found),
        tag("div", bars.energy(found), bars.retention(found), class_="beside"),
        bars.certificate(found),
        tables.groups(found),
        _recipe(found),
    ]


def _warnings(found: Overview) -> Markup | None:
    if not found["warnings"]:
        return None
    notes = [tag("li", prose(one)) for one in found["warnings"]]
    return section("Worth knowing", tag("ul", *notes, class_="warnings"), name="warnings")


def _recipe(found: Overview) -> Markup | None:
    if not found["recipe"]:
        return None
    note = tag("p", "Save it as recipe.toml to make this again.", class_="note")
    body = tag(
        "pre", tag("code", lines(found["recipe"])), tabindex=0, role="region", aria_label="Recipe"
    )
    return section("Recipe", note, body, name="recipe")


def _footer() -> Markup:
    terms = [part for name, said in _TERMS for part in (tag("dt", name), tag("dd", said))]
    return tag("footer", section("Words", tag("dl", *terms), name="words"))
