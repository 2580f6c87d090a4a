//! Factor-space algebra against naive dense arithmetic in f64.
//!
//! Proves that inner products, recompression, expansion and the measurement of differences agree
//! with what the same bytes mean when multiplied out, for every element type; that bits do not
//! depend on threads; and that bad input is refused by name.
#![allow(clippy::unwrap_used)]

use half::{bf16, f16};
use loramix_core::Error;
use loramix_core::dense;
use loramix_core::dtype::{Dtype, Matrix};
use loramix_core::expand::expand;
use loramix_core::gram::gram;
use loramix_core::group::{Group, Member};
use loramix_core::probe::difference;
use loramix_core::recompress::{Recompressed, Rule, capacity, recompress};
use loramix_core::rng::Stream;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Row-major dense matrix.
#[derive(Clone, Debug)]
struct Dense {
    rows: usize,
    cols: usize,
    data: Vec<f64>,
}

impl Dense {
    fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    fn dot(&self, other: &Self) -> f64 {
        self.data.iter().zip(&other.data).map(|(x, y)| x * y).sum()
    }

    fn norm(&self) -> f64 {
        self.dot(self).sqrt()
    }

    fn minus(&self, other: &Self) -> Self {
        let data = self.data.iter().zip(&other.data).map(|(x, y)| x - y).collect();
        Self { data, ..*self }
    }

    fn plus(&self, other: &Self) -> Self {
        let data = self.data.iter().zip(&other.data).map(|(x, y)| x + y).collect();
        Self { data, ..*self }
    }

    /// Singular values, largest first: one-sided Jacobi on the rows of the flatter side.
    fn singular_values(&self) -> Vec<f64> {
        let wide = self.rows <= self.cols;
        let count = self.rows.min(self.cols);
        let at = |i: usize, j: usize| self.data[i * self.cols + j];
        let row = |i: usize| -> Vec<f64> {
            (0..self.rows.max(self.cols)).map(|j| if wide { at(i, j) } else { at(j, i) }).collect()
        };
        let mut rows: Vec<Vec<f64>> = (0..count).map(row).collect();
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(a, b)| a * b).sum::<f64>();
        for _ in 0..30 {
            let mut turned = false;
            for p in 0..count {
                for q in p + 1..count {
                    let (a, b) = (dot(&rows[p], &rows[p]), dot(&rows[q], &rows[q]));
                    let c = dot(&rows[p], &rows[q]);
                    if c == 0.0 || c.abs() <= 1e-15 * (a * b).sqrt() {
                        continue;
                    }
                    turned = true;
                    let zeta = (b - a) / (2.0 * c);
                    let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                    let cos = 1.0 / (1.0 + t * t).sqrt();
                    let (head, tail) = rows.split_at_mut(q);
                    for (x, y) in head[p].iter_mut().zip(&mut tail[0]) {
                        (*x, *y) = (cos * (*x - t * *y), cos * (*y + t * *x));
                    }
                }
            }
            if !turned {
                break;
            }
        }
        let mut values: Vec<f64> = rows.iter().map(|r| dot(r, r).sqrt()).collect();
        values.sort_by(|x, y| y.total_cmp(x));
        values
    }
}

/// Bytes of one factor pair, owned.
#[derive(Clone, Debug)]
struct Pair {
    up_type: Dtype,
    down_type: Dtype,
    up: Vec<u8>,
    down: Vec<u8>,
    rank: usize,
    rows: usize,
    factor: f64,
    row_start: usize,
}

fn element(dtype: Dtype, word: u32) -> Vec<u8> {
    let value = f64::from(word >> 8) / f64::from(1 << 23) - 1.0;
    let sign = (word >> 24) as u8 & 0x80;
    match dtype {
        Dtype::F64 => value.to_le_bytes().to_vec(),
        Dtype::F32 => (value as f32).to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
        Dtype::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
        // Exponents in the middle of the range: 1/8 to 2.
        Dtype::F8E4m3 => vec![sign | (0x20 + (word as u8 & 0x1F))],
        Dtype::F8E5m2 => vec![sign | (0x30 + (word as u8 & 0x0F))],
    }
}

