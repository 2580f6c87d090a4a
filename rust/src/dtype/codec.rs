//! Element types one by one: their bytes, and the numbers that they stand for.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

use super::convert::{
    MAGNITUDE, bf16_to_f32, e4m3_to_f32, e5m2_to_f32, f16_to_f32, f32_to_bf16, f32_to_e4m3,
    f32_to_e5m2, f32_to_f16,
};

/// An element type of `N` bytes.
pub(crate) trait Codec<const N: usize> {
    /// Holds every number of the type.
    type Number: Copy;
    /// Magnitude from which on rounding gives infinity; see [`Codec::magnitude`].
    const LIMIT: u32;
    /// Exact.
    fn load(bytes: [u8; N]) -> Self::Number;
    /// The nearest, ties to even, of a number below the limit; of any other anything.
    fn store(number: Self::Number) -> [u8; N];
    /// Upper bits of a number without its sign: they grow with it, infinity and NaN are largest.
    fn magnitude(number: Self::Number) -> u32;
}

macro_rules! codec {
    ($name:ident, $bytes:literal, $limit:expr, $load:expr, $store:expr, $doc:literal) => {
        #[doc = $doc]
        pub(crate) struct $name;

        impl Codec<$bytes> for $name {
            type Number = f32;
            const LIMIT: u32 = $limit;

            #[inline(always)]
            fn load(bytes: [u8; $bytes]) -> f32 {
                $load(bytes)
            }

            #[inline(always)]
            fn store(number: f32) -> [u8; $bytes] {
                $store(number)
            }

            #[inline(always)]
            fn magnitude(number: f32) -> u32 {
                number.to_bits() & MAGNITUDE
            }
        }
    };
}

codec!(F32, 4, 0x7F80_0000, f32::from_le_bytes, f32::to_le_bytes, "IEEE binary32.");
codec!(
    F16,
    2,
    0x477F_F000, // 65520, half-way between 65504 and 2^16
    |b| f16_to_f32(u16::from_le_bytes(b)),
    |x| f32_to_f16(x).to_le_bytes(),
    "IEEE binary16."
);
codec!(
    Bf16,
    2,
    0x7F7F_8000, // half-way between the last one and 2^128
    |b| bf16_to_f32(u16::from_le_bytes(b)),
    |x| f32_to_bf16(x).to_le_bytes(),
    "The upper half of a binary32."
);
codec!(
    F8E4m3,
    1,
    0x43E8_0001, // next after 464, half-way from 448, which is even
    |[b]: [u8; 1]| e4m3_to_f32(b),
    |x| [f32_to_e4m3(x)],
    "OCP FP8 E4M3 without infinities."
);
codec!(
    F8E5m2,
    1,
    0x4770_0000, // 61440, half-way between 57344 and 2^16
    |[b]: [u8; 1]| e5m2_to_f32(b),
    |x| [f32_to_e5m2(x)],
    "OCP FP8 E5M2."
);

/// IEEE binary64.
pub(crate) struct F64;

impl Codec<8> for F64 {
    type Number = f64;
    const LIMIT: u32 = 0x7FF0_0000;

    #[inline(always)]
    fn load(bytes: [u8; 8]) -> f64 {
        f64::from_le_bytes(bytes)
    }

    #[inline(always)]
    fn store(number: f64) -> [u8; 8] {
        number.to_le_bytes()
    }

    #[inline(always)]
    fn magnitude(number: f64) -> u32 {
        (number.to_bits() >> 32) as u32 & MAGNITUDE
    }
}
