//! The JSON of a header, in its own order and with its duplicate keys.
//!
//! A map type would lose both, so the entries are collected by visitors.  Cost: one pass; memory
//! in proportion to the text.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::refuse;
use crate::error::Result;

const METADATA: &str = "__metadata__";

/// The header as it is written, in its order, not yet checked.
#[derive(Default)]
pub(super) struct Raw {
    pub(super) tensors: Vec<(String, Info)>,
    pub(super) metadata: Option<Pairs>,
    /// The key that was being read when an error came.
    key: String,
}

/// A tensor's entry; a key twice in it is refused by the derived code.
#[derive(Deserialize)]
pub(super) struct Info {
    pub(super) dtype: String,
    pub(super) shape: Vec<usize>,
    pub(super) data_offsets: (usize, usize),
}

pub(super) fn read(text: &str) -> Result<Raw> {
    let mut raw = Raw::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let read = json.deserialize_map(Collect(&mut raw));
    let Err(error) = read.and_then(|()| json.end()) else {
        return Ok(raw);
    };
    let key = &raw.key;
    if !error.is_data() {
        return refuse(format!(
            "the header is not the expected JSON near key {key:?}: {error}; download it again"
        ));
    }
    let allowed = if raw.tensors.is_empty() && key.is_empty() {
        "a JSON object with a key per tensor"
    } else if key == METADATA {
        "one object of strings, such as {\"rank\": \"16\"}"
    } else {
        "{\"dtype\": string, \"shape\": sizes, \"data_offsets\": [begin, end]}, each once"
    };
    refuse(format!("bad header at key {key:?}: {error}; allowed is {allowed}; save the file again"))
}

struct Collect<'a>(&'a mut Raw);

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            self.0.key.clone_from(&key);
            if key != METADATA {
                self.0.tensors.push((key, map.next_value()?));
            } else if self.0.metadata.is_none() {
                // As in the crate, `null` stands for no metadata.
                self.0.metadata = Some(map.next_value::<Option<Pairs>>()?.unwrap_or_default());
            } else {
                return Err(serde::de::Error::custom("this key appears twice"));
            }
        }
        Ok(())
    }
}

/// A string to string object with its duplicates.
#[derive(Default)]
pub(super) struct Pairs(pub(super) Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        json.deserialize_map(CollectPairs)
    }
}

struct CollectPairs;

impl<'de> Visitor<'de> for CollectPairs {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}