fn random(dtype: Dtype, count: usize, seed: u64) -> Vec<u8> {
    let stream = Stream::new(seed, 0, 0).unwrap();
    (0..count as u64).flat_map(|e| element(dtype, stream.word(e))).collect()
}

fn pair(dtype: Dtype, rows: usize, cols: usize, rank: usize, seed: u64) -> Pair {
    Pair {
        up_type: dtype,
        down_type: dtype,
        up: random(dtype, rows * rank, 2 * seed),
        down: random(dtype, rank * cols, 2 * seed + 1),
        rank,
        rows,
        factor: 1.0,
        row_start: 0,
    }
}

impl Pair {
    fn member(&self, cols: usize) -> Member<'_> {
        Member {
            up: Matrix::new(self.up_type, self.rows, self.rank, &self.up).unwrap(),
            down: Matrix::new(self.down_type, self.rank, cols, &self.down).unwrap(),
            factor: self.factor,
            row_start: self.row_start,
        }
    }

    fn times(&self, factor: f64) -> Self {
        Self { factor, ..self.clone() }
    }

    /// The delta, multiplied out entry by entry.
    fn dense(&self, rows: usize, cols: usize) -> Dense {
        let (up, down) = (values(&self.member(cols).up), values(&self.member(cols).down));
        let mut delta = Dense::zeros(rows, cols);
        for i in 0..self.rows {
            for j in 0..cols {
                let terms = (0..self.rank).map(|k| up[i * self.rank + k] * down[k * cols + j]);
                delta.data[(i + self.row_start) * cols + j] = self.factor * terms.sum::<f64>();
            }
        }
        delta
    }
}

fn values(matrix: &Matrix<'_>) -> Vec<f64> {
    let mut out = vec![0.0; matrix.rows() * matrix.cols()];
    matrix.decode_f64(0..matrix.rows(), 0..matrix.cols(), &mut out, matrix.cols()).unwrap();
    out
}

fn group(rows: usize, cols: usize, pairs: &[Pair]) -> Group<'_> {
    Group::new(rows, cols, pairs.iter().map(|p| p.member(cols)).collect()).unwrap()
}

fn sum(rows: usize, cols: usize, pairs: &[Pair]) -> Dense {
    let each = pairs.iter().map(|p| p.dense(rows, cols));
    each.fold(Dense::zeros(rows, cols), |total, delta| total.plus(&delta))
}

/// Recompresses to f32 and multiplies the bytes out again.
fn rebuilt(group: &Group<'_>, rule: &Rule) -> (Recompressed, Dense) {
    let mut out = vec![0xFF; capacity(group, rule, Dtype::F32)];
    let done = recompress(group, rule, Dtype::F32, &mut out).unwrap();
    let (rows, cols) = (group.rows(), group.cols());
    let (split, end) = (rows * done.rank * 4, (rows + cols) * done.rank * 4);
    let written = Pair {
        up_type: Dtype::F32,
        down_type: Dtype::F32,
        up: out[..split].to_vec(),
        down: out[split..end].to_vec(),
        rank: done.rank,
        rows,
        factor: rule.alpha.map_or(1.0, |alpha| alpha / done.rank as f64),
        row_start: 0,
    };
    (done, written.dense(rows, cols))
}

fn close(got: f64, expected: f64, tolerance: f64) -> bool {
    (got - expected).abs() <= tolerance
}

fn dtypes() -> impl Strategy<Value = Dtype> {
    proptest::sample::select(Dtype::ALL.to_vec())
}

prop_compose! {
    fn shapes()(rows in 1_usize..40, cols in 1_usize..40) -> (usize, usize) { (rows, cols) }
}

prop_compose! {
    /// A member that covers all rows or some.
    fn members(rows: usize, cols: usize)(
        up_type in dtypes(), down_type in dtypes(), rank in 1_usize..10, seed in 0_u64..1 << 40,
        factor in prop_oneof![Just(1.0), Just(-1.0), Just(0.0), -3.0..3.0_f64, Just(1e-4)],
        whole in any::<bool>(), a in 0..rows, b in 0..rows,
    ) -> Pair {
        let (row_start, end) = if whole { (0, rows) } else { (a.min(b), a.max(b) + 1) };
        let height = end - row_start;
        Pair {
            up_type, down_type, rank, factor, row_start, rows: height,
            up: random(up_type, height * rank, 2 * seed),
            down: random(down_type, rank * cols, 2 * seed + 1),
        }
    }
}

