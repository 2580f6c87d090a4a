//! Deltas added to base weights, against a double loop in f64.
#![allow(clippy::unwrap_used)]

use half::{bf16, f16};
use loramix_core::bake::checksum::checksum;
use loramix_core::bake::{Delta, Survival, Whole, add};
use loramix_core::dtype::{Dtype, Matrix, encode};
use loramix_core::group::{Group, Member};
use loramix_core::{Error, Result};

/// Numbers in [-1, 1) that any f32 holds.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn bytes(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    let mut out = vec![0; values.len() * dtype.size()];
    encode(dtype, values, &mut out).unwrap();
    out
}

fn values(dtype: Dtype, data: &[u8]) -> Vec<f64> {
    let count = data.len() / dtype.size();
    let mut out = vec![0f64; count];
    let matrix = Matrix::new(dtype, 1, count, data).unwrap();
    matrix.decode_f64(0..1, 0..count, &mut out, count).unwrap();
    out
}

/// A weight, two low-rank members (one of some of the rows), and a dense one of some of them.
struct Case {
    dtype: Dtype,
    /// Type of the factors.
    side: Dtype,
    rows: usize,
    cols: usize,
    rank: usize,
    base: Vec<u8>,
    ups: [Vec<u8>; 2],
    downs: [Vec<u8>; 2],
    dense: Vec<u8>,
    start: usize,
}

const FACTORS: [f64; 3] = [0.75, -0.3, 1.25];

impl Case {
    fn new(dtype: Dtype, rows: usize, cols: usize, rank: usize) -> Self {
        Self::of(dtype, Dtype::F32, rows, cols, rank)
    }

    fn of(dtype: Dtype, factors: Dtype, rows: usize, cols: usize, rank: usize) -> Self {
        let start = rows / 3;
        let some = rows - start;
        let side = |seed, count| bytes(factors, &numbers(seed, count));
        Self {
            dtype,
            side: factors,
            rows,
            cols,
            rank,
            base: bytes(dtype, &numbers(1, rows * cols)),
            ups: [side(2, rows * rank), side(3, some * rank)],
            downs: [side(4, rank * cols), side(5, rank * cols)],
            dense: bytes(Dtype::F16, &numbers(6, some * cols)),
            start,
        }
    }

    fn group(&self) -> Group<'_> {
        let member = |i: usize, rows, row_start| Member {
            up: Matrix::new(self.side, rows, self.rank, &self.ups[i]).unwrap(),
            down: Matrix::new(self.side, self.rank, self.cols, &self.downs[i]).unwrap(),
            factor: FACTORS[i],
            row_start,
        };
        let members = vec![member(0, self.rows, 0), member(1, self.rows - self.start, self.start)];
        Group::new(self.rows, self.cols, members).unwrap()
    }

    fn whole(&self) -> Whole<'_> {
        let rows = self.rows - self.start;
        let matrix = Matrix::new(Dtype::F16, rows, self.cols, &self.dense).unwrap();
        Whole { matrix, factor: FACTORS[2], row_start: self.start }
    }

    fn view(&self) -> Matrix<'_> {
        Matrix::new(self.dtype, self.rows, self.cols, &self.base).unwrap()
    }

    fn run(&self) -> Result<(Vec<u8>, Survival)> {
        let mut out = vec![0; self.base.len()];
        let group = self.group();
        let delta = Delta { group: &group, whole: vec![self.whole()] };
        let sums = add(&self.view(), &delta, 0, &mut out)?;
        Ok((out, sums))
    }

    /// The delta, entry by entry.
    fn truth(&self) -> Vec<f64> {
        let (up, down): (Vec<_>, Vec<_>) = (0..2)
            .map(|i| (values(self.side, &self.ups[i]), values(self.side, &self.downs[i])))
            .unzip();
        let dense = values(Dtype::F16, &self.dense);
        let mut out = vec![0.0; self.rows * self.cols];
        for i in 0..self.rows {
            for j in 0..self.cols {
                let entry = &mut out[i * self.cols + j];
                for a in 0..self.rank {
                    *entry += FACTORS[0] * up[0][i * self.rank + a] * down[0][a * self.cols + j];
                    if i >= self.start {
                        let row = i - self.start;
                        *entry +=
                            FACTORS[1] * up[1][row * self.rank + a] * down[1][a * self.cols + j];
                    }
                }
                if i >= self.start {
                    *entry += FACTORS[2] * dense[(i - self.start) * self.cols + j];
                }
            }
        }
        out
    }
}

const SIZES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (3, 7, 2), (128, 512, 4), (129, 513, 3), (300, 40, 5), (5, 1030, 2)];
const TYPES: [(Dtype, f64); 6] = [
    (Dtype::F64, 0.0),
    (Dtype::F32, 1.2e-7),
    (Dtype::F16, 4.9e-4),
    (Dtype::Bf16, 3.92e-3),
    (Dtype::F8E4m3, 6.26e-2),
    (Dtype::F8E5m2, 1.26e-1),
];

const SIDES: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

#[test]
fn entries_are_the_rounded_sum_and_sums_are_what_became_of_them() {
    for (rows, cols, rank) in SIZES {
        for ((dtype, step), side) in TYPES.iter().flat_map(|one| SIDES.map(|side| (*one, side))) {
            let case = Case::of(dtype, side, rows, cols, rank);
            let (out, sums) = case.run().unwrap();
            let (base, got, delta) = (values(dtype, &case.base), values(dtype, &out), case.truth());
            let noise = if dtype == Dtype::F64 { 1e-14 } else { 3e-6 };
            let mut meant = Survival::default();
            for ((w, g), d) in base.iter().zip(&got).zip(&delta) {
                let room = step * (w + d).abs() + noise + if step > 0.05 { 0.002 } else { 0.0 };
                assert!((g - w - d).abs() <= room, "{dtype:?} {rows}x{cols}: {g} for {}", w + d);
                meant.delta += d * d;
                meant.moved += (g - w) * (g - w);
                meant.along += (g - w) * d;
            }
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-5 * (meant.delta + meant.moved);
            assert!(close(sums.delta, meant.delta) && close(sums.moved, meant.moved));
            assert!(close(sums.along, meant.along));
        }
    }
}

