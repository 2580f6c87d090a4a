//! Element types of files, views of a file's bytes, and tiles of them as floats.
//!
//! Decoding is exact for every type; encoding rounds to nearest, ties to even.  Cost: one pass
//! over the tile, no scratch; bytes may lie at any alignment.
//!
//! Source: IEEE 754-2019 (F64, F32, F16); OCP OFP8 1.0 for `F8_E4M3` (the "fn" variant: no
//! infinities, NaN is `0x7f` and `0xff`) and `F8_E5M2`.

pub(crate) mod codec;
mod convert;

use std::ops::Range;

use self::codec::{Bf16, Codec, F8E4m3, F8E5m2, F16, F32};
use self::convert::{MAGNITUDE, Tile, find, store};
use crate::error::{Error, Result};

/// An element type that the library reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of a binary32.
    Bf16,
    /// OCP FP8 E4M3 without infinities.
    F8E4m3,
    /// OCP FP8 E5M2: the upper half of a binary16.
    F8E5m2,
}

impl Dtype {
    /// Every type.
    pub const ALL: [Self; 6] =
        [Self::F64, Self::F32, Self::F16, Self::Bf16, Self::F8E4m3, Self::F8E5m2];

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::F8E4m3 | Self::F8E5m2 => 1,
        }
    }

    /// The name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F8E4m3 => "F8_E4M3",
            Self::F8E5m2 => "F8_E5M2",
        }
    }

    /// The type of a safetensors name.
    ///
    /// # Errors
    /// [`Error::Dtype`] for any other name.
    pub fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|dtype| dtype.name() == name);
        found.ok_or_else(|| Error::Dtype {
            got: name.to_owned(),
            allowed: "F64, F32, F16, BF16, F8_E4M3, F8_E5M2",
        })
    }
}

/// A borrowed row-major matrix: little-endian elements at any alignment.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    bytes: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// A view of `rows * cols` elements.
    ///
    /// # Errors
    /// [`Error::Shape`] if `bytes` has not exactly that length.
    pub fn new(dtype: Dtype, rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self> {
        let count = rows.checked_mul(cols);
        let size = count.and_then(|count| count.checked_mul(dtype.size()));
        if size != Some(bytes.len()) {
            let expected = format!("{rows} x {cols} elements of {}", dtype.name());
            return Err(shape("bytes", expected, &format!("{} bytes", bytes.len())));
        }
        Ok(Self { dtype, rows, cols, bytes })
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The bytes, row after row.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Decodes a tile; its row `i` begins at `out[i * stride]`.  Gaps of `out` are left alone.
    ///
    /// # Errors
    /// [`Error::Shape`] if the tile leaves the matrix, its rows overlap or `out` is too short;
    /// [`Error::Dtype`] for F64, because rounding is not decoding: use [`Matrix::decode_f64`].
    pub fn decode_f32(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) -> Result<()> {
        if self.dtype == Dtype::F64 {
            return Err(Error::Dtype {
                got: "F64".to_owned(),
                allowed: "F32, F16, BF16, F8_E4M3, F8_E5M2 (F64 decodes to f64 only)",
            });
        }
        let Some(tile) = self.tile(rows, cols, out, stride)? else {
            return Ok(());
        };
        tile.decode_narrow(self.dtype);
        Ok(())
    }

    /// Decodes a tile as [`Matrix::decode_f32`] does, to f64, from every type.
    ///
    /// # Errors
    /// [`Error::Shape`] as there.
    pub fn decode_f64(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f64],
        stride: usize,
    ) -> Result<()> {
        let Some(tile) = self.tile(rows, cols, out, stride)? else {
            return Ok(());
        };
        match self.dtype {
            Dtype::F64 => tile.decode(f64::from_le_bytes),
            _ => tile.decode_narrow(self.dtype),
        }
        Ok(())
    }

    /// Row and column of the first NaN or infinity, in row-major order.
    pub fn find_non_finite(&self) -> Option<(usize, usize)> {
        let bytes = self.bytes;
        let at = match self.dtype {
            Dtype::F64 => {
                let magnitude = |b| u64::from_le_bytes(b) & (u64::MAX >> 1);
                find(bytes, magnitude, 0x7FF0_0000_0000_0000)
            }
            Dtype::F32 => find(bytes, |b| u32::from_le_bytes(b) & MAGNITUDE, F32::LIMIT),
            Dtype::F16 => find(bytes, |b| u16::from_le_bytes(b) & 0x7FFF, 0x7C00),
            Dtype::Bf16 => find(bytes, |b| u16::from_le_bytes(b) & 0x7FFF, 0x7F80),
            Dtype::F8E4m3 => find(bytes, |[b]| b & 0x7F, 0x7F),
            Dtype::F8E5m2 => find(bytes, |[b]| b & 0x7F, 0x7C),
        };
        at.map(|at| (at / self.cols, at % self.cols))
    }

    /// Checks a tile and cuts its input and output; `None` if it is empty.
    fn tile<'t, T>(
        &'t self,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &'t mut [T],
        stride: usize,
    ) -> Result<Option<Tile<'t, T>>> {
        check_range("rows", &rows, self.rows)?;
        check_range("cols", &cols, self.cols)?;
        let (height, width) = (rows.len(), cols.len());
        if height == 0 || width == 0 {
            return Ok(None);
        }
        if height > 1 && stride < width {
            return Err(shape("stride", format!("at least {width}"), &stride));
        }
        let end = (height - 1).checked_mul(stride);
        let end = end.and_then(|last| last.checked_add(width));
        let got = out.len();
        let fits = end.and_then(|end| out.get_mut(..end));
        let Some(out) = fits else {
            let expected = format!("{height} rows of {width}, {stride} apart");
            return Err(shape("out", expected, &got));
        };
        let size = self.dtype.size();
        let mut tile = Tile {
            bytes: &self.bytes[(rows.start * self.cols + cols.start) * size..],
            pitch: self.cols * size,
            width,
            out,
            stride: stride.max(width),
        };
        if width == self.cols && stride == width {
            // One long row: a factor of rank 8 would not fill the vectors row by row.
            tile.width = height * width;
            tile.pitch = tile.width * size;
            tile.stride = tile.width;
        }
        Ok(Some(tile))
    }
}