fn stacks() -> impl Strategy<Value = (usize, usize, Vec<Pair>)> {
    shapes().prop_flat_map(|(rows, cols)| {
        let pairs = proptest::collection::vec(members(rows, cols), 1..6);
        pairs.prop_map(move |pairs| (rows, cols, pairs))
    })
}

fn rules() -> impl Strategy<Value = Rule> {
    let rank = proptest::option::of(1_usize..12);
    let energy = proptest::option::of(0.3..=1.0_f64);
    let max_error = proptest::option::of(0.0..0.9_f64);
    let alpha = proptest::option::of(0.5..20.0_f64);
    (rank, energy, max_error, alpha).prop_map(|(rank, energy, max_error, alpha)| Rule {
        rank,
        energy,
        max_error,
        alpha,
        steps: 0,
    })
}

fn config() -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(1);
    ProptestConfig { cases: 256, rng_seed, failure_persistence: None, ..Default::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn gram_equals_dense_inner_products((rows, cols, pairs) in stacks()) {
        let k = gram(&group(rows, cols, &pairs)).unwrap();
        let n = pairs.len();
        let deltas: Vec<Dense> = pairs.iter().map(|p| p.dense(rows, cols)).collect();
        prop_assert_eq!(k.len(), n * n);
        for i in 0..n {
            for j in 0..n {
                // Relative to the factors: a delta may cancel within itself.
                let size = |p: &Pair| {
                    let member = p.member(cols);
                    let square = |m| values(m).iter().map(|x| x * x).sum::<f64>();
                    (square(&member.up) * square(&member.down)).sqrt() * p.factor.abs()
                };
                let bound = 1e-6 * size(&pairs[i]) * size(&pairs[j]);
                prop_assert!(close(k[i * n + j], deltas[i].dot(&deltas[j]), bound));
                prop_assert_eq!(k[i * n + j].to_bits(), k[j * n + i].to_bits());
            }
        }
    }

    #[test]
    fn expand_equals_the_dense_sum(
        (rows, cols, pairs) in stacks(), cut in any::<[prop::sample::Index; 2]>(),
    ) {
        let whole = sum(rows, cols, &pairs);
        let [a, b] = cut;
        let (a, b) = (a.index(rows + 1), b.index(rows + 1));
        let range = a.min(b)..a.max(b);
        let mut out = vec![f32::NAN; range.len() * cols];
        expand(&group(rows, cols, &pairs), range.clone(), &mut out).unwrap();
        let terms: f64 = pairs.iter().map(|p| p.factor.abs() * p.rank as f64).sum();
        let scale = 1e-5 * (1.0 + terms);
        for (got, expected) in out.iter().zip(&whole.data[range.start * cols..]) {
            prop_assert!(close(f64::from(*got), *expected, scale));
        }
    }

    #[test]
    fn recompression_is_optimal((rows, cols, pairs) in stacks(), rule in rules()) {
        let delta = sum(rows, cols, &pairs);
        let (done, written) = rebuilt(&group(rows, cols, &pairs), &rule);
        let singular = delta.singular_values();
        let norm = delta.norm();
        let rounding = 2e-6 * pairs.iter().map(|p| p.dense(rows, cols).norm()).sum::<f64>();
        let tail = |k: usize| singular.iter().skip(k).map(|s| s * s).sum::<f64>().sqrt();
        prop_assert!(close(done.norm, norm, rounding));
        prop_assert!(written.minus(&delta).norm() <= tail(done.rank) + rounding);
        prop_assert!(close(done.relative_error * norm, tail(done.rank), rounding));
        prop_assert!(done.rank >= 1 && done.rank <= rows.min(cols).max(1));
        prop_assert!(done.rank <= rule.rank.unwrap_or(usize::MAX));
        // The smallest rank that satisfies the rules, up to rounding at the edge.
        let energy_limit = rule.energy.map_or(0.0, |e| (1.0 - e).max(0.0).sqrt());
        let limit = energy_limit.max(rule.max_error.unwrap_or(0.0)) * norm;
        let capped = rule.rank.is_some_and(|rank| rank == done.rank);
        prop_assert!(capped || tail(done.rank) <= limit + rounding);
        prop_assert!(done.rank == 1 || tail(done.rank - 1) > limit * (1.0 - 1e-6) - rounding);
    }

    #[test]
    fn dense_gram_and_combine_equal_plain_sums(
        dtype in dtypes(), len in 0_usize..600, n in 1_usize..6, seed in 0_u64..1 << 40,
        coefficients in proptest::collection::vec(-2.0..2.0_f64, 5),
    ) {
        let bytes: Vec<Vec<u8>> =
            (0..n as u64).map(|i| random(dtype, len, seed + (i << 41))).collect();
        let deltas: Vec<Matrix<'_>> =
            bytes.iter().map(|b| Matrix::new(dtype, 1, len, b).unwrap()).collect();
        let plain: Vec<Vec<f64>> = deltas.iter().map(values).collect();
        let k = dense::gram(&deltas).unwrap();
        for i in 0..n {
            for j in 0..n {
                let expected: f64 = plain[i].iter().zip(&plain[j]).map(|(x, y)| x * y).sum();
                prop_assert!(close(k[i * n + j], expected, 1e-12 * (1.0 + len as f64)));
            }
        }
        let mut out = vec![0; len * 8];
        dense::combine(&deltas, &coefficients[..n], Dtype::F64, &mut out).unwrap();
        let got = values(&Matrix::new(Dtype::F64, 1, len, &out).unwrap());
        for (e, got) in got.iter().enumerate() {
            let expected: f64 = (0..n).map(|i| coefficients[i] * plain[i][e]).sum();
            prop_assert!(close(*got, expected, 1e-12));
        }
    }

    #[test]
    fn hostile_groups_are_refused_or_answered(
        rows in 0_usize..5, cols in 0_usize..5,
        odd in proptest::collection::vec(
            (0_usize..5, 0_usize..4, 0_usize..4, 0_usize..5,
             prop_oneof![Just(0_usize), Just(1), Just(usize::MAX)],
             prop_oneof![
                Just(0.0), Just(1.0), Just(f64::NAN), Just(f64::INFINITY), Just(1e-300),
                Just(1e300), Just(-1e80),
             ]),
            0..4,
        ),
        big in any::<bool>(),
    ) {
        let value: f32 = if big { 1e38 } else { 1e-40 };
        let each = |i| if i % 3 == 0 { [0; 4] } else { value.to_le_bytes() };
        let bytes: Vec<u8> = (0..25).flat_map(each).collect();
        let matrix =
            |r: usize, c: usize| Matrix::new(Dtype::F32, r, c, &bytes[..r * c * 4]).unwrap();
        let members = odd.iter().map(|&(height, left, right, width, row_start, factor)| Member {
            up: matrix(height, left), down: matrix(right, width), factor, row_start,
        }).collect();
        let Ok(group) = Group::new(rows, cols, members) else {
            let bad = odd.iter().any(|&(height, left, right, width, start, factor)| {
                let outside = start.saturating_add(height) > rows;
                left != right || width != cols || outside || !factor.is_finite()
            });
            prop_assert!(bad);
            return Ok(());
        };
        let k = gram(&group).unwrap();
        prop_assert_eq!(k.len(), odd.len() * odd.len());
        let mut dense = vec![0.0; rows * cols];
        expand(&group, 0..rows, &mut dense).unwrap();
        for rule in [Rule::default(), Rule { rank: Some(1), ..Rule::default() }] {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
                let mut out = vec![0; capacity(&group, &rule, dtype)];
                if let Ok(done) = recompress(&group, &rule, dtype, &mut out) {
                    prop_assert!(done.norm.is_finite() && done.relative_error.is_finite());
                    let count = (rows + cols) * done.rank;
                    let bytes = &out[..count * dtype.size()];
                    let written = Matrix::new(dtype, 1, count, bytes).unwrap();
                    prop_assert_eq!(written.find_non_finite(), None);
                }
            }
        }
    }
}

