//! The header of a safetensors file: names, types, shapes and places of its tensors.
//!
//! [`parse`] looks at a whole mapped file but reads only the header; it allocates in proportion
//! to the header, whatever numbers the header holds, and never panics.  The rules are those of
//! the `safetensors` crate, which has the last word; they are checked here first because its
//! errors do not say what to do, it cannot see duplicate keys, and it forgets the file's order.
//! Cost: two passes over the header, one sort.
//!
//! Format: `u64` little-endian length, that many bytes of JSON, then the data without gaps.

mod json;

use std::cmp::Ordering;
use std::collections::HashSet;

use safetensors::SafeTensors;
use serde::Deserialize;

use self::json::{Info, Raw};
use crate::error::{Error, Result};

/// The format's limit on header bytes.
const MAX_HEADER: u64 = 100_000_000;

/// What a file contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Tensors in the order of their bytes.
    pub tensors: Vec<TensorEntry>,
    /// Free text of the writer, sorted by key.
    pub metadata: Vec<(String, String)>,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its key.
    pub name: String,
    /// The type as the file spells it; may be one that [`crate::dtype::Dtype`] does not have.
    pub dtype: String,
    /// Sizes of its axes.
    pub shape: Vec<usize>,
    /// Its first byte, counted from the start of the file.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
}

/// Reads and checks the header of a file, given as all its bytes.
///
/// # Errors
/// [`Error::Format`], one line: what was found, what is allowed, what to try.
pub fn parse(bytes: &[u8]) -> Result<Header> {
    let text = header_text(bytes)?;
    let data_start = 8 + text.len();
    let mut raw = json::read(text)?;
    refuse_duplicates(&raw)?;
    raw.tensors.sort_by_key(|(_, info)| info.data_offsets);
    check_layout(&raw.tensors, bytes.len() - data_start)?;
    // The crate's own judgement, in case it learns rules that are not known here.
    SafeTensors::read_metadata(bytes).map_err(|e| Error::Format(format!("bad header: {e}")))?;
    let mut metadata = raw.metadata.unwrap_or_default().0;
    metadata.sort();
    let tensors = raw.tensors.into_iter();
    Ok(Header { tensors: tensors.map(|tensor| entry(tensor, data_start)).collect(), metadata })
}

fn entry((name, info): (String, Info), data_start: usize) -> TensorEntry {
    TensorEntry {
        name,
        dtype: info.dtype,
        shape: info.shape,
        // No overflow: the layout check has bounded the offsets by the size of the file.
        start: data_start + info.data_offsets.0,
        end: data_start + info.data_offsets.1,
    }
}

fn refuse<T>(text: String) -> Result<T> {
    Err(Error::Format(text))
}

/// The JSON text, or why this is no safetensors file.
fn header_text(bytes: &[u8]) -> Result<&str> {
    let total = bytes.len();
    let fault = match bytes.split_first_chunk() {
        None if total == 0 => return refuse("the file is empty: download it again".to_owned()),
        None => format!("the file has {total} bytes, 8 is the least: download it again"),
        Some((&prefix, rest)) => {
            let length = u64::from_le_bytes(prefix);
            let header = rest.get(..usize::try_from(length).unwrap_or(usize::MAX));
            match header {
                Some(header) if length <= MAX_HEADER => return utf8(header),
                None if length <= MAX_HEADER => format!(
                    "the header claims {length} bytes, the file has {} after the first 8: a \
                     truncated download or another format; download it again",
                    rest.len()
                ),
                _ => format!(
                    "the header claims {length} bytes, the limit is {MAX_HEADER}: another format \
                     or a damaged file; download it again"
                ),
            }
        }
    };
    // Sniffed only after the length has failed: good files may begin with any byte.
    refuse(impostor(bytes).unwrap_or(fault))
}

fn utf8(header: &[u8]) -> Result<&str> {
    str::from_utf8(header).or_else(|e| {
        let at = e.valid_up_to();
        refuse(format!(
            "the header is not UTF-8 text at its byte {at}: a damaged file; download it again"
        ))
    })
}

