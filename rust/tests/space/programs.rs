//! Programs in joint bases.

use crate::support::*;
use crate::ties::ties_in;
use loramix_core::Error;
use loramix_core::condense::Part;
use loramix_core::dtype::Dtype;
use loramix_core::elementwise::{Keep, Program, Side};
use loramix_core::probe;
use loramix_core::project::{Projected, Space, kept, project};
use loramix_core::recompress::{Rule, recompress};
use loramix_core::space::cores;

#[test]
fn a_program_that_keeps_all_gives_the_weighted_sum() {
    for (name, rows, pairs) in kinds() {
        for space in SPACES {
            let job = Job::new(rows, &pairs, SUM);
            let meant = sum(rows, &job.pairs);
            let size: f64 = job.pairs.iter().map(|p| p.dense(rows).norm()).sum();
            let (found, written, _) =
                projected(std::slice::from_ref(&job), rows, space, &Rule::default()).unwrap();
            assert_close(&written, &meant, 4e-6 * size, name);
            assert!((found.done.norm - meant.norm()).abs() < 4e-6 * size, "{name}");
            assert_account(&found.account, rows, &job.pairs, &written, name);
            let (right, left) = keys();
            let sketch = probe::sketch(&group(rows, &job.pairs), &right, &left).unwrap();
            for (x, y) in found.sketch.iter().zip(&sketch) {
                assert!((x - y).abs() < 2e-4 * size, "{name}: {x} {y}");
            }
        }
    }
}

#[test]
fn one_adapter_alone_is_its_delta_to_the_bit() {
    let one = Pair::new(14, 11, 3, 1).times(0.7);
    let mut plain = vec![0; 25 * 3 * 4];
    recompress(&group(14, std::slice::from_ref(&one)), &Rule::default(), Dtype::F32, &mut plain)
        .unwrap();
    for space in SPACES {
        let job = Job::new(14, std::slice::from_ref(&one), SUM);
        let (_, _, out) = projected(&[job], 14, space, &Rule::default()).unwrap();
        assert!(out == plain);
    }
}

#[test]
fn a_program_in_a_space_is_homogeneous_and_odd() {
    let pairs = separated(20, 16);
    let of = |space, weights: [f64; 3], program| {
        let job = Job::weighted(0, 20, &pairs, &weights, program);
        projected(&[job], 20, space, &Rule::default()).unwrap().1
    };
    let random = Program { keep: Keep::Random { density: 0.5, divisor: 0.5 }, ..TIES };
    for space in SPACES {
        for program in [TIES, random.clone()] {
            let one = of(space, [1.0, -0.7, 0.4], program.clone());
            for by in [-1.0, 3.0, -0.01] {
                let other = of(space, [by, -0.7 * by, 0.4 * by], program.clone());
                let expected = one.scaled(by);
                assert_close(&other, &expected, 1e-5 * expected.norm(), "scaled");
            }
        }
        let equal = vec![pairs[0].clone(); 3];
        let keep_all = Program { keep: Keep::All, ..TIES };
        let job = Job::weighted(0, 20, &equal, &[0.5; 3], keep_all);
        let (_, written, _) = projected(&[job], 20, space, &Rule::default()).unwrap();
        let expected = pairs[0].dense(20).scaled(0.5);
        assert_close(&written, &expected, 1e-5 * expected.norm(), "equal adapters");
    }
}

#[test]
fn parts_stand_where_they_belong() {
    let pairs = separated(20, 16);
    let alone = [Pair::new(7, 16, 2, 40)];
    for space in SPACES {
        let jobs = [
            Job::at(25, 20, &pairs, TIES),
            Job::at(2, 7, &alone, SUM),
            Job::at(9, 14, &[Pair::new(14, 16, 2, 41), Pair::new(3, 16, 1, 42).at_row(4)], SUM),
        ];
        let (found, written, _) = projected(&jobs, 47, space, &Rule::default()).unwrap();
        let members = jobs
            .iter()
            .flat_map(|job| job.pairs.iter().map(|p| p.at_row(p.row_start + job.row_start)));
        let members: Vec<Pair> = members.collect();
        let mut meant = sum(47, &members[3..]);
        let top = ties_in(space, 20, &jobs[0].pairs, &jobs[0].weights, 9);
        meant.data[25 * 16..45 * 16].copy_from_slice(&top.data);
        assert_close(&written, &meant, 1e-4 * meant.norm(), "parts");
        assert_account(&found.account, 47, &members, &written, "parts");
    }
}

