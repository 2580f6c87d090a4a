//! What does not fit is refused.

use crate::support::*;
use loramix_core::Error;
use loramix_core::condense::{Part, condense};
use loramix_core::dtype::Dtype;
use loramix_core::elementwise::{Dense, Factored, Keep, Prepared, Program, Side};
use loramix_core::group::Group;
use loramix_core::recompress::Rule;
use loramix_core::rng::Stream;

#[test]
fn shares_out_of_range_are_refused() {
    let deltas = [vec![1.0; 6], vec![2.0; 6]];
    for bad in [0.0, -0.1, 1.1, f64::NAN, f64::INFINITY] {
        let random = |density, divisor| Keep::Random { density, divisor };
        for (keep, word) in [
            (largest(bad, 0.0), "density"),
            (random(bad, 0.5), "density"),
            (random(0.5, bad), "divisor"),
        ] {
            let error = run(&Program { keep, ..SUM }, &deltas, &[1.0, 1.0], 2).unwrap_err();
            assert!(matches!(error, Error::Param { name, .. } if name == word), "{error:?}");
        }
    }
    for bad in [-0.1, 1.0, f64::NAN] {
        let program = Program { keep: largest(0.5, bad), ..SUM };
        let error = run(&program, &deltas, &[1.0, 1.0], 2).unwrap_err();
        assert!(matches!(error, Error::Param { name: "outliers", .. }), "{error:?}");
    }
}

#[test]
fn sides_are_one_for_each_member_or_none() {
    let deltas = [vec![1.0; 6], vec![-2.0; 6]];
    for sides in [vec![Side::Low], vec![Side::Around; 3]] {
        let error = run(&Program { sides, ..SUM }, &deltas, &[1.0, 1.0], 2).unwrap_err();
        assert!(matches!(error, Error::Shape { what: "sides", .. }), "{error:?}");
    }
    for (sides, left) in [
        (vec![Side::All; 2], -1.0),
        (vec![Side::Low, Side::High], 0.0),
        (vec![Side::High, Side::All], -1.0),
        (vec![Side::High, Side::Around], 0.0), // what goes around is not the program's
        (vec![Side::Around; 2], 0.0),
    ] {
        let found = run(&Program { sides, ..SUM }, &deltas, &[1.0, 1.0], 2).unwrap();
        assert_eq!(found, [left; 6]);
    }
}

