//! Throughput of every kernel, beside what the machine can do at all: a memcpy row (bytes) and an
//! sgemm row (flops), one thread.  `cargo bench --manifest-path rust/Cargo.toml`.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use faer::{Accum, Mat, Par, linalg::matmul::matmul};
use loramix_core::condense::{Part, approximate, condense};
use loramix_core::dispatch::{Isa, set_ceiling};
use loramix_core::dtype::{Dtype, Matrix, encode};
use loramix_core::elementwise::ranked::Ranking;
use loramix_core::elementwise::{Factored, Keep, Prepared, Program, Reduce, Selfish, Vote, owners};
use loramix_core::group::{Group, Member};
use loramix_core::recompress::{Rule, capacity, recompress};
use loramix_core::rng::Stream;
use loramix_core::{dense, expand, gram, probe, statistics, whole};

const SIDE: usize = 1280;
const RANKS: [usize; 3] = [8, 32, 128];
const COUNT: usize = 3;

/// Small finite numbers, encoded.
fn values(dtype: Dtype, len: usize, target: u64) -> Vec<u8> {
    let mut words = vec![0u32; len];
    Stream::new(1, target, 0)
        .expect("adapter 0")
        .fill(0, &mut words);
    if dtype.size() == 1 {
        return words.iter().map(|w| (w & 0x3f) as u8).collect();
    }
    let floats: Vec<f32> = words
        .iter()
        .map(|w| (*w >> 8) as f32 / 16_777_216.0 - 0.5)
        .collect();
    let mut bytes = vec![0; len * dtype.size()];
    encode(dtype, &floats, &mut bytes).expect("small numbers");
    bytes
}

/// Sums of twelve random numbers, nearly normal.
fn normal(len: usize) -> Vec<f32> {
    let stream = Stream::new(2, 0, 0).expect("adapter 0");
    let mut words = vec![0u32; 12 * len];
    stream.fill(0, &mut words);
    let uniform = |word: &u32| Stream::uniform(*word) - 0.5;
    words
        .chunks_exact(12)
        .map(|c| c.iter().map(uniform).sum())
        .collect()
}

/// Bytes of `COUNT` bf16 pairs of square targets: up and down in turn.
fn factors(rank: usize) -> Vec<Vec<u8>> {
    (0..2 * COUNT as u64)
        .map(|i| values(Dtype::Bf16, SIDE * rank, i))
        .collect()
}

fn group(bytes: &[Vec<u8>], rank: usize) -> Group<'_> {
    let members = bytes.chunks_exact(2).map(|pair| Member {
        up: Matrix::new(Dtype::Bf16, SIDE, rank, &pair[0]).expect("sizes"),
        down: Matrix::new(Dtype::Bf16, rank, SIDE, &pair[1]).expect("sizes"),
        factor: 0.5,
        row_start: 0,
    });
    Group::new(SIDE, SIDE, members.collect()).expect("sizes")
}

/// f32 bytes per second of decoding and encoding tiles, and of copying them.
fn codecs(c: &mut Criterion) {
    let (rows, cols) = (256, 1024);
    let mut bench = c.benchmark_group("codec");
    bench.throughput(Throughput::Bytes((rows * cols * 4) as u64));
    let source = vec![1f32; rows * cols];
    let mut out = vec![0f32; rows * cols];
    bench.bench_function("memcpy", |b| {
        b.iter(|| out.copy_from_slice(black_box(&source)));
    });
    for dtype in Dtype::ALL.into_iter().filter(|d| *d != Dtype::F64) {
        let bytes = values(dtype, rows * cols, 0);
        let matrix = Matrix::new(dtype, rows, cols, &bytes).expect("sizes");
        bench.bench_function(BenchmarkId::new("decode", dtype.name()), |b| {
            b.iter(|| black_box(&matrix).decode_f32(0..rows, 0..cols, &mut out, cols));
        });
    }
    for dtype in Dtype::ALL {
        let mut bytes = vec![0; rows * cols * dtype.size()];
        bench.bench_function(BenchmarkId::new("encode", dtype.name()), |b| {
            b.iter(|| encode(dtype, black_box(&source), &mut bytes));
        });
    }
    let bytes = values(Dtype::Bf16, rows * cols, 0);
    let matrix = Matrix::new(Dtype::Bf16, rows, cols, &bytes).expect("sizes");
    bench.bench_function("find non-finite, BF16", |b| {
        b.iter(|| black_box(&matrix).find_non_finite());
    });
    let stream = Stream::new(0, 0, 0).expect("adapter 0");
    let mut words = vec![0u32; rows * cols];
    for isa in Isa::ALL.into_iter().filter(|isa| isa.supported()) {
        set_ceiling(isa);
        bench.bench_function(BenchmarkId::new("random words", format!("{isa:?}")), |b| {
            b.iter(|| stream.fill(black_box(0), &mut words));
        });
    }
    bench.finish();
}