#[test]
fn nothing_in_a_space_is_rank_one_of_zeros() {
    let zero = Pair::of(&[0.0; 20], &[1.0; 14], 2);
    for space in SPACES {
        for pairs in [vec![zero.clone(), zero.clone()], vec![zero.clone()]] {
            for program in [TIES, SUM] {
                let job = Job::new(10, &pairs, program);
                let (found, written, _) = projected(&[job], 10, space, &Rule::default()).unwrap();
                assert_eq!((found.done.rank, found.done.norm.to_bits()), (1, 0));
                assert!(written.data.iter().all(|x| *x == 0.0));
                assert!(found.account.along.iter().all(|x| *x == 0.0));
            }
        }
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let pairs = [Pair::new(10, 12, 2, 1), Pair::new(10, 12, 3, 2)];
    let narrow = [Pair::new(10, 8, 2, 1)];
    let job = |row_start| Job::at(row_start, 10, &pairs, TIES);
    let refused = |jobs: &[Job], rows: usize| {
        let found = projected(jobs, rows, Space::Core, &Rule::default()).err();
        assert!(matches!(found, Some(Error::Shape { .. })), "{found:?}");
    };
    assert!(projected(&[job(0), job(10)], 20, Space::Core, &Rule::default()).is_ok());
    refused(&[job(0), job(9)], 20);
    refused(&[job(0), job(0)], 20);
    refused(&[job(1)], 10);
    refused(&[job(usize::MAX)], 10);
    refused(&[job(0), Job::at(10, 10, &narrow, SUM)], 20);
    for weights in [vec![], vec![1.0], vec![1.0; 3]] {
        refused(&[Job { weights, ..job(0) }], 10);
    }
    for sides in [vec![Side::Around], vec![Side::Low; 3]] {
        refused(&[Job::at(0, 10, &pairs, Program { sides, ..TIES })], 10);
    }
    let (right, left) = keys();
    let none =
        project(&[], 5, Space::Core, &Rule::default(), Dtype::F32, (&right, &left), &mut [0; 99]);
    assert!(matches!(none, Err(Error::Shape { .. })));
    let group = group(10, &pairs);
    let part = Part { group: &group, weights: vec![1.0; 2], program: SUM, row_start: 0 };
    let program = Program { sides: vec![Side::All, Side::Around], ..TIES };
    for space in SPACES {
        let few =
            Part { group: &group, weights: vec![1.0], program: program.clone(), row_start: 0 };
        assert!(matches!(kept(&few, space), Err(Error::Shape { what: "weights", .. })));
    }
    let rule = with_rank(1);
    let short =
        project(&[part], 10, Space::Knots, &rule, Dtype::F32, (&right, &left), &mut [0; 87]);
    assert!(matches!(short, Err(Error::Shape { .. })));
    let program = Program { keep: Keep::Largest { density: 0.0, skip: 0.0 }, ..TIES };
    let found = projected(&[Job { program, ..job(0) }], 10, Space::Core, &Rule::default()).err();
    assert!(matches!(found, Some(Error::Param { name: "density", .. })));
    let found = projected(&[job(0)], 10, Space::Core, &with_rank(0)).err();
    assert!(matches!(found, Some(Error::Param { name: "rank", .. })));
}

#[test]
fn factors_that_are_no_numbers_are_named_across_parts() {
    let bad = Pair::of(&[1.0; 10], &[f32::INFINITY; 12], 1);
    let fine = [Pair::new(10, 12, 2, 1), Pair::new(10, 12, 3, 2)];
    let jobs = [Job::at(0, 10, &fine, TIES), Job::at(10, 10, &[fine[0].clone(), bad], TIES)];
    for space in SPACES {
        let found = projected(&jobs, 20, space, &Rule::default()).err();
        assert_eq!(found, Some(Error::NonFinite { member: 3, side: "down" }));
    }
}

#[test]
fn results_beyond_f32_are_refused() {
    let pairs = [Pair::new(10, 12, 2, 1).times(1e100), Pair::new(10, 12, 3, 2)];
    for space in SPACES {
        let found = projected(&[Job::new(10, &pairs, TIES)], 10, space, &Rule::default()).err();
        assert!(matches!(found, Some(Error::Overflow { .. })), "{found:?}");
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    let (rows, cols) = (4500, 4300);
    let pairs: Vec<Pair> = (0..3).map(|seed| Pair::new(rows, cols, 4, 70 + seed)).collect();
    let everything = || {
        let mut all = vec![];
        for space in SPACES {
            for rule in [Rule::default(), with_rank(5)] {
                let job = Job::new(rows, &pairs, TIES);
                let (groups, weights) = (group(rows, &job.pairs), job.weights.clone());
                let part = Part { group: &groups, weights, program: TIES, row_start: 0 };
                let mut out = vec![0; (rows + cols) * 12 * 4];
                let (right, left) = keys();
                let streams = (&right, &left);
                let found = project(&[part], rows, space, &rule, Dtype::F32, streams, &mut out);
                let Projected { account, sketch, .. } = found.unwrap();
                let numbers = account.gram.into_iter().chain(account.along).chain(sketch);
                all.extend(numbers.map(f64::to_bits));
                all.extend(out.iter().map(|x| u64::from(*x)));
            }
        }
        let found = cores(&group(rows, &pairs), &[1.0, 2.0, 3.0]).unwrap();
        all.extend(found.left.iter().chain(&found.right).chain(&found.cores).map(|x| x.to_bits()));
        all
    };
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(everything)
    };
    let one = run(1);
    assert!(one == run(2));
    assert!(one == run(5));
}
