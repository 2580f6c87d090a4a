//! Accounts are inner products.

use crate::support::*;
use loramix_core::dtype::Dtype;
use loramix_core::recompress::{Rule, accounted, capacity, recompress};

#[test]
fn accounts_are_inner_products() {
    for (name, rows, pairs) in kinds() {
        for rule in rules() {
            let group = group(rows, &pairs);
            let mut out = vec![0; capacity(&group, &rule, Dtype::F32)];
            let (done, account) = accounted(&group, &rule, Dtype::F32, &mut out).unwrap();
            let written = seen(&product(&out, rows, group.cols(), done.rank), &rule, done.rank);
            assert_account(&account, rows, &pairs, &written, &format!("{name} {rule:?}"));
            let mut again = vec![0; out.len()];
            recompress(&group, &rule, Dtype::F32, &mut again).unwrap();
            assert!(out == again, "{name}: an account changes nothing");
        }
    }
}

#[test]
fn accounts_of_what_cancels_are_zero() {
    let one = Pair::new(20, 13, 4, 5);
    let pairs = [one.times(0.7), one.times(-0.7)];
    let mut out = vec![0; 4000];
    let (_, account) =
        accounted(&group(20, &pairs), &Rule::default(), Dtype::F32, &mut out).unwrap();
    assert!(account.along.iter().all(|x| *x == 0.0), "{:?}", account.along);
    assert_account(&account, 20, &pairs, &Dense::zeros(20, 13), "cancels");
}