/// Flops per second, as elements: the useful ones (one triangle of a Gram matrix).
fn algebra(c: &mut Criterion) {
    let mut bench = c.benchmark_group("flops");
    let square = Mat::<f32>::from_fn(SIDE, SIDE, |i, j| ((i * 7 + j) % 13) as f32);
    let mut product = Mat::<f32>::zeros(SIDE, SIDE);
    bench.sample_size(20);
    bench.throughput(Throughput::Elements(2 * (SIDE * SIDE * SIDE) as u64));
    bench.bench_function("sgemm", |b| {
        b.iter(|| {
            matmul(
                &mut product,
                Accum::Replace,
                black_box(&square),
                &square,
                1.0,
                Par::Seq,
            );
        });
    });
    for rank in RANKS {
        let (bytes, stacked) = (factors(rank), COUNT * rank);
        let group = group(&bytes, rank);
        let triangle = (stacked * (stacked + 1)) as u64;
        bench.throughput(Throughput::Elements(2 * SIDE as u64 * triangle));
        bench.bench_function(BenchmarkId::new("gram", rank), |b| {
            b.iter(|| gram::gram(black_box(&group)));
        });
        let mut dense = vec![0f32; SIDE * SIDE];
        bench.throughput(Throughput::Elements(2 * (SIDE * SIDE * stacked) as u64));
        bench.bench_function(BenchmarkId::new("expand", rank), |b| {
            b.iter(|| expand::expand(black_box(&group), 0..SIDE, &mut dense));
        });
    }
    bench.finish();
}

/// Bytes of factors per second through the compound kernels.
fn passes(c: &mut Criterion) {
    let mut bench = c.benchmark_group("passes");
    bench.sample_size(20);
    for rank in RANKS {
        let bytes = factors(rank);
        let group = group(&bytes, rank);
        bench.throughput(Throughput::Bytes(
            bytes.iter().map(|b| b.len() as u64).sum(),
        ));
        for (name, rule) in [
            ("exact", Rule::default()),
            (
                "to rank",
                Rule {
                    rank: Some(rank),
                    ..Rule::default()
                },
            ),
        ] {
            let mut out = vec![0; capacity(&group, &rule, Dtype::Bf16)];
            bench.bench_function(BenchmarkId::new(name, rank), |b| {
                b.iter(|| recompress(black_box(&group), &rule, Dtype::Bf16, &mut out));
            });
        }
        let stream = Stream::new(0, 0, 0).expect("adapter 0");
        bench.bench_function(BenchmarkId::new("verify", rank), |b| {
            b.iter(|| probe::difference(black_box(&group), &group, &stream));
        });
    }
    let deltas: Vec<Vec<u8>> = (0..3).map(|i| values(Dtype::Bf16, 1 << 22, i)).collect();
    let row = |bytes: &'_ Vec<u8>| bytes.len() / 2;
    let views: Vec<Matrix<'_>> = deltas
        .iter()
        .map(|bytes| Matrix::new(Dtype::Bf16, 1, row(bytes), bytes).expect("sizes"))
        .collect();
    bench.throughput(Throughput::Bytes(3 << 23));
    bench.bench_function("dense gram", |b| b.iter(|| dense::gram(black_box(&views))));
    let mut out = vec![0; 1 << 23];
    bench.bench_function("dense combine", |b| {
        b.iter(|| dense::combine(black_box(&views), &[1.0, 0.5, -0.25], Dtype::Bf16, &mut out));
    });
    bench.finish();
}

