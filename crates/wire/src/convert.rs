//! Conversions between contract and words: text that has to parse, parts that have to be there.

use std::str::FromStr;

use snapferry_types::Fence;
use snapferry_types::aws::Tag;
use thiserror::Error;

use crate::v1;

/// A message that does not say what its contract asks for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConvertError {
    /// A part is missing.
    #[error("message has no {0}")]
    Missing(&'static str),
    /// A part does not parse.
    #[error("field {field}: {reason}")]
    Invalid {
        /// Name in the contract.
        field: &'static str,
        /// The parser's sentence.
        reason: String,
    },
}

impl From<ConvertError> for tonic::Status {
    fn from(error: ConvertError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// The part, or [`ConvertError::Missing`].
pub fn required<T>(field: &'static str, part: Option<T>) -> Result<T, ConvertError> {
    part.ok_or(ConvertError::Missing(field))
}

/// The parsed text.
pub fn parse<T>(field: &'static str, text: &str) -> Result<T, ConvertError>
where
    T: FromStr<Err: std::fmt::Display>,
{
    text.parse().map_err(|error: T::Err| ConvertError::Invalid { field, reason: error.to_string() })
}

/// The parsed text, or nothing where it is empty.
pub fn parse_optional<T>(field: &'static str, text: &str) -> Result<Option<T>, ConvertError>
where
    T: FromStr<Err: std::fmt::Display>,
{
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

/// 32 bytes.
pub fn array32(field: &'static str, bytes: &[u8]) -> Result<[u8; 32], ConvertError> {
    bytes.try_into().map_err(|_| ConvertError::Invalid {
        field,
        reason: format!("{} bytes where 32 are asked for", bytes.len()),
    })
}

/// Nothing for empty text.
pub(crate) fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl From<Fence> for v1::Fence {
    fn from(fence: Fence) -> Self {
        Self { generation: fence.generation, epoch: fence.epoch }
    }
}

impl From<v1::Fence> for Fence {
    fn from(fence: v1::Fence) -> Self {
        Self { generation: fence.generation, epoch: fence.epoch }
    }
}

impl From<Tag> for v1::Tag {
    fn from(tag: Tag) -> Self {
        Self { key: tag.key, value: tag.value }
    }
}

impl From<v1::Tag> for Tag {
    fn from(tag: v1::Tag) -> Self {
        Self { key: tag.key, value: tag.value }
    }
}
