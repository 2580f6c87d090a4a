"""Rules: which decides what, what matches nothing, and the table they make."""

import pytest
from recipes.blocks_oracle import BLOCK_OF

from loramix.errors import ParamError
from loramix.formats.layout import load_layout
from loramix.methods import Composite, method_of
from loramix.methods.iso import IsoC
from loramix.methods.linear import Linear
from loramix.methods.ties import Ties
from loramix.recipes.rules import HEADER, Resolved, Rule, Setting, keys_of, resolve
from loramix.report import cells

KEYS = (
    "text_encoder.text_model.encoder.layers.0.mlp.fc1",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q",
    "unet.mid_block.attentions.0.proj_in",
)
NAMES = ("style", "face", "2")


def settings_of(*rules: Rule, adapters: tuple[str, ...] = NAMES) -> dict[str, Setting]:
    found = resolve(rules, KEYS, adapters).settings
    assert tuple(one.key for one in found) == KEYS
    return {one.key: one for one in found}


def test_the_first_rule_that_says_a_property_decides_it() -> None:
    found = settings_of(
        Rule("*.attn1.*", weight=0.5),
        Rule("unet.*", method=Ties(0.3), rank=32, weight=2.0),
        Rule("*", rank=8, space="core"),
    )
    encoder, attn1, attn2, mid = (found[key] for key in KEYS)
    assert encoder == Setting(KEYS[0], None, "core", 8, (1.0, 1.0, 1.0), {"rank": 3, "space": 3})
    assert attn1.factors == (0.5, 0.5, 0.5)
    assert dict(attn1.by) == {"weight": 1, "method": 2, "rank": 2, "space": 3}
    assert attn2.factors == (2.0, 2.0, 2.0)
    assert (attn2.method, attn2.rank, attn2.space) == (Ties(0.3), 32, "core")
    assert mid == Setting(KEYS[3], Ties(0.3), "core", 32, (2.0, 2.0, 2.0), attn2.by)


def test_without_rules_nothing_is_said() -> None:
    for setting in settings_of().values():
        assert setting == Setting(setting.key, factors=(1.0, 1.0, 1.0))
        assert setting.chosen(Linear()) == Linear()


def test_regular_expressions_match_whole_keys() -> None:
    found = settings_of(Rule(regex=r"unet\.(mid|down)_block.*attn[2-9].*", rank=4))
    assert [found[key].rank for key in KEYS] == [None, None, 4, None]
    with pytest.raises(ParamError, match="rule 1: regex 'attn1' matches none of 4 targets"):
        settings_of(Rule(regex="attn1", rank=4))


@pytest.mark.parametrize(
    ("weight", "factors"),
    [
        (0.5, (0.5, 0.5, 0.5)),
        ({"face": 0.5}, (1.0, 0.5, 1.0)),
        ({"1": -1.0, "face": 0.0, "3": 2.0}, (-1.0, 0.0, 2.0)),
    ],
)
def test_weights_of_adapters(weight: object, factors: tuple[float, ...]) -> None:
    found = settings_of(Rule("*.attn1.*", weight=weight))  # type: ignore[arg-type]
    assert found[KEYS[1]].factors == factors
    assert found[KEYS[2]].factors == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ({"fase": 0.5}, "rule 1: weight: no adapter 'fase' (did you mean face?); there are style, "
         "face, 2, or positions 1 to 3"),
        ({"0": 0.5}, "rule 1: weight: no adapter '0'; there are style, face, 2, or positions "
         "1 to 3"),
        ({"2": 0.5}, "rule 1: weight: '2' is several adapters: give a position, 1 to 3, and "
         "rename files that are called like one"),
        ({"style": 0.5, "1": 0.5}, "rule 1: weight: style is given twice"),
    ],
)  # fmt: skip
def test_weights_of_no_adapter_or_of_several(weight: dict[str, float], message: str) -> None:
    with pytest.raises(ParamError) as caught:
        settings_of(Rule("*", weight=weight))
    assert str(caught.value) == message


def test_two_adapters_of_one_name() -> None:
    with pytest.raises(ParamError, match="'a' is several adapters: give a position, 1 to 2"):
        settings_of(Rule("*", weight={"a": 0.5}), adapters=("a", "a"))


@pytest.mark.parametrize(
    ("rule", "default", "expected"),
    [
        (Rule("*", space="core"), Ties(), Composite(Ties(), space="core")),
        (Rule("*", space="weight"), method_of("knots(ties)"), Ties()),
        (
            Rule("*", space="core"),
            method_of("ties", sparsify="dare", space="knots"),
            method_of("ties", sparsify="dare", space="core"),
        ),
        (Rule("*", method=IsoC()), Ties(), IsoC()),
        (Rule("*", method=Ties(), space="knots"), Linear(), method_of("knots(ties)")),
        (Rule("*", method=method_of("knots(ties)"), space="knots"), Linear(),
         method_of("knots(ties)")),
    ],
)  # fmt: skip
def test_the_method_of_a_target(rule: Rule, default: object, expected: object) -> None:
    assert settings_of(rule)[KEYS[0]].chosen(default) == expected  # type: ignore[arg-type]


