//! Conversion of one element, and the loops over many.
//!
//! Every body is branch-free, selects and no lookups, so it vectorises at each instruction set
//! of [`crate::dispatch`]; for FP8 that beats a table of 256 values from AVX2 on (and loses to it
//! by a third at baseline).  The loops are plain on purpose: unrolling them by hand into blocks
//! of lanes defeated the vectoriser.  F16 and FP8 give the same bits in threads that flush
//! subnormals; subnormals of F32 and bfloat16 on their way to f64 do not.  Cost: one pass, no
//! scratch.
//!
//! Source: the F16 bit tricks are F. Giesen's "`half_to_float`" and "`float_to_half`" (public
//! domain); FP8 is OCP OFP8 1.0.
#![allow(clippy::inline_always)] // what a dispatched loop calls must be compiled with it

use super::Dtype;
use super::codec::{Bf16, Codec, F8E4m3, F8E5m2, F16, F32};
use crate::dispatch::{self, Kernel};

/// f32 bits without the sign.
pub(super) const MAGNITUDE: u32 = 0x7FFF_FFFF;

/// 2^-14, the smallest normal F16, as f32 bits.
const F16_NORMAL: u32 = 0x3880_0000;
/// What moves an F16 exponent (at its place in an f32) to the f32 bias, 127 - 15.
const F16_REBIAS: u32 = 112 << 23;

/// The same two for `F8_E4M3`: 2^-6 and 127 - 7.
const E4M3_NORMAL: u32 = 0x3C80_0000;
const E4M3_REBIAS: u32 = 120 << 23;

/// Exact value of F16 bits; a signalling NaN becomes quiet, as F16C does it.
#[inline(always)]
pub(super) fn f16_to_f32(half: u16) -> f32 {
    let magnitude = (half as u32 & 0x7FFF) << 13;
    let normal = magnitude + F16_REBIAS;
    // A subnormal gets the exponent of 2^-14 and so an implicit one, which is taken off again.
    let padded = f32::from_bits(magnitude + F16_NORMAL);
    let subnormal = (padded - f32::from_bits(F16_NORMAL)).to_bits();
    let quiet = ((magnitude > 0x0F80_0000) as u32) << 22;
    let special = (magnitude + 2 * F16_REBIAS) | quiet;
    let bits = if magnitude < 0x0080_0000 {
        subnormal
    } else if magnitude < 0x0F80_0000 {
        normal
    } else {
        special
    };
    f32::from_bits(bits | ((half as u32 & 0x8000) << 16))
}

/// Nearest F16, ties to even, of a finite value below the F16 limit.
#[inline(always)]
pub(super) fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = bits & MAGNITUDE;
    // Next to 0.5 one f32 ulp is 2^-24, the F16 subnormal step: the addition does the rounding.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5_f32.to_bits();
    let odd = (magnitude >> 13) & 1;
    let rounded = magnitude.wrapping_add(0x0FFF + odd);
    let normal = rounded.wrapping_sub(F16_REBIAS) >> 13;
    let half = if magnitude < F16_NORMAL { subnormal } else { normal };
    half as u16 | ((bits >> 16) & 0x8000) as u16
}

/// Exact value of bfloat16 bits.
#[inline(always)]
pub(super) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Nearest bfloat16, ties to even, of a finite value.
#[inline(always)]
pub(super) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let odd = (bits >> 16) & 1;
    (bits.wrapping_add(0x7FFF + odd) >> 16) as u16
}

/// Exact value of an `F8_E4M3` code: bias 7, no infinities.
#[inline(always)]
pub(super) fn e4m3_to_f32(code: u8) -> f32 {
    let magnitude = (u32::from(code) & 0x7F) << 20;
    let normal = magnitude + E4M3_REBIAS;
    let padded = f32::from_bits(magnitude + E4M3_NORMAL);
    let subnormal = (padded - f32::from_bits(E4M3_NORMAL)).to_bits();
    let bits = if magnitude < 0x0080_0000 { subnormal } else { normal };
    let bits = if code & 0x7F == 0x7F { f32::NAN.to_bits() } else { bits };
    f32::from_bits(bits | ((u32::from(code) & 0x80) << 24))
}

/// Exact value of an `F8_E5M2` code, which is the upper byte of an F16.
#[inline(always)]
pub(super) fn e5m2_to_f32(code: u8) -> f32 {
    f16_to_f32(u16::from(code) << 8)
}

/// Nearest FP8 code, ties to even, of a finite value below the limit of the format.
///
/// `SHIFT` mantissa bits of an f32 go; `pad` is the power of two whose ulp is the subnormal step.
#[inline(always)]
fn f32_to_f8<const SHIFT: u32>(value: f32, rebias: u32, smallest: u32, pad: f32) -> u8 {
    let bits = value.to_bits();
    let magnitude = bits & MAGNITUDE;
    let subnormal = (f32::from_bits(magnitude) + pad).to_bits() - pad.to_bits();
    let odd = (magnitude >> SHIFT) & 1;
    let rounded = magnitude.wrapping_add((1 << (SHIFT - 1)) - 1 + odd);
    let normal = rounded.wrapping_sub(rebias) >> SHIFT;
    let code = if magnitude < smallest { subnormal } else { normal };
    code as u8 | ((bits >> 24) & 0x80) as u8
}

