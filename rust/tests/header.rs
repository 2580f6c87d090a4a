//! Headers: what is accepted, and one refusal per way to be wrong.
#![allow(clippy::unwrap_used)]

use loramix_core::Error;
use loramix_core::header::{Header, parse};
use proptest::prelude::*;

fn file(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn refusal(bytes: &[u8]) -> String {
    let error = parse(bytes).unwrap_err();
    assert!(matches!(error, Error::Format(_)));
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

fn assert_refused(json: &str, data: usize, words: &[&str]) {
    let text = refusal(&file(json, data));
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

const TWO: &str = r#"{"b":{"dtype":"F16","shape":[2,3],"data_offsets":[8,20]},
    "__metadata__":{"z":"1","a":"2"},
    "a":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}   "#;

#[test]
fn reads_tensors_by_place_and_metadata_by_key() {
    let Header { tensors, metadata } = parse(&file(TWO, 20)).unwrap();
    let start = 8 + TWO.len();
    let seen: Vec<_> = tensors
        .iter()
        .map(|t| (&*t.name, &*t.dtype, &*t.shape, t.start - start, t.end - start))
        .collect();
    assert_eq!(seen, [("a", "I64", &[][..], 0, 8), ("b", "F16", &[2, 3][..], 8, 20)]);
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    assert_eq!(metadata, [pair("a", "2"), pair("z", "1")]);
}

#[test]
fn nothing_is_a_valid_content() {
    for json in ["{}", r#"{"__metadata__":{}}"#, r#"{"__metadata__":null}"#] {
        let header = parse(&file(json, 0)).unwrap();
        assert!(header.tensors.is_empty() && header.metadata.is_empty());
    }
}

#[test]
fn empty_tensors_share_a_place() {
    let json = r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
        "e":{"dtype":"F32","shape":[0,9],"data_offsets":[0,0]},
        "f":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}}"#;
    let header = parse(&file(json, 4)).unwrap();
    let names: Vec<_> = header.tensors.iter().map(|t| &*t.name).collect();
    assert_eq!(names, ["e", "x", "f"]);
}

#[test]
fn a_length_that_looks_like_html_is_fine() {
    let json = format!("{{{:58}}}", "");
    let bytes = file(&json, 0);
    assert_eq!(bytes[0], b'<');
    assert!(parse(&bytes).is_ok());
    assert!(refusal(&bytes[..40]).contains("truncated"));
}