#[test]
fn equal_members_need_their_rank_once() {
    let one = pair(Dtype::Bf16, 31, 27, 5, 3);
    let pairs = [one.clone(), one.times(0.5), one.times(-0.2)];
    let (done, written) = rebuilt(&group(31, 27, &pairs), &Rule::default());
    assert_eq!(done.rank, 5);
    let expected = one.times(1.3).dense(31, 27);
    assert!(written.minus(&expected).norm() < 2e-6 * expected.norm());
}

#[test]
fn a_rank_deficient_stack_is_reduced_to_its_rank() {
    // Equal ups, different downs: the sum has the rank of one.  And the other way round.
    let first = pair(Dtype::F32, 30, 20, 4, 5);
    for (up, down) in [(true, false), (false, true)] {
        let mut second = pair(Dtype::F32, 30, 20, 4, 6);
        if up {
            second.up.clone_from(&first.up);
        }
        if down {
            second.down.clone_from(&first.down);
        }
        let pairs = [first.clone(), second];
        let expected = sum(30, 20, &pairs);
        let (done, written) = rebuilt(&group(30, 20, &pairs), &Rule::default());
        assert_eq!(done.rank, 4);
        assert!(written.minus(&expected).norm() < 2e-6 * expected.norm());
    }
}

#[test]
fn what_cancels_is_zero() {
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F64] {
        let one = pair(dtype, 40, 33, 8, 7);
        for (a, b) in [(1.0, -1.0), (0.7, -0.7), (1e-3, -1e-3)] {
            let pairs = [one.times(a), one.times(b)];
            let (done, written) = rebuilt(&group(40, 33, &pairs), &Rule::default());
            let size = one.times(a).dense(40, 33).norm();
            assert!(written.norm() <= 1e-7 * size, "{dtype:?}: {}", written.norm() / size);
            assert!(done.norm <= 1e-7 * size, "{dtype:?}: {}", done.norm / size);
            assert_eq!(done.rank, 1, "{dtype:?} at {a}: rounding noise is not a direction");
        }
    }
}