/// Entries of a delta per second through elementwise methods.
fn programs(c: &mut Criterion) {
    let mut bench = c.benchmark_group("entries");
    bench.sample_size(10);
    bench.throughput(Throughput::Elements((SIDE * SIDE) as u64));
    let bytes = factors(32);
    let group = group(&bytes, 32);
    let weights = vec![1.0; COUNT];
    let source = Factored::new(&group, weights.clone()).expect("sizes");
    let largest = Keep::Largest {
        density: 0.2,
        skip: 0.0,
    };
    let random = Keep::Random {
        density: 0.5,
        divisor: 0.5,
    };
    let mut out = vec![0f32; SIDE * SIDE];
    for (name, keep) in [("all", Keep::All), ("largest", largest), ("random", random)] {
        let program = Program {
            keep,
            vote: Vote::Mass,
            reduce: Reduce::Mean,
            ..Program::default()
        };
        bench.bench_function(BenchmarkId::new("vote and mean", name), |b| {
            b.iter(|| Prepared::new(&program, black_box(&source)).and_then(|p| p.run(&mut out)));
        });
    }
    let selfish = |published| Selfish {
        lambda: 3.0,
        published,
        level: !published,
    };
    for (name, published) in [("tall", false), ("published", true)] {
        let program = Program {
            selfish: Some(selfish(published)),
            reduce: Reduce::Average,
            ..Program::default()
        };
        bench.bench_function(BenchmarkId::new("selfish", name), |b| {
            b.iter(|| Prepared::new(&program, black_box(&source)).and_then(|p| p.run(&mut out)));
        });
    }
    bench.finish();
}

/// Entries of a delta per second through the statistics of three members, 2 * 96 flops each.
fn measures(c: &mut Criterion) {
    let mut bench = c.benchmark_group("statistics");
    bench.sample_size(20);
    let bytes = factors(32);
    let group = group(&bytes, 32);
    for (name, samples) in [("sampled", Some(384)), ("exact", None)] {
        let side = SIDE.min(samples.unwrap_or(SIDE)) as u64;
        bench.throughput(Throughput::Elements(side * side));
        bench.bench_function(BenchmarkId::new("all", name), |b| {
            b.iter(|| statistics::statistics(black_box(&group), 1, samples));
        });
    }
    bench.finish();
}

/// Entries of dense deltas per second: which are an adapter's own, and their ranks in the row.
fn decisions(c: &mut Criterion) {
    let mut bench = c.benchmark_group("entries");
    bench.sample_size(10);
    bench.throughput(Throughput::Elements((SIDE * SIDE) as u64));
    let weights = vec![1.0; COUNT];
    let dense: Vec<Vec<u8>> = (0..COUNT as u64)
        .map(|i| values(Dtype::F32, SIDE * SIDE, i))
        .collect();
    let rows: Vec<Matrix<'_>> = dense
        .iter()
        .map(|bytes| Matrix::new(Dtype::F32, 1, SIDE * SIDE, bytes).expect("sizes"))
        .collect();
    let mut masks = vec![0; COUNT * SIDE * SIDE];
    bench.bench_function("masks of selfish entries", |b| {
        b.iter(|| owners(black_box(&rows), &weights, 3.0, &mut masks));
    });
    bench.bench_function("della ranks", |b| {
        let ranking = Ranking {
            density: 0.7,
            spread: 0.3,
        };
        let deltas = normal(SIDE * SIDE);
        let mut words = vec![0u32; SIDE * SIDE];
        let stream = Stream::new(0, 0, 0).expect("adapter 0");
        stream.fill(0, &mut words);
        b.iter_batched_ref(
            || deltas.clone(),
            |values| ranking.apply(SIDE, values, &words),
            BatchSize::LargeInput,
        );
    });
    bench.finish();
}