#[test]
fn refuses_what_has_no_header() {
    let cases: [(&[u8], &str); 12] = [
        (b"", "empty"),
        (b"\x01\0\0", "3 bytes"),
        (
            b"\xff\xff\xff\xff\xff\xff\xff\xff{}",
            "18446744073709551615 bytes, the limit is 100000000",
        ),
        (b"\x01\xe1\xf5\x05\0\0\0\0{}", "100000001 bytes, the limit is 100000000"),
        (b"\x05\0\0\0\0\0\0\0{}", "5 bytes, the file has 2"),
        (b"\x02\0\0\0\0\0\0\0\xff\xfe", "not UTF-8"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\n <html>", "HTML"),
        (b"PK\x03\x04\x14\0\x08\x08", "zip archive"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull"),
        (b"Entry not found", "plain text"),
    ];
    for (bytes, word) in cases {
        let text = refusal(bytes);
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn refuses_what_is_not_the_json_of_a_header() {
    assert_refused("{\"a\":", 0, &["JSON", "\"a\""]);
    assert_refused("{} x", 0, &["JSON"]);
    assert_refused("", 0, &["JSON"]);
    assert_refused("[]", 0, &["object with a key per tensor"]);
    assert_refused(r#"{"a":3}"#, 0, &["key \"a\"", "data_offsets"]);
    assert_refused(r#"{"a":{"dtype":"F32","shape":[1]}}"#, 0, &["missing field `data_offsets`"]);
    assert_refused(
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        4,
        &["key \"a\"", "-1"],
    );
    assert_refused(&"[".repeat(100_000), 0, &["allowed"]);
    assert_refused(&format!("{{\"a\":{{\"b\":{}", "[".repeat(100_000)), 0, &["JSON"]);
}

#[test]
fn refuses_odd_metadata() {
    for value in ["3", "null", "[]", "{}"] {
        let json = format!(r#"{{"__metadata__":{{"rank":{value}}}}}"#);
        assert_refused(&json, 0, &["__metadata__", "object of strings"]);
    }
    assert_refused(r#"{"__metadata__":"x"}"#, 0, &["__metadata__", "object of strings"]);
}

#[test]
fn refuses_keys_that_appear_twice() {
    let entry = r#"{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    assert_refused(&format!(r#"{{"a":{entry},"b":{entry},"a":{entry}}}"#), 0, &["\"a\"", "twice"]);
    assert_refused(&format!(r#"{{"a":{entry},"\u0061":{entry}}}"#), 0, &["\"a\"", "twice"]);
    assert_refused(r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0, &["\"k\"", "twice"]);
    assert_refused(r#"{"__metadata__":{},"__metadata__":{}}"#, 0, &["__metadata__", "twice"]);
    let json = r#"{"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#;
    assert_refused(json, 0, &["duplicate field `dtype`"]);
}

fn one(dtype: &str, shape: &str, begin: &str, end: &str) -> String {
    format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}}}"#)
}

#[test]
fn refuses_bad_places() {
    let pair = |begin: usize, end: usize| {
        format!(
            r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},
            "b":{{"dtype":"U8","shape":[4],"data_offsets":[{begin},{end}]}}}}"#
        )
    };
    assert_refused(&pair(2, 6), 6, &["\"b\"", "overlaps"]);
    assert_refused(&pair(0, 4), 4, &["\"b\"", "overlaps"]);
    assert_refused(&pair(5, 9), 9, &["\"b\"", "hole", "allowed is 4"]);
    assert_refused(&pair(8, 4), 8, &["\"b\"", "ends before it begins"]);
    assert_refused(&pair(4, 8), 5, &["ends 3 bytes early", "truncated"]);
    assert_refused(&pair(4, 8), 9, &["1 bytes after its last tensor"]);
    assert_refused("{}", 5, &["5 bytes after its last tensor"]);
}

#[test]
fn refuses_sizes_that_do_not_fit() {
    assert_refused(&one("F32", "[2]", "0", "4"), 4, &["needs 8 bytes", "give 4"]);
    assert_refused(&one("F4", "[3]", "0", "2"), 2, &["12 bits"]);
    assert_refused(&one("F31", "[3]", "0", "12"), 12, &["unknown type \"F31\""]);
    let huge = usize::MAX.to_string();
    assert_refused(&one("U8", &format!("[{huge},3]"), "0", "4"), 4, &["computer can address"]);
    assert_refused(&one("F64", &format!("[{huge}]"), "0", "4"), 4, &["computer can address"]);
    assert_refused(&one("U8", "[4]", "0", &huge), 4, &["needs 4 bytes"]);
    let eighth = (usize::MAX / 8).to_string();
    let json = one("U8", &format!("[{eighth}]"), "0", &eighth);
    assert_refused(&json, 4, &["early"]);
    let json = one("U8", "[4]", "0", "99999999999999999999999");
    assert_refused(&json, 4, &["key \"a\""]);
}

/// Whatever the bytes are: no panic, one line if refused, places within the file if not.
fn check(bytes: &[u8]) {
    match parse(bytes) {
        Ok(header) => {
            let total: usize = header.tensors.iter().map(|t| t.end - t.start).sum();
            assert!(total <= bytes.len());
            assert!(header.tensors.iter().all(|t| t.start <= t.end && t.end <= bytes.len()));
        }
        Err(error) => assert!(matches!(error, Error::Format(_))),
    }
}

/// Numbers that a header could hold, honest or not.
fn number() -> impl Strategy<Value = usize> {
    prop_oneof![0_usize..40, Just(usize::MAX), Just(usize::MAX / 8), any::<usize>()]
}

proptest! {
    #[test]
    fn survives_random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&bytes);
        check(&file(&String::from_utf8_lossy(&bytes), 0));
    }

    #[test]
    fn survives_mutations(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<proptest::sample::Index>(), keep: bool,
    ) {
        let mut bytes = file(TWO, 20);
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let len = if keep { bytes.len() } else { cut.index(bytes.len()) };
        check(&bytes[..len]);
    }

    #[test]
    fn survives_random_places(
        entries in proptest::collection::vec((number(), number(), number(), 0_usize..4), 0..4),
        data in 0_usize..60,
    ) {
        let types = ["F32", "U8", "F4", "F8_E5M2"];
        let text: Vec<String> = entries.iter().enumerate().map(|(i, (begin, end, size, kind))| {
            format!(
                r#""t{i}":{{"dtype":"{}","shape":[{size}],"data_offsets":[{begin},{end}]}}"#,
                types[*kind]
            )
        }).collect();
        check(&file(&format!("{{{}}}", text.join(",")), data));
    }
}