#[test]
fn factors_that_undo_the_size_of_their_sides_lose_nothing() {
    for (side, factor) in [(1e25, 1e-50), (1e-25, 1e50), (1e8, 1e-16)] {
        let bytes = bf16::from_f64(side).to_le_bytes();
        let sides = Matrix::new(Dtype::Bf16, 1, 1, &bytes).unwrap();
        let member = Member { up: sides, down: sides, factor, row_start: 0 };
        let mut out = [0f32; 1];
        expand(&Group::new(1, 1, vec![member]).unwrap(), 0..1, &mut out).unwrap();
        let stored = bf16::from_f64(side).to_f64();
        assert!(close(f64::from(out[0]), stored * stored * factor, 1e-6), "{side}: {}", out[0]);
    }
}

#[test]
fn a_stack_kept_whole_keeps_every_digit() {
    for (up, down) in [(1.0_f32, 1.0_f32), (1.0, 1e-6), (1e-6, 1e4)] {
        let mut one = pair(Dtype::F32, 20, 30, 3, 8);
        let scaled = |bytes: &[u8], by: f32| -> Vec<u8> {
            let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            numbers.flat_map(|x| (x * by).to_le_bytes()).collect()
        };
        (one.up, one.down) = (scaled(&one.up, up), scaled(&one.down, down));
        let (done, written) = rebuilt(&group(20, 30, &[one.clone()]), &Rule::default());
        assert_eq!(done.rank, 3);
        assert_eq!(written.data, one.dense(20, 30).data);
    }
}

#[test]
fn alpha_undoes_the_gain() {
    let pairs = [pair(Dtype::F32, 30, 20, 4, 9), pair(Dtype::F32, 30, 20, 3, 10)];
    let expected = sum(30, 20, &pairs);
    for alpha in [7.0, 1.0, 16.0, 0.3] {
        let rule = Rule { alpha: Some(alpha), ..Rule::default() };
        let (_, written) = rebuilt(&group(30, 20, &pairs), &rule);
        assert!(written.minus(&expected).norm() < 1e-6 * expected.norm());
    }
}