/// Entries of whole targets per second: as factors, and as they are.
fn steps(c: &mut Criterion) {
    let mut bench = c.benchmark_group("entries");
    bench.sample_size(10);
    bench.throughput(Throughput::Elements((SIDE * SIDE) as u64));
    let bytes = factors(32);
    let group = group(&bytes, 32);
    let weights = vec![1.0; COUNT];
    let program = Program {
        keep: Keep::Largest {
            density: 0.2,
            skip: 0.0,
        },
        vote: Vote::Mass,
        reduce: Reduce::Mean,
        ..Program::default()
    };
    let rule = Rule {
        rank: Some(96),
        ..Rule::default()
    };
    let streams = [0, 1].map(|adapter| Stream::new(0, 0, adapter).expect("two adapters"));
    let both = (&streams[0], &streams[1]);
    let (mut scratch, mut factors) = (Vec::new(), vec![0; 2 * SIDE * 96 * 2]);
    bench.bench_function("ties to rank 96", |b| {
        b.iter(|| {
            let part = Part {
                group: &group,
                weights: weights.clone(),
                program: program.clone(),
                row_start: 0,
            };
            condense(
                &[part],
                SIDE,
                &rule,
                Dtype::Bf16,
                both,
                &mut scratch,
                &mut factors,
            )
        });
    });
    let mut dense = vec![0; SIDE * SIDE * 2];
    bench.bench_function("ties, dense f16", |b| {
        b.iter(|| {
            let part = Part {
                group: &group,
                weights: weights.clone(),
                program: program.clone(),
                row_start: 0,
            };
            whole::write(&[part], SIDE, both, Dtype::F16, &mut scratch, &mut dense)
        });
    });
    bench.finish();
}

/// Flops per second of the two products over a dense result that make its factors.
fn factorings(c: &mut Criterion) {
    let mut bench = c.benchmark_group("flops");
    bench.sample_size(10);
    let bytes = factors(32);
    let group = group(&bytes, 32);
    let weights = vec![1.0; COUNT];
    let source = Factored::new(&group, weights.clone()).expect("sizes");
    let program = Program {
        keep: Keep::Largest {
            density: 0.2,
            skip: 0.0,
        },
        vote: Vote::Mass,
        reduce: Reduce::Mean,
        ..Program::default()
    };
    let streams = [0, 1].map(|adapter| Stream::new(0, 0, adapter).expect("two adapters"));
    let (mut out, mut factors) = (vec![0f32; SIDE * SIDE], vec![0; 2 * SIDE * 96 * 2]);
    Prepared::new(&program, &source)
        .and_then(|p| p.run(&mut out))
        .expect("sizes");
    for (kept, columns) in [(32, 64 + 40), (96, 104 + 104)] {
        let part = Part {
            group: &group,
            weights: weights.clone(),
            program: program.clone(),
            row_start: 0,
        };
        let parts = [part];
        let rule = Rule {
            rank: Some(kept),
            ..Rule::default()
        };
        bench.throughput(Throughput::Elements((2 * SIDE * SIDE * columns) as u64));
        bench.bench_function(BenchmarkId::new("factors of a dense result", kept), |b| {
            b.iter(|| {
                approximate(
                    black_box(&parts),
                    SIDE,
                    &rule,
                    Dtype::Bf16,
                    (&streams[0], &streams[1]),
                    &out,
                    &mut factors,
                )
            });
        });
    }
    bench.finish();
}

/// Everything on one thread: shares of one core's limits.
fn single(c: &mut Criterion) {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread();
    pool.build_global().expect("the first pool");
    codecs(c);
    algebra(c);
    passes(c);
    programs(c);
    measures(c);
    decisions(c);
    steps(c);
    factorings(c);
}

criterion_group!(benches, single);
criterion_main!(benches);