/// Nearest `F8_E4M3` code, ties to even, of a value of at most 464.
#[inline(always)]
pub(super) fn f32_to_e4m3(value: f32) -> u8 {
    f32_to_f8::<20>(value, E4M3_REBIAS, E4M3_NORMAL, 16_384.0) // ulp 2^-9
}

/// Nearest `F8_E5M2` code, ties to even, of a value below 61440.
#[inline(always)]
pub(super) fn f32_to_e5m2(value: f32) -> u8 {
    f32_to_f8::<21>(value, F16_REBIAS, F16_NORMAL, 128.0) // ulp 2^-16
}

/// A checked tile that is not empty: rows `pitch` bytes apart, to rows `stride` elements apart.
pub(super) struct Tile<'a, T> {
    /// From the first element of the tile on; holds at least the tile.
    pub(super) bytes: &'a [u8],
    pub(super) pitch: usize,
    pub(super) width: usize,
    /// From the first element of the tile as far as the last.
    pub(super) out: &'a mut [T],
    pub(super) stride: usize,
}

impl<T> Tile<'_, T> {
    pub(super) fn decode<const N: usize>(self, load: impl Fn([u8; N]) -> T) {
        dispatch::run(Decode { tile: self, load });
    }
}

impl<T: From<f32>> Tile<'_, T> {
    /// Decodes every type but F64, which has no exact f32.
    pub(super) fn decode_narrow(self, dtype: Dtype) {
        match dtype {
            Dtype::F64 | Dtype::F32 => self.decode(|b| T::from(F32::load(b))),
            Dtype::F16 => self.decode(|b| T::from(F16::load(b))),
            Dtype::Bf16 => self.decode(|b| T::from(Bf16::load(b))),
            Dtype::F8E4m3 => self.decode(|b| T::from(F8E4m3::load(b))),
            Dtype::F8E5m2 => self.decode(|b| T::from(F8E5m2::load(b))),
        }
    }
}

struct Decode<'a, T, F, const N: usize> {
    tile: Tile<'a, T>,
    load: F,
}

impl<T, F: Fn([u8; N]) -> T, const N: usize> Kernel for Decode<'_, T, F, N> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Tile { width, .. } = self.tile;
        let sources = self.tile.bytes.chunks(self.tile.pitch);
        for (source, target) in sources.zip(self.tile.out.chunks_mut(self.tile.stride)) {
            let source = &source.as_chunks::<N>().0[..width];
            for (element, slot) in source.iter().zip(&mut target[..width]) {
                *slot = (self.load)(*element);
            }
        }
    }
}

/// Stores floats and returns the biggest magnitude among them, as f32 bits.
///
/// `dst` has as many elements of `N` bytes as `src`.
pub(super) fn store<const N: usize>(
    src: &[f32],
    dst: &mut [u8],
    convert: impl Fn(f32) -> [u8; N],
) -> u32 {
    dispatch::run(Store { src, dst, convert })
}

struct Store<'a, F, const N: usize> {
    src: &'a [f32],
    dst: &'a mut [u8],
    convert: F,
}

impl<F: Fn(f32) -> [u8; N], const N: usize> Kernel for Store<'_, F, N> {
    type Output = u32;

    #[inline(always)]
    fn run(self) -> u32 {
        let mut peak = 0;
        for (value, slot) in self.src.iter().zip(self.dst.as_chunks_mut::<N>().0) {
            peak = peak.max(value.to_bits() & MAGNITUDE);
            *slot = (self.convert)(*value);
        }
        peak
    }
}

/// Position of the first element whose magnitude is at or above `limit`.
pub(super) fn find<U: Ord + Copy + Default, const N: usize>(
    bytes: &[u8],
    magnitude: impl Fn([u8; N]) -> U,
    limit: U,
) -> Option<usize> {
    dispatch::run(Find { bytes, magnitude, limit })
}

struct Find<'a, U, F, const N: usize> {
    bytes: &'a [u8],
    magnitude: F,
    limit: U,
}

/// Elements between two looks at the result: long enough to amortise a reduction.
const SCAN: usize = 4096;

impl<U, F, const N: usize> Kernel for Find<'_, U, F, N>
where
    U: Ord + Copy + Default,
    F: Fn([u8; N]) -> U,
{
    type Output = Option<usize>;

    #[inline(always)]
    fn run(self) -> Option<usize> {
        let elements = self.bytes.as_chunks::<N>().0;
        for (i, block) in elements.chunks(SCAN).enumerate() {
            let mut peak = U::default();
            for element in block {
                peak = peak.max((self.magnitude)(*element));
            }
            if peak >= self.limit {
                let hit = |element: &[u8; N]| (self.magnitude)(*element) >= self.limit;
                return block.iter().position(hit).map(|at| i * SCAN + at);
            }
        }
        None
    }
}