#[test]
fn difference_estimates_the_norm() {
    let (rows, cols) = (60, 300);
    let a = [pair(Dtype::F32, rows, cols, 9, 11), pair(Dtype::Bf16, rows, cols, 5, 12)];
    let delta = sum(rows, cols, &a);
    for size in [1.0, 1e-2, 1e-4] {
        let b = [a[0].clone(), a[1].clone(), pair(Dtype::F32, rows, cols, 40, 13).times(size)];
        let truth = delta.minus(&sum(rows, cols, &b)).norm();
        let (a, b) = (group(rows, cols, &a), group(rows, cols, &b));
        let mut worst: f64 = 0.0;
        let mut squares = (0.0, 0.0);
        for seed in 0..40 {
            let (gap, norm) = difference(&a, &b, &Stream::new(seed, 1, 0).unwrap()).unwrap();
            worst = worst.max((gap / truth - 1.0).abs());
            squares = (squares.0 + gap * gap / 40.0, squares.1 + norm * norm / 40.0);
        }
        assert!(worst < 0.3, "{worst}");
        assert!((squares.0.sqrt() / truth - 1.0).abs() < 0.05, "at {size}");
        assert!((squares.1.sqrt() / delta.norm() - 1.0).abs() < 0.05);
    }
    let a = group(rows, cols, &a);
    let none = difference(&a, &a, &Stream::new(0, 0, 0).unwrap()).unwrap();
    assert_eq!(none.0.to_bits(), 0.0_f64.to_bits());
}

#[test]
fn difference_refuses_two_shapes() {
    let (a, b) = (pair(Dtype::F32, 4, 5, 1, 1), pair(Dtype::F32, 5, 4, 1, 1));
    let (a, b) = ([a], [b]);
    let stream = Stream::new(0, 0, 0).unwrap();
    let refused = difference(&group(4, 5, &a), &group(5, 4, &b), &stream);
    assert!(matches!(refused, Err(Error::Shape { .. })));
}

fn in_pool<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn bits_do_not_depend_on_threads() {
    let (rows, cols) = (9000, 5001);
    let pairs = [
        pair(Dtype::Bf16, rows, cols, 3, 14),
        Pair { row_start: 1, ..pair(Dtype::F32, rows - 1, cols, 2, 15) },
    ];
    let group = group(rows, cols, &pairs);
    let rule = Rule { rank: Some(4), ..Rule::default() };
    let dense = random(Dtype::F16, 70_001, 16);
    let flat = Matrix::new(Dtype::F16, 1, 70_001, &dense).unwrap();
    let everything = || {
        let mut tile = vec![0.0; 600 * cols];
        expand(&group, 7..607, &mut tile).unwrap();
        let mut factors = vec![0; capacity(&group, &rule, Dtype::Bf16)];
        recompress(&group, &rule, Dtype::Bf16, &mut factors).unwrap();
        let mut mixed = vec![0; 70_001 * 2];
        dense::combine(&[flat, flat], &[0.3, 0.4], Dtype::F16, &mut mixed).unwrap();
        let bits = |x: Vec<f64>| x.into_iter().map(f64::to_bits).collect::<Vec<u64>>();
        let tile: Vec<u32> = tile.into_iter().map(f32::to_bits).collect();
        (
            bits(gram(&group).unwrap()),
            bits(dense::gram(&[flat, flat]).unwrap()),
            tile,
            factors,
            mixed,
        )
    };
    let first = in_pool(1, everything);
    assert!(first == in_pool(2, everything));
    assert!(first == in_pool(7, everything));
}

#[test]
fn non_finite_input_is_named() {
    for dtype in Dtype::ALL {
        for member in 0..3 {
            for side in ["up", "down"] {
                let mut pairs = [0, 1, 2].map(|i| pair(dtype, 9, 6, 2, 20 + i));
                let bytes =
                    if side == "up" { &mut pairs[member].up } else { &mut pairs[member].down };
                // Sign and exponent all ones: NaN or infinity in every type.
                bytes[3 * dtype.size()..4 * dtype.size()].fill(0xFF);
                let group = group(9, 6, &pairs);
                let expected = Error::NonFinite { member, side };
                assert_eq!(gram(&group), Err(expected.clone()), "{dtype:?}");
                let mut out = vec![0; capacity(&group, &Rule::default(), Dtype::F32)];
                let refused = recompress(&group, &Rule::default(), Dtype::F32, &mut out);
                assert_eq!(refused.unwrap_err(), expected, "{dtype:?}");
            }
        }
    }
}