#[test]
fn rounding_is_that_of_ieee_to_nearest_even() {
    let case = Case::new(Dtype::F32, 40, 33, 3);
    let exact = values(Dtype::F32, &case.run().unwrap().0);
    for dtype in [Dtype::F16, Dtype::Bf16] {
        // A base of zeros: what is stored is the rounded delta.
        let zeros = Case { base: vec![0; 40 * 33 * 2], dtype, ..Case::new(dtype, 40, 33, 3) };
        let plain = Case { base: vec![0; 40 * 33 * 4], ..Case::new(Dtype::F32, 40, 33, 3) };
        let delta = values(Dtype::F32, &plain.run().unwrap().0);
        let (out, _) = zeros.run().unwrap();
        for (got, value) in values(dtype, &out).iter().zip(&delta) {
            let expected = match dtype {
                Dtype::F16 => f16::from_f32(*value as f32).to_f64(),
                _ => bf16::from_f32(*value as f32).to_f64(),
            };
            assert_eq!(got.to_bits(), expected.to_bits());
        }
    }
    assert_eq!(exact.len(), 40 * 33);
}

#[test]
fn strips_and_threads_change_no_bit() {
    for side in SIDES {
        strips_and_threads(&Case::of(Dtype::Bf16, side, 300, 700, 5));
    }
}

fn strips_and_threads(case: &Case) {
    let (whole, _) = case.run().unwrap();
    for threads in [1, 2, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| case.run()).unwrap(), case.run().unwrap());
    }
    let group = case.group();
    let mut out = vec![0; whole.len()];
    for (start, stop) in [(0, 128), (128, 256), (256, 300)] {
        let range = start * 700 * 2..stop * 700 * 2;
        let base = Matrix::new(Dtype::Bf16, stop - start, 700, &case.base[range.clone()]).unwrap();
        let delta = Delta { group: &group, whole: vec![case.whole()] };
        add(&base, &delta, start, &mut out[range]).unwrap();
    }
    assert!(out == whole);
}

#[test]
fn no_delta_is_no_change() {
    let case = Case::new(Dtype::F16, 20, 9, 2);
    let group = Group::new(20, 9, vec![]).unwrap();
    let mut out = vec![0; case.base.len()];
    let sums = add(&case.view(), &Delta { group: &group, whole: vec![] }, 0, &mut out).unwrap();
    assert_eq!(out, case.base);
    assert_eq!(sums, Survival::default());
}

#[test]
fn what_is_not_finite_is_named() {
    let nan = f32::NAN.to_le_bytes();
    let mut case = Case::new(Dtype::F32, 9, 8, 2);
    case.downs[1][..4].copy_from_slice(&nan);
    assert_eq!(case.run().unwrap_err(), Error::NonFinite { member: 1, side: "down" });
    let mut case = Case::new(Dtype::F64, 9, 8, 2);
    case.ups[0][..4].copy_from_slice(&nan);
    assert_eq!(case.run().unwrap_err(), Error::NonFinite { member: 0, side: "up" });
    let mut case = Case::new(Dtype::F32, 9, 8, 2);
    case.dense[..2].copy_from_slice(&0x7C00u16.to_le_bytes());
    assert_eq!(case.run().unwrap_err(), Error::NonFinite { member: 0, side: "dense" });
    let mut case = Case::new(Dtype::F32, 9, 8, 2);
    case.base[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    assert_eq!(case.run().unwrap_err(), Error::NonFinite { member: 0, side: "base" });
    let mut case = Case::new(Dtype::F16, 9, 8, 2);
    case.base[..2].copy_from_slice(&f16::MAX.to_le_bytes());
    case.ups[0][..4].copy_from_slice(&1e6f32.to_le_bytes());
    assert!(matches!(case.run().unwrap_err(), Error::Overflow { .. }));
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = Case::new(Dtype::F32, 9, 8, 2);
    let group = case.group();
    let refused = |first, room: usize| {
        let mut out = vec![0; room];
        let delta = Delta { group: &group, whole: vec![] };
        matches!(add(&case.view(), &delta, first, &mut out), Err(Error::Shape { .. }))
    };
    assert!(refused(1, 9 * 8 * 4) && refused(usize::MAX, 9 * 8 * 4) && refused(0, 9 * 8 * 4 - 1));
    let mut out = vec![0; 9 * 8 * 4];
    let late = Whole { row_start: 4, ..case.whole() };
    let delta = Delta { group: &group, whole: vec![late] };
    assert!(matches!(add(&case.view(), &delta, 0, &mut out), Err(Error::Shape { .. })));
}

#[test]
fn a_checksum_sees_every_byte_and_no_thread() {
    let data = bytes(Dtype::F32, &numbers(9, (1 << 19) + 3));
    let sum = checksum(&data);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| checksum(&data)), sum);
    }
    for at in [0, 1, 31, 32, 1 << 20, data.len() - 1] {
        let mut other = data.clone();
        other[at] ^= 1;
        assert_ne!(checksum(&other), sum);
    }
    let mut other = data.clone();
    other.swap(3, 40);
    assert!(checksum(&other) != sum || data[3] == data[40]);
    assert_ne!(checksum(&data[1..]), checksum(&data[..data.len() - 1]));
    assert_ne!(checksum(&[]), checksum(&[0]));
}
