//! Every instruction set of this machine gives the same bits.
#![allow(clippy::unwrap_used)]

use loramix_core::dispatch::{Isa, Kernel, run, run_on, set_ceiling};
use loramix_core::dtype::{Dtype, Matrix, encode};
use loramix_core::rng::Stream;

/// A sum of products in f32, which fused arithmetic would change.
struct Axpy<'a>(&'a [f32], &'a mut [f32]);

impl Kernel for Axpy<'_> {
    type Output = usize;

    #[allow(clippy::inline_always)] // as kernels must
    #[inline(always)]
    fn run(self) -> usize {
        for (x, y) in self.0.iter().zip(self.1.iter_mut()) {
            *y += 0.1 * x;
        }
        self.1.len()
    }
}

fn noise(len: usize) -> Vec<f32> {
    let mut words = vec![0; len];
    Stream::new(1, 2, 3).unwrap().fill(0, &mut words);
    words.into_iter().map(|w| Stream::uniform(w) - 0.5).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn kernels_agree() {
    let x = noise(1001);
    let mut expected = x.clone();
    assert_eq!(run_on(Isa::Baseline, Axpy(&x, &mut expected)), Some(1001));
    for isa in Isa::ALL {
        let mut y = x.clone();
        let ran = run_on(isa, Axpy(&x, &mut y));
        assert_eq!(ran.is_some(), isa.supported());
        let want = if isa.supported() { &expected } else { &x };
        assert_eq!(bits(&y), bits(want), "{isa:?}");
    }
    let mut y = x.clone();
    run(Axpy(&x, &mut y));
    assert_eq!(bits(&y), bits(&expected));
}

/// All results of the dispatched loops of this crate, as bytes.
fn everything() -> Vec<u8> {
    let mut result = Vec::new();
    let mut words = vec![0; 4099];
    Stream::new(5, 6, 7).unwrap().fill(3, &mut words);
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    for dtype in Dtype::ALL {
        let (rows, cols) = (9, 217);
        let matrix = Matrix::new(dtype, rows, cols, &bytes[1..=rows * cols * dtype.size()]);
        let matrix = matrix.unwrap();
        let mut wide = vec![0.0_f64; rows * 230];
        matrix.decode_f64(1..9, 3..210, &mut wide, 230).unwrap();
        result.extend(wide.iter().flat_map(|x| x.to_bits().to_le_bytes()));
        let mut narrow = vec![0.0_f32; rows * cols];
        if dtype != Dtype::F64 {
            matrix.decode_f32(0..9, 0..217, &mut narrow, 217).unwrap();
        }
        result.extend(narrow.iter().flat_map(|x| x.to_bits().to_le_bytes()));
        result.extend(format!("{:?}", matrix.find_non_finite()).bytes());
    }
    let source = noise(1003);
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let mut stored = vec![0; source.len() * dtype.size()];
        encode(dtype, &source, &mut stored).unwrap();
        result.extend(stored);
    }
    result.extend(bytes);
    result
}

#[test]
fn crate_kernels_agree() {
    let results = Isa::ALL.map(|isa| {
        set_ceiling(isa);
        assert!(Isa::best() <= isa && Isa::best().supported());
        everything()
    });
    assert!(results[0] == results[1], "AVX2");
    assert!(results[0] == results[2], "AVX-512");
}