#[test]
fn non_finite_dense_deltas_are_named() {
    let good = random(Dtype::F32, 10, 1);
    let mut bad = good.clone();
    bad[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let row = |bytes| Matrix::new(Dtype::F32, 1, 10, bytes).unwrap();
    let refused = dense::gram(&[row(&good), row(&bad)]);
    assert_eq!(refused, Err(Error::NonFinite { member: 1, side: "dense" }));
}

#[test]
fn overflow_of_the_output_type_is_refused() {
    let one = pair(Dtype::F32, 12, 10, 2, 30);
    let refusal = |factor: f64, dtype: Dtype, rule: &Rule| {
        let pairs = [one.times(factor)];
        let group = group(12, 10, &pairs);
        let mut out = vec![0; capacity(&group, rule, dtype)];
        recompress(&group, rule, dtype, &mut out).map(|_| ())
    };
    for rule in [Rule::default(), Rule { rank: Some(1), ..Rule::default() }] {
        assert_eq!(refusal(1e6, Dtype::F16, &rule), Ok(()), "balanced: a thousand on each side");
        for (factor, dtype) in [(1e12, Dtype::F16), (1e80, Dtype::F32), (1e80, Dtype::Bf16)] {
            let refused = refusal(factor, dtype, &rule);
            assert!(matches!(refused, Err(Error::Overflow { .. })), "{dtype:?}: {refused:?}");
        }
    }
    let f32s = [f32::MAX.to_le_bytes(), f32::MAX.to_le_bytes()].concat();
    let row = Matrix::new(Dtype::F32, 1, 2, &f32s).unwrap();
    let mut out = vec![0; 8];
    let refused = dense::combine(&[row], &[2.0], Dtype::F32, &mut out);
    assert!(matches!(refused, Err(Error::Overflow { .. })), "{refused:?}");
}

#[test]
fn rules_outside_their_range_are_refused() {
    let pairs = [pair(Dtype::F32, 5, 4, 2, 1)];
    let group = group(5, 4, &pairs);
    let refused = |rule: Rule| match recompress(&group, &rule, Dtype::F32, &mut [0; 1000]) {
        Err(Error::Param { name, .. }) => name,
        other => panic!("{rule:?}: {other:?}"),
    };
    let none = Rule::default();
    assert_eq!(refused(Rule { rank: Some(0), ..none }), "rank");
    for energy in [0.0, -1.0, 1.1, f64::NAN] {
        assert_eq!(refused(Rule { energy: Some(energy), ..none }), "energy");
    }
    for max_error in [1.0, -0.1, f64::NAN] {
        assert_eq!(refused(Rule { max_error: Some(max_error), ..none }), "max_error");
    }
    for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(refused(Rule { alpha: Some(alpha), ..none }), "alpha");
    }
    let short = recompress(&group, &none, Dtype::F32, &mut [0; 8]);
    assert!(matches!(short, Err(Error::Shape { .. })));
}

#[test]
fn members_that_do_not_fit_are_refused() {
    let one = pair(Dtype::F32, 6, 5, 2, 1);
    let refused = |rows, cols, member| Group::new(rows, cols, vec![member]).is_err();
    let good = one.member(5);
    assert!(!refused(6, 5, good));
    assert!(!refused(7, 5, Member { row_start: 1, ..good }));
    assert!(refused(6, 5, Member { row_start: 1, ..good }));
    assert!(refused(6, 5, Member { row_start: usize::MAX, ..good }));
    assert!(refused(6, 4, good));
    assert!(refused(5, 5, good));
    assert!(refused(6, 5, Member { factor: f64::NAN, ..good }));
    let other = pair(Dtype::F32, 6, 5, 3, 1);
    assert!(refused(6, 5, Member { down: other.member(5).down, ..good }));
}
