//! Decoding against `half` and a slow oracle for FP8, tiles, and refusals.
#![allow(clippy::unwrap_used)]

use half::{bf16, f16};
use loramix_core::Error;
use loramix_core::dtype::{Dtype, Matrix};
use proptest::prelude::*;

fn decode_all(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let count = bytes.len() / dtype.size();
    let mut out = vec![0.0; count];
    let matrix = Matrix::new(dtype, 1, count, bytes).unwrap();
    matrix.decode_f32(0..1, 0..count, &mut out, count).unwrap();
    out
}

fn all_halves() -> Vec<u8> {
    (0..=u16::MAX).flat_map(u16::to_le_bytes).collect()
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits()
}

#[test]
fn f16_equals_half_everywhere() {
    let decoded = decode_all(Dtype::F16, &all_halves());
    for (code, value) in (0..=u16::MAX).zip(decoded) {
        assert!(same(value, f16::from_bits(code).to_f32()), "{code:#06x}");
    }
}

#[test]
fn bf16_equals_half_everywhere() {
    let decoded = decode_all(Dtype::Bf16, &all_halves());
    for (code, value) in (0..=u16::MAX).zip(decoded) {
        let expected = bf16::from_bits(code).to_f32();
        let both_nan = value.is_nan() && expected.is_nan();
        assert!(both_nan || same(value, expected), "{code:#06x}");
    }
}

/// Sign, exponent and mantissa as the standard words them, in f64.
fn fp8(code: u8, mantissa_bits: i32, bias: i32, infinities: bool) -> f64 {
    let steps = 1 << mantissa_bits;
    let mantissa = f64::from(i32::from(code & 0x7F) % steps) / f64::from(steps);
    let exponent = i32::from(code & 0x7F) / steps;
    let top = (1 << (7 - mantissa_bits)) - 1;
    let magnitude = if infinities && exponent == top {
        if mantissa == 0.0 { f64::INFINITY } else { f64::NAN }
    } else if code & 0x7F == 0x7F {
        f64::NAN
    } else if exponent == 0 {
        mantissa * 2.0_f64.powi(1 - bias)
    } else {
        (1.0 + mantissa) * 2.0_f64.powi(exponent - bias)
    };
    if code < 128 { magnitude } else { -magnitude }
}

#[test]
#[allow(clippy::float_cmp)] // the values are exact
fn fp8_equals_the_standard() {
    let codes: Vec<u8> = (0..=255).collect();
    let (e4m3, e5m2) = (decode_all(Dtype::F8E4m3, &codes), decode_all(Dtype::F8E5m2, &codes));
    for code in codes {
        let at = usize::from(code);
        for (value, oracle) in
            [(e4m3[at], fp8(code, 3, 7, false)), (e5m2[at], fp8(code, 2, 15, true))]
        {
            if oracle.is_nan() {
                assert!(value.is_nan(), "{code:#04x}");
            } else {
                assert_eq!(f64::from(value).to_bits(), oracle.to_bits(), "{code:#04x}");
            }
        }
    }
    assert_eq!(e4m3[0x7E], 448.0);
    assert_eq!(e5m2[0x7B], 57344.0);
    assert_eq!(e5m2[0x7C], f32::INFINITY);
}

#[test]
fn names_round_trip() {
    for dtype in Dtype::ALL {
        assert_eq!(Dtype::parse(dtype.name()), Ok(dtype));
    }
    for name in ["", "f32", "I32", "F8_E4M3FNUZ"] {
        let text = Dtype::parse(name).unwrap_err().to_string();
        assert!(text.contains("BF16, F8_E4M3"), "{text}");
    }
}

#[test]
fn matrix_refuses_wrong_lengths() {
    let bytes = [0; 16];
    assert!(Matrix::new(Dtype::F16, 2, 4, &bytes).is_ok());
    let bad = [(2, 3), (3, 4), (0, 4), (usize::MAX, 2), (usize::MAX / 2, 1), (1 << 63, 8)];
    for (rows, cols) in bad {
        let matrix = Matrix::new(Dtype::F16, rows, cols, &bytes);
        assert!(matches!(matrix, Err(Error::Shape { what: "bytes", .. })));
    }
    let empty = Matrix::new(Dtype::F64, usize::MAX, 0, &[]).unwrap();
    assert_eq!((empty.rows(), empty.cols(), empty.bytes().len()), (usize::MAX, 0, 0));
    assert_eq!(empty.find_non_finite(), None);
    assert_eq!(empty.decode_f64(0..usize::MAX, 0..0, &mut [], 0), Ok(()));
}

