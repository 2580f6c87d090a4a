//! Philox against published vectors, and the frozen format of streams.
#![allow(clippy::unwrap_used)]

use loramix_core::Error;
use loramix_core::rng::{Stream, philox4x32};
use proptest::prelude::*;

#[test]
fn published_vectors() {
    let ones = u32::MAX;
    let cases = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (counter, key, expected) in cases {
        assert_eq!(philox4x32(counter, key), expected);
    }
}

#[test]
fn stream_format_is_frozen() {
    let cases = [
        (0, 0, 0, 0, 0x6627_e8d5),
        (0, 0, 0, 5, 0x5cb2_00db),
        (1, 2, 3, 4, 0x2126_0774),
        (0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, 65535, (1 << 50) - 1, 0x75c8_b351),
        (u64::MAX, 1 << 63, 1, (1 << 34) + 2, 0x4065_3ec8),
    ];
    for (seed, target, adapter, element, expected) in cases {
        let stream = Stream::new(seed, target, adapter).unwrap();
        assert_eq!(stream.word(element), expected);
        assert_eq!(stream.word(element.wrapping_add(1 << 50)), expected);
    }
}

#[test]
fn adapter_is_bounded() {
    assert!(Stream::new(0, 0, 65535).is_ok());
    for adapter in [65536, u32::MAX] {
        let error = Stream::new(0, 0, adapter).unwrap_err();
        assert!(matches!(error, Error::Param { name: "adapter", .. }));
    }
}

#[test]
#[allow(clippy::float_cmp)] // the values are exact
fn uniform_is_below_one() {
    assert_eq!(Stream::uniform(0), 0.0);
    assert_eq!(Stream::uniform(255), 0.0);
    assert_eq!(Stream::uniform(1 << 31), 0.5);
    assert_eq!(Stream::uniform(u32::MAX), 1.0 - 2.0_f32.powi(-24));
}

#[test]
fn uniform_is_uniform() {
    let mut words = vec![0; 1 << 18];
    Stream::new(7, 11, 2).unwrap().fill(0, &mut words);
    let mut counts = [0_i32; 16];
    for word in &words {
        counts[(Stream::uniform(*word) * 16.0) as usize] += 1;
    }
    // 2^14 in each bin on average; six standard deviations.
    assert!(counts.iter().all(|n| (n - (1 << 14)).abs() < 6 * 128));
}

proptest! {
    #[test]
    fn fill_is_word_by_word(
        seed: u64, target: u64, adapter in 0_u32..65536, len in 0_usize..150,
        first in prop_oneof![0_u64..64, any::<u64>(), u64::MAX - 100..=u64::MAX],
    ) {
        let stream = Stream::new(seed, target, adapter).unwrap();
        let mut words = vec![0; len];
        stream.fill(first, &mut words);
        for (i, word) in words.iter().enumerate() {
            prop_assert_eq!(*word, stream.word(first.wrapping_add(i as u64)));
        }
    }
}