fn check_range(what: &'static str, range: &Range<usize>, len: usize) -> Result<()> {
    if range.start <= range.end && range.end <= len {
        return Ok(());
    }
    let expected = format!("a range within 0..{len}");
    Err(shape(what, expected, &format!("{range:?}")))
}

fn shape(what: &'static str, expected: String, got: &impl ToString) -> Error {
    Error::Shape { what, expected, got: got.to_string() }
}

/// Rounds `src` to `dtype`, ties to even; `dst` is unspecified after an error.
///
/// # Errors
/// [`Error::Shape`] if `dst` has not exactly as many elements; at the first bad value [`Error::Overflow`] or, if it is NaN or infinite, [`Error::Param`].
pub fn encode(dtype: Dtype, src: &[f32], dst: &mut [u8]) -> Result<()> {
    if src.len().checked_mul(dtype.size()) != Some(dst.len()) {
        let expected = format!("{} elements of {}", src.len(), dtype.name());
        return Err(shape("dst", expected, &format!("{} bytes", dst.len())));
    }
    let (peak, limit) = match dtype {
        Dtype::F64 => (store(src, dst, |x| f64::from(x).to_le_bytes()), F32::LIMIT),
        Dtype::F32 => (store(src, dst, F32::store), F32::LIMIT),
        Dtype::F16 => (store(src, dst, F16::store), F16::LIMIT),
        Dtype::Bf16 => (store(src, dst, Bf16::store), Bf16::LIMIT),
        Dtype::F8E4m3 => (store(src, dst, F8E4m3::store), F8E4m3::LIMIT),
        Dtype::F8E5m2 => (store(src, dst, F8E5m2::store), F8E5m2::LIMIT),
    };
    if peak < limit {
        return Ok(());
    }
    let over = src.iter().find(|x| x.to_bits() & MAGNITUDE >= limit);
    over.map_or(Ok(()), |&value| Err(refusal(value, dtype)))
}

fn refusal(value: f32, dtype: Dtype) -> Error {
    if value.is_finite() {
        return Error::Overflow { value, dtype: dtype.name() };
    }
    Error::Param { name: "value", value: value.to_string(), allowed: "finite numbers" }
}
