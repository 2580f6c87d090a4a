//! Selection keeps what a sort keeps.

use crate::support::*;
use loramix_core::elementwise::Program;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const SHARES: [(f64, f64); 8] = [
    (0.05, 0.0),
    (0.3, 0.0),
    (0.5, 0.5),
    (0.9, 0.01),
    (1.0, 0.0),
    (1e-9, 0.0),
    (1.0 / 3.0, 1.0 / 3.0),
    (0.01, 0.98),
];

fn check_selection(values: &[f32], rows: usize) {
    for (density, skip) in SHARES {
        let (got, expected) =
            (selected(values, rows, density, skip), sorted(values, density, skip));
        let first = got.iter().zip(&expected).position(|(g, e)| g != e);
        assert_eq!(first, None, "{rows} of {}, density {density}, skip {skip}", values.len());
    }
}

#[test]
fn selection_is_that_of_a_sort_for_every_size() {
    for rows in [1, 2, 31, 32, 33, 47, 48, 49, 97, 255, 256, 257] {
        for cols in [1, 3, 64, 257] {
            check_selection(&random(rows * cols, (rows * cols) as u64), rows);
        }
    }
    for (rows, cols) in [(1, 65535), (1, 65537), (65537, 1), (2, 40000)] {
        check_selection(&random(rows * cols, 1), rows);
    }
}

#[test]
fn selection_among_equal_magnitudes_goes_by_index() {
    for levels in [1.0, 2.0, 7.0] {
        let values: Vec<f32> =
            random(123 * 45, 5).iter().map(|v| (v * levels).round() / levels).collect();
        check_selection(&values, 123);
        check_selection(&values, 1);
        check_selection(&values, 123 * 45);
    }
}

#[test]
fn selection_of_equal_or_no_entries() {
    for value in [0.0, -0.0, 1.0, -2.5, f32::MAX, f32::MIN_POSITIVE / 8.0] {
        for count in [1, 2, 10, 1000] {
            check_selection(&vec![value; count], 1);
            check_selection(&vec![value; count], count);
        }
    }
    let nothing = run(&Program { keep: largest(0.5, 0.1), ..SUM }, &[vec![]], &[1.0], 0).unwrap();
    assert!(nothing.is_empty());
}

#[test]
fn selection_where_the_sample_says_nothing() {
    // One row in ten is seen, and only those are large, small or equal.
    for size in [1e30, 1e-30, 0.0] {
        let mut values = random(480 * 20, 9);
        for row in values.chunks_exact_mut(20).step_by(10) {
            for v in row {
                *v *= size;
            }
        }
        check_selection(&values, 480);
    }
    let mut sparse = vec![0.0; 500 * 70];
    sparse[77] = -3.0;
    sparse[500 * 70 - 1] = 2.0;
    check_selection(&sparse, 500);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, rng_seed: RngSeed::Fixed(4), failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn selection_of_anything(
        values in prop::collection::vec(-4i8..5, 1..400),
        density in 0.001f64..1.0,
        skip in 0.0f64..0.9,
    ) {
        let values: Vec<f32> = values.iter().map(|v| f32::from(*v)).collect();
        let density = density.min(1.0 - skip);
        for rows in [1, values.len()] {
            prop_assert_eq!(selected(&values, rows, density, skip), sorted(&values, density, skip));
        }
    }
}
