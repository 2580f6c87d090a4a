//! What can go wrong, in words a caller can act on.

use std::fmt;

/// Result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call was refused.  Rust speaks indices; the caller adds names of targets and files.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// Sizes that do not fit together.
    Shape {
        /// The argument.
        what: &'static str,
        /// What would have been right.
        expected: String,
        /// What came.
        got: String,
    },
    /// An element type that cannot be used here.
    Dtype {
        /// What came.
        got: String,
        /// What would have been right.
        allowed: &'static str,
    },
    /// A number outside its range.
    Param {
        /// The argument.
        name: &'static str,
        /// What came.
        value: String,
        /// What would have been right.
        allowed: &'static str,
    },
    /// A NaN or an infinity in the input.
    NonFinite {
        /// Position of the member in its group.
        member: usize,
        /// `"up"` or `"down"`.
        side: &'static str,
    },
    /// A finite value that the output type cannot hold.
    Overflow {
        /// The value.
        value: f32,
        /// The output type.
        dtype: &'static str,
    },
    /// A malformed file header.
    Format(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape { what, expected, got } => {
                write!(f, "{what}: expected {expected}, got {got}")
            }
            Self::Dtype { got, allowed } => write!(f, "dtype {got}: allowed are {allowed}"),
            Self::Param { name, value, allowed } => {
                write!(f, "{name} = {value}: allowed is {allowed}")
            }
            Self::NonFinite { member, side } => {
                write!(f, "NaN or infinity in the {side} factor of member {member}")
            }
            Self::Overflow { value, dtype } if value.is_infinite() => {
                write!(f, "a result too large for {dtype}")
            }
            Self::Overflow { value, dtype } => write!(f, "{value:e} does not fit into {dtype}"),
            Self::Format(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}
