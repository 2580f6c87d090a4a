//! Encoding against `half`, at every border of the types, and refusals.
#![allow(clippy::unwrap_used)]

use half::{bf16, f16};
use loramix_core::Error;
use loramix_core::dtype::{Dtype, Matrix, encode};
use proptest::prelude::*;

fn decode(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    let count = bytes.len() / dtype.size();
    let mut out = vec![0.0; count];
    let matrix = Matrix::new(dtype, 1, count, bytes).unwrap();
    matrix.decode_f32(0..1, 0..count, &mut out, count).unwrap();
    out
}

#[test]
fn finite_halves_survive_a_round_trip() {
    for (dtype, limit) in [(Dtype::F16, 0x7C00), (Dtype::Bf16, 0x7F80)] {
        let finite = (0..=u16::MAX).filter(|code| code & 0x7FFF < limit);
        let bytes: Vec<u8> = finite.flat_map(u16::to_le_bytes).collect();
        let mut back = vec![0; bytes.len()];
        encode(dtype, &decode(dtype, &bytes), &mut back).unwrap();
        assert!(bytes == back, "{dtype:?}");
    }
}

/// What `half` and the compiler's casts make of a value, or `None` if it must be refused.
fn reference(dtype: Dtype, value: f32) -> Option<Vec<u8>> {
    let (bytes, finite) = match dtype {
        Dtype::F64 => (f64::from(value).to_le_bytes().to_vec(), value.is_finite()),
        Dtype::F32 => (value.to_le_bytes().to_vec(), value.is_finite()),
        Dtype::F16 => {
            let x = f16::from_f32(value);
            (x.to_le_bytes().to_vec(), x.is_finite())
        }
        _ => {
            let x = bf16::from_f32(value);
            (x.to_le_bytes().to_vec(), x.is_finite())
        }
    };
    finite.then_some(bytes)
}

fn check_encode(value: f32) {
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let mut dst = vec![0; dtype.size()];
        let done = encode(dtype, &[value], &mut dst);
        match (reference(dtype, value), done) {
            (Some(bytes), done) => assert_eq!((done, dst), (Ok(()), bytes), "{value:e}"),
            (None, Err(Error::Overflow { value: got, dtype: name })) => {
                assert!(value.is_finite() && got.to_bits() == value.to_bits());
                assert_eq!(name, dtype.name());
            }
            (None, Err(Error::Param { name, .. })) => {
                assert!(!value.is_finite() && name == "value");
            }
            (None, other) => panic!("{value:e} as {dtype:?}: {other:?}"),
        }
    }
}

#[test]
fn encode_at_the_borders() {
    // Neighbours of every power of two and of each tie of the 16-bit types around it.
    for exponent in 0..=255_u32 {
        for top in [0, 0x1000, 0x2000, 0x3000, 0x8000, 0x1_0000, 0x1_8000, 0x7F_8000, 0x7F_F000] {
            let centre = (exponent << 23) | top;
            for bits in centre.saturating_sub(1)..=centre + 1 {
                check_encode(f32::from_bits(bits));
                check_encode(f32::from_bits(bits | 0x8000_0000));
            }
        }
    }
    // Every F16 subnormal step and the ties between them.
    for step in 0..4096_u16 {
        check_encode(f32::from(step) * 2.0_f32.powi(-26));
    }
    for value in [65504.0, 65519.996, 65520.0, 65536.0, f32::MAX, f32::INFINITY, f32::NAN] {
        check_encode(value);
    }
}

#[test]
fn encode_names_the_first_offender() {
    let mut src = vec![1.0; 3000];
    src[2500] = f32::NAN;
    src[2000] = -70000.0;
    let error = encode(Dtype::F16, &src, &mut vec![0; 6000]).unwrap_err();
    assert_eq!(error, Error::Overflow { value: -70000.0, dtype: "F16" });
    assert!(matches!(encode(Dtype::Bf16, &src, &mut vec![0; 6000]), Err(Error::Param { .. })));
}

#[test]
fn encode_refuses_sizes() {
    for (dtype, bytes) in [(Dtype::F32, 7), (Dtype::F16, 5), (Dtype::F64, 0)] {
        let done = encode(dtype, &[0.0; 2], &mut vec![0; bytes]);
        assert!(matches!(done, Err(Error::Shape { what: "dst", .. })));
    }
}

proptest! {
    #[test]
    fn encode_equals_half(bits: u32) {
        check_encode(f32::from_bits(bits));
    }
}

/// All finite values of a format, ascending, with their codes: the arithmetic definition.
fn eight_bits(dtype: Dtype) -> Vec<(f32, u8)> {
    let codes: Vec<u8> = (0..0x7F).collect();
    let values = decode(dtype, &codes);
    values.into_iter().zip(codes).filter(|(value, _)| value.is_finite()).collect()
}

#[test]
fn fp8_is_the_nearest_value_ties_to_even() {
    for dtype in [Dtype::F8E4m3, Dtype::F8E5m2] {
        let table = eight_bits(dtype);
        let code = |value: f32| {
            let mut dst = [0];
            encode(dtype, &[value], &mut dst).map(|()| dst[0])
        };
        for pair in table.windows(2) {
            let [(low, even), (high, odd)] = [pair[0], pair[1]];
            assert_eq!((code(low), code(-low)), (Ok(even), Ok(even | 0x80)), "{low}");
            let middle = f32::midpoint(low, high);
            let tie = if even & 1 == 0 { even } else { odd };
            assert_eq!(code(middle), Ok(tie), "{middle} between {low} and {high}");
            assert_eq!(code(middle.next_down()), Ok(even));
            assert_eq!(code(middle.next_up()), Ok(odd));
        }
        let (largest, last) = table[table.len() - 1];
        assert_eq!(code(largest), Ok(last));
        let step = largest - table[table.len() - 2].0;
        let half = largest + step / 2.0;
        assert_eq!(code(half).is_ok(), last & 1 == 0, "a tie rounds to even, or over the edge");
        assert_eq!(code(half.next_down()), Ok(last));
        for value in [half.next_up(), f32::MAX] {
            assert!(matches!(code(value), Err(Error::Overflow { .. })), "{value}");
        }
        assert!(matches!(code(f32::NAN), Err(Error::Param { .. })));
    }
}