def test_a_method_that_has_no_spaces() -> None:
    found = settings_of(Rule("*mid_block*", rank=3), Rule("unet.*", space="core"))
    with pytest.raises(ParamError, match=r"^rule 2: unet\.mid_block\.\S+: iso-c works on"):
        found[KEYS[3]].chosen(IsoC())
    assert found[KEYS[0]].chosen(IsoC()) == IsoC()


def test_a_rule_without_a_match_names_the_word_that_is_nowhere() -> None:
    with pytest.raises(ParamError) as caught:
        settings_of(Rule("*", rank=4), Rule("unet.mid_blok.*", rank=4))
    assert str(caught.value) == (
        "rule 2: target 'unet.mid_blok.*' matches none of 4 targets (did you mean mid_block?); it "
        f"is compared with whole keys, such as {KEYS[0]}"
    )


def test_a_rule_that_only_the_base_model_matches_is_noted() -> None:
    rules = [Rule("*", rank=4), Rule("unet.up_blocks.*", weight=0.5)]
    found = resolve(rules, KEYS, NAMES, known=keys_of("sd15"))
    assert found.notes == (
        "rule 2 (target 'unet.up_blocks.*'): no adapter changes any of its targets",
    )
    with pytest.raises(ParamError, match=r"rule 2: target 'unet.up_block.\*' matches none"):
        resolve([*rules[:1], Rule("unet.up_block.*", weight=2)], KEYS, NAMES, known=keys_of("sd15"))


def test_a_rule_that_comes_too_late_is_noted() -> None:
    rules = [Rule("*", rank=4, weight=2.0), Rule("unet.*", rank=8), Rule("unet.*", space="core")]
    assert resolve(rules, KEYS, NAMES).notes == (
        "rule 2 (target 'unet.*') decides nothing: rules before it do",
    )


def test_no_targets_at_all() -> None:
    assert resolve([], (), NAMES) == Resolved(())
    with pytest.raises(ParamError, match=r"matches none of 0 targets; it is compared"):
        resolve([Rule("unet.*", rank=4)], (), NAMES)


def test_the_table() -> None:
    rules = [
        Rule("*.attn1.*", weight={"face": 0.5}),
        Rule("unet.*", method=method_of("core(ties:density=0.3)"), rank=32),
    ]
    rows = resolve(rules, KEYS, NAMES).rows
    assert rows == [
        ("-", "1", KEYS[0], "-", "-", "-", "-"),
        ("1, 2", "1", KEYS[1], "core(ties:density=0.3)", "-", "32", "1 0.5 1"),
        ("2", "2", KEYS[2], "core(ties:density=0.3)", "-", "32", "-"),
    ]
    text = cells.table(HEADER, rows, "lrllrrl", 80)
    assert text.splitlines()[0].split() == " ".join(HEADER).split()
    assert len(text.splitlines()) == 4


def test_blocks_by_rules_are_the_blocks() -> None:
    """Rules on the canonical keys of a whole model, against the original numbering."""
    modules = load_layout("sdxl").modules
    keys = keys_of("sdxl")
    rules = [Rule(regex=r"unet\.down_blocks\.1\.(resnets|attentions)\.0\..*", rank=4)]
    found = resolve(rules, keys, ("a",)).settings
    for module, setting in zip(modules, found, strict=True):
        assert setting.rank == (4 if BLOCK_OF["sdxl"](module) == "IN04" else None)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"rank": 4}, "give target (a glob) or regex, one of them"),
        ({"target": "*", "regex": ".*", "rank": 4}, "give target (a glob) or regex, one of them"),
        ({"target": "*"}, "says nothing of its targets: give method, weight, rank, space"),
        ({"target": "*", "rank": 0}, "rank = 0: allowed is an integer of at least 1"),
        ({"target": "*", "space": "cor"}, "space = 'cor': allowed is weight, knots, core"),
        ({"target": "*", "weight": float("nan")},
         "weight = nan: allowed is a finite number of any sign for each"),
        ({"target": "*", "weight": {"a": float("inf")}},
         "weight = {'a': inf}: allowed is a finite number of any sign for each"),
        ({"regex": "(", "rank": 4}, "regex = '(' is no regular expression: missing ), "
         "unterminated subpattern at position 0"),
        ({"regex": "a{99999999999}", "rank": 4}, "regex = 'a{99999999999}' is no regular "
         "expression: the repetition number is too large"),
        ({"target": "*", "method": method_of("core(ties)"), "space": "weight"},
         "space weight around core(ties): say it once"),
        ({"target": "*", "method": IsoC(), "space": "core"},
         "iso-c works on the factors of all deltas at once: it has no entries to sparsify or "
         "refine, and its result does not depend on the space"),
    ],
)  # fmt: skip
def test_refusals(said: dict[str, object], message: str) -> None:
    with pytest.raises(ParamError) as caught:
        Rule(**said)  # type: ignore[arg-type]
    assert str(caught.value) == message