/// What else the file may be, judged by its first bytes.
fn impostor(bytes: &[u8]) -> Option<String> {
    if bytes.get(4..8) == Some(&[0; 4]) {
        return None; // reads as a length, so it is a file of ours cut short
    }
    let printable = |b: &u8| b.is_ascii_graphic() || b.is_ascii_whitespace();
    let text = bytes.trim_ascii_start();
    let found = if text.starts_with(b"<") {
        "an HTML or XML page, perhaps of a login or an error: check the address and the token"
    } else if text.starts_with(b"version https://git-lfs") {
        "a git-lfs pointer: run `git lfs pull`, or download the file itself"
    } else if bytes.starts_with(b"PK") || matches!(bytes, [0x80, 2..=5, ..]) {
        "a Python pickle or a zip archive of one, as torch.save writes: \
         torch.load(FILE, weights_only=True) reads it, safetensors.torch.save_file writes it anew"
    } else if bytes.iter().take(8).all(printable) {
        "plain text, perhaps an error message of the server: open it and look"
    } else {
        return None;
    };
    Some(format!("not a safetensors file but {found}"))
}

fn refuse_duplicates(raw: &Raw) -> Result<()> {
    let metadata = raw.metadata.as_ref().map_or(&[][..], |pairs| &pairs.0);
    let twice = first_duplicate(raw.tensors.iter().map(|(name, _)| name.as_str()))
        .or_else(|| first_duplicate(metadata.iter().map(|(name, _)| name.as_str())));
    let Some(key) = twice else {
        return Ok(());
    };
    refuse(format!(
        "key {key:?} appears twice in the header, readers would disagree on its value; allowed \
         is once; save the file again"
    ))
}

fn first_duplicate<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = HashSet::new();
    names.find(|name| !seen.insert(*name))
}

/// Checks that the tensors, sorted by place, fill the data exactly.
fn check_layout(tensors: &[(String, Info)], data: usize) -> Result<()> {
    let mut next = 0;
    for (name, info) in tensors {
        let (begin, end) = info.data_offsets;
        if begin > end {
            return refuse(format!(
                "tensor {name:?} ends before it begins, [{begin}, {end}]: save the file again"
            ));
        }
        if begin != next {
            let fault =
                if begin < next { "overlaps the tensor before it" } else { "leaves a hole" };
            return refuse(format!(
                "tensor {name:?} begins at byte {begin} of the data and {fault}; allowed is \
                 {next}; save the file again"
            ));
        }
        check_size(name, info)?;
        next = end;
    }
    match next.cmp(&data) {
        Ordering::Equal => Ok(()),
        Ordering::Greater => refuse(format!(
            "the file ends {} bytes early, its tensors need {next} and {data} are there: a \
             truncated download; download it again",
            next - data
        )),
        Ordering::Less => refuse(format!(
            "the file has {} bytes after its last tensor, none are allowed: save it again",
            data - next
        )),
    }
}

/// Checks that type and shape ask for as many bytes as the offsets give.
fn check_size(name: &str, info: &Info) -> Result<()> {
    let Info { dtype, shape, .. } = info;
    let quoted = serde_json::Value::from(dtype.as_str());
    let Ok(known) = safetensors::Dtype::deserialize(quoted) else {
        return refuse(format!(
            "tensor {name:?} has the unknown type {dtype:?}; allowed are those of safetensors, \
             such as F32 or BF16; save it again as one of them"
        ));
    };
    let given = info.data_offsets.1 - info.data_offsets.0;
    let count = shape.iter().try_fold(1_usize, |n, &size| n.checked_mul(size));
    let bits = count.and_then(|n| n.checked_mul(known.bitsize()));
    if bits.is_some_and(|bits| bits % 8 == 0 && bits / 8 == given) {
        return Ok(());
    }
    let needed = match bits {
        Some(bits) if bits % 8 == 0 => format!("{} bytes", bits / 8),
        Some(bits) => format!("{bits} bits, not whole bytes"),
        None => "more bytes than a computer can address".to_owned(),
    };
    refuse(format!(
        "tensor {name:?} of type {dtype} and shape {shape:?} needs {needed}, its offsets give \
         {given}: save the file again"
    ))
}