#[test]
#[allow(clippy::reversed_empty_ranges)] // one of the refusals
fn decode_refuses_bad_tiles() {
    let bytes = [0; 48];
    let matrix = Matrix::new(Dtype::F32, 3, 4, &bytes).unwrap();
    let mut out = [0.0; 12];
    let cases = [
        (0..4, 0..4, 12, 4, "rows"),
        (2..1, 0..4, 12, 4, "rows"),
        (0..3, 1..5, 12, 4, "cols"),
        (0..3, 0..4, 11, 4, "out"),
        (0..3, 0..2, 12, 1, "stride"),
        (0..3, 0..4, 12, usize::MAX, "out"),
        (0..3, 0..4, 12, usize::MAX / 2, "out"),
    ];
    for (rows, cols, len, stride, name) in cases {
        let done = matrix.decode_f32(rows, cols, &mut out[..len], stride);
        assert!(matches!(done, Err(Error::Shape { what, .. }) if what == name), "{name}");
    }
    assert_eq!(matrix.decode_f32(1..2, 0..4, &mut out[..4], 0), Ok(()));
    assert_eq!(matrix.decode_f32(0..3, 0..4, &mut out, 4), Ok(()));
    let wide = Matrix::new(Dtype::F64, 2, 3, &bytes).unwrap();
    assert!(matches!(wide.decode_f32(0..2, 0..3, &mut out, 3), Err(Error::Dtype { .. })));
}

#[test]
fn finds_the_first_non_finite() {
    for dtype in Dtype::ALL {
        let (size, cols) = (dtype.size(), 997);
        let mut bytes = vec![0_u8; size * 13 * cols];
        let find = |bytes: &[u8]| Matrix::new(dtype, 13, cols, bytes).unwrap().find_non_finite();
        assert_eq!(find(&bytes), None);
        // Sign and exponent all ones: NaN or infinity in every type.
        for (row, col) in [(12, 996), (12, 0), (4, 108), (4, 107), (0, 0)] {
            bytes[(row * cols + col) * size..][..size].fill(0xFF);
            assert_eq!(find(&bytes), Some((row, col)), "{dtype:?}");
        }
    }
}

fn dtypes() -> impl Strategy<Value = Dtype> {
    proptest::sample::select(Dtype::ALL.to_vec())
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0_usize), Just(1), 2..9_usize, 30..70_usize]
}

proptest! {
    #[test]
    fn find_equals_a_plain_search(
        dtype in dtypes(), len in 0_usize..300, seed in any::<[u8; 16]>(),
    ) {
        let places = 0..len * dtype.size();
        let bytes: Vec<u8> = places.map(|i| seed[i % 16] ^ (i / 16) as u8).collect();
        let matrix = Matrix::new(dtype, len, 1, &bytes).unwrap();
        let mut out = vec![0.0; len];
        matrix.decode_f64(0..len, 0..1, &mut out, 1).unwrap();
        let expected = out.iter().position(|x| !x.is_finite()).map(|row| (row, 0));
        prop_assert_eq!(matrix.find_non_finite(), expected);
    }

    #[test]
    fn tiles_equal_the_whole(
        dtype in dtypes(), rows in sizes(), cols in sizes(), gap in 0_usize..3, shift in 0_usize..4,
        cut in any::<[proptest::sample::Index; 4]>(),
    ) {
        let len = rows * cols * dtype.size();
        // No exponent all ones, so that values compare.
        let store: Vec<u8> = (0..len + shift).map(|i| (i * 37) as u8 & 0x3B).collect();
        let matrix = Matrix::new(dtype, rows, cols, &store[shift..]).unwrap();
        let mut whole = vec![0.0; rows * cols];
        matrix.decode_f64(0..rows, 0..cols, &mut whole, cols).unwrap();
        let [a, b, c, d] = cut;
        let (a, b) = (a.index(rows + 1), b.index(rows + 1));
        let (c, d) = (c.index(cols + 1), d.index(cols + 1));
        let (tile_rows, tile_cols) = (a.min(b)..a.max(b), c.min(d)..c.max(d));
        let stride = tile_cols.len() + gap;
        let mut out = vec![-1.0; tile_rows.len() * stride];
        let mut narrow = vec![-1.0; tile_rows.len() * stride];
        matrix.decode_f64(tile_rows.clone(), tile_cols.clone(), &mut out, stride).unwrap();
        if dtype != Dtype::F64 {
            matrix.decode_f32(tile_rows.clone(), tile_cols.clone(), &mut narrow, stride).unwrap();
        }
        for (i, row) in tile_rows.clone().enumerate() {
            for j in 0..stride {
                let inside = j < tile_cols.len();
                let expected = if inside { whole[row * cols + tile_cols.start + j] } else { -1.0 };
                let at = i * stride + j;
                prop_assert_eq!(out[at].to_bits(), expected.to_bits());
                if dtype != Dtype::F64 {
                    prop_assert_eq!(f64::from(narrow[at]).to_bits(), expected.to_bits());
                }
            }
        }
    }
}