#[test]
fn deltas_that_do_not_fit_are_refused() {
    let (data, other) = (bytes(&[1.0; 6]), bytes(&[1.0; 4]));
    let fine = || matrix(&data, 2, 3);
    for (deltas, weights) in [
        (vec![], vec![]),
        (vec![fine()], vec![]),
        (vec![fine(), fine()], vec![1.0]),
        (vec![fine(), matrix(&data, 3, 2)], vec![1.0, 1.0]),
        (vec![fine(), matrix(&other, 2, 2)], vec![1.0, 1.0]),
    ] {
        assert!(matches!(Dense::new(deltas, weights), Err(Error::Shape { .. })));
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let data = bytes(&[1.0, 2.0, bad, 4.0, 5.0, 6.0]);
        let found = Dense::new(vec![fine(), matrix(&data, 2, 3)], vec![1.0, 1.0]).err();
        assert!(matches!(found, Some(Error::NonFinite { member: 1, .. })));
    }
    let source = Dense::new(vec![fine()], vec![1.0]).unwrap();
    let sum = SUM;
    let prepared = Prepared::new(&sum, &source).unwrap();
    for size in [0, 5, 7] {
        assert!(matches!(prepared.run(&mut vec![0.0; size]), Err(Error::Shape { .. })));
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let (rows, cols) = (10, 12);
    let pairs = [Pair::new(rows, cols, 2, 1), Pair::new(rows, cols, 3, 2)];
    let weights = vec![1.0, 0.5];
    let group = group(&pairs, &weights, rows, cols);
    let narrow_pair = [Pair::new(rows, 8, 2, 1)];
    let narrow = self::group(&narrow_pair, &[1.0], rows, 8);
    let part =
        |row_start| Part { group: &group, weights: weights.clone(), program: SUM, row_start };
    let with = |parts: &[Part<'_, '_>], rows: usize, size: usize| {
        let rule = Rule { rank: Some(4), ..Rule::default() };
        let (mut scratch, mut out) = (Vec::new(), vec![0; size]);
        let streams = [0, 1].map(|adapter| Stream::new(0, 0, adapter).unwrap());
        let both = (&streams[0], &streams[1]);
        condense(parts, rows, &rule, Dtype::F32, both, &mut scratch, &mut out).err()
    };
    let need = (rows + cols) * 4 * 4;
    assert!(with(&[part(0)], rows, need).is_none());
    let other = || Part { group: &narrow, weights: vec![1.0], program: SUM, row_start: 0 };
    for (what, error) in [
        ("no parts", with(&[], rows, need)),
        ("short output", with(&[part(0)], rows, need - 1)),
        ("no output", with(&[part(0)], rows, 0)),
        ("below the end", with(&[part(1)], rows, need)),
        ("far below the end", with(&[part(usize::MAX)], rows, need)),
        ("too few rows", with(&[part(0)], rows - 1, need)),
        ("other columns", with(&[part(0), other()], 2 * rows, 10 * need)),
    ] {
        assert!(matches!(error, Some(Error::Shape { .. })), "{what}: {error:?}");
    }
    for weights in [vec![], vec![1.0], vec![1.0; 3]] {
        let part = Part { group: &group, weights, program: SUM, row_start: 0 };
        assert!(matches!(with(&[part], rows, need), Some(Error::Shape { .. })));
    }
    let program = Program { keep: largest(0.0, 0.0), ..SUM };
    let part = Part { group: &group, weights: weights.clone(), program, row_start: 0 };
    assert!(matches!(with(&[part], rows, need), Some(Error::Param { name: "density", .. })));
}

#[test]
fn rules_out_of_range_are_refused() {
    let pairs = [Pair::new(10, 12, 2, 1), Pair::new(10, 12, 3, 2)];
    for rule in [
        Rule { rank: Some(0), ..Rule::default() },
        Rule { energy: Some(0.0), ..Rule::default() },
        Rule { energy: Some(1.5), ..Rule::default() },
        Rule { max_error: Some(1.0), ..Rule::default() },
        Rule { max_error: Some(f64::NAN), ..Rule::default() },
        Rule { alpha: Some(0.0), ..Rule::default() },
    ] {
        let found = condensed(SUM, &pairs, &[1.0, 1.0], 10, 12, &rule).err();
        assert!(matches!(found, Some(Error::Param { .. })), "{rule:?}: {found:?}");
    }
}

#[test]
fn factors_that_are_no_numbers_are_refused() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut pairs = [Pair::new(10, 12, 2, 1), Pair::new(10, 12, 3, 2)];
        let mut down = floats(&pairs[1].down);
        down[7] = bad;
        pairs[1].down = bytes(&down);
        let found = condensed(SUM, &pairs, &[1.0, 1.0], 10, 12, &Rule::default()).err();
        assert!(matches!(found, Some(Error::NonFinite { member: 1, .. })), "{found:?}");
    }
}

#[test]
fn members_of_a_slice_have_no_whole_delta() {
    let pairs = [Pair::new(4, 12, 2, 1)];
    let group = Group::new(10, 12, vec![pairs[0].member(4, 12, 1.0)]).unwrap();
    assert!(matches!(Factored::new(&group, vec![1.0]), Err(Error::Shape { .. })));
}

#[test]
fn sums_that_overflow_are_refused() {
    let huge = |seed| {
        let mut one = Pair::new(10, 12, 2, seed);
        one.up = bytes(&floats(&one.up).iter().map(|v| v * 1e38).collect::<Vec<_>>());
        one.down = bytes(&floats(&one.down).iter().map(|v| v * 1e3).collect::<Vec<_>>());
        one
    };
    let pairs = [huge(1), huge(2)];
    for program in programs() {
        let found = condensed(program.clone(), &pairs, &[1.0, 1.0], 10, 12, &Rule::default()).err();
        assert!(matches!(found, Some(Error::Overflow { .. })), "{program:?}: {found:?}");
    }
}
