//! Compiles one loop body for several instruction sets and picks the widest at run time.
//!
//! Wheels target baseline x86-64, so plain loops stay at 128-bit vectors.  A [`Kernel`] is a body
//! that the compiler builds again with AVX2 and AVX-512 switched on; [`run`] chooses per call.
//! Cost: a few relaxed loads per call, so call it per tile or row block, not per element.
//!
//! Bits are equal between instruction sets: the compiler vectorises only what keeps IEEE results
//! (no reassociation), and FMA, the one feature that would tempt a body to change them, is never
//! switched on in the AVX2 build and never emitted without an explicit `mul_add`.
#![allow(unsafe_code)] // a feature-gated call is unsafe until the CPU was asked; `bf16` has such calls, too

use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that kernels are compiled for, narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Isa {
    /// What every machine of the target architecture has.
    Baseline,
    /// 256-bit integer and float vectors.
    Avx2,
    /// 512-bit vectors: F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// Every instruction set, narrowest first.
    pub const ALL: [Self; 3] = [Self::Baseline, Self::Avx2, Self::Avx512];

    /// Whether this machine can run it.
    #[cfg(target_arch = "x86_64")]
    pub fn supported(self) -> bool {
        let avx2 = || is_x86_feature_detected!("avx2");
        let avx512 = || {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
        };
        match self {
            Self::Baseline => true,
            Self::Avx2 => avx2(),
            Self::Avx512 => avx2() && avx512(),
        }
    }

    /// Whether this machine can run it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn supported(self) -> bool {
        self == Self::Baseline
    }

    /// The widest one that this machine has and [`set_ceiling`] admits.
    pub fn best() -> Self {
        let ceiling = CEILING.load(Ordering::Relaxed);
        let admitted = |isa: &Self| *isa as u8 <= ceiling && isa.supported();
        Self::ALL.into_iter().rev().find(admitted).unwrap_or(Self::Baseline)
    }
}

static CEILING: AtomicU8 = AtomicU8::new(Isa::Avx512 as u8);

/// Caps what [`run`] chooses, for tests and benches that compare instruction sets.
///
/// Process-wide so that it reaches worker threads; a race changes speed, and bits only of products of
/// bf16 numbers, whose instruction counts as one of the widest set.
pub fn set_ceiling(isa: Isa) {
    CEILING.store(isa as u8, Ordering::Relaxed);
}

/// A loop to be compiled once per instruction set.
///
/// A struct with a method and not a closure: only a method can be `#[inline(always)]`, and a body
/// that is not inlined keeps baseline code.  What it calls should be `#[inline(always)]` too.
pub trait Kernel {
    /// What the loop returns.
    type Output;

    /// The body.
    fn run(self) -> Self::Output;
}

/// Runs the kernel on the widest instruction set of this machine.
pub fn run<K: Kernel>(kernel: K) -> K::Output {
    on(Isa::best(), kernel)
}

/// Runs the kernel on one instruction set; `None` where the machine lacks it.
pub fn run_on<K: Kernel>(isa: Isa, kernel: K) -> Option<K::Output> {
    isa.supported().then(|| on(isa, kernel))
}

/// Callers in this module pass only an `isa` that is supported.
#[cfg(target_arch = "x86_64")]
fn on<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        Isa::Baseline => kernel.run(),
        // SAFETY: `isa` comes from `best` or past `supported`, so the CPU has AVX2.
        Isa::Avx2 => unsafe { on_avx2(kernel) },
        // SAFETY: as above, the CPU has AVX2 and AVX-512 F, BW, DQ and VL.
        Isa::Avx512 => unsafe { on_avx512(kernel) },
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn on<K: Kernel>(_: Isa, kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn on_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
fn on_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}
