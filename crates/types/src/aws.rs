//! Names that AWS gives: opaque, but of a known shape, which is checked where text comes in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An AWS name of the wrong shape.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{value:?} is not {expected}")]
pub struct ParseAwsNameError {
    /// The shape that was expected, as a phrase.
    pub expected: &'static str,
    /// What was given, cut to 64 characters.
    pub value: String,
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $expected:literal, $check:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as AWS writes it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseAwsNameError;

            fn from_str(text: &str) -> Result<Self, ParseAwsNameError> {
                Self::try_from(text.to_owned())
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseAwsNameError;

            fn try_from(value: String) -> Result<Self, ParseAwsNameError> {
                let check: fn(&str) -> bool = $check;
                if check(&value) {
                    return Ok(Self(value));
                }
                Err(ParseAwsNameError { expected: $expected, value: value.chars().take(64).collect() })
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    )*};
}

names! {
    /// Twelve digits.
    AccountId, "an AWS account id (twelve digits)",
        |text| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    /// A region such as `eu-central-1`.
    Region, "an AWS region name (like eu-central-1)", is_region;
    /// `i-` and hexadecimal digits.
    InstanceId, "an EC2 instance id (i-…)", |text| is_resource(text, "i-");
    /// `vol-` and hexadecimal digits.
    VolumeId, "an EBS volume id (vol-…)", |text| is_resource(text, "vol-");
    /// `snap-` and hexadecimal digits.
    SnapshotId, "an EBS snapshot id (snap-…)", |text| is_resource(text, "snap-");
}

fn is_region(text: &str) -> bool {
    (3..=32).contains(&text.len())
        && text.contains('-')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_resource(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| {
        (1..=32).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// A tag of an AWS resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tag {
    /// At most 128 characters.
    pub key: String,
    /// At most 256 characters.
    pub value: String,
}

impl Tag {
    /// A tag of a key and a value.
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into() }
    }

    /// Whether users may set the tag: those that AWS itself sets begin with `aws:`.
    #[must_use]
    pub fn is_settable(&self) -> bool {
        !self.key.starts_with("aws:")
    }

    /// Whether the tag is one of ours, which say whose an object is; they are never restored with what they were on.
    #[must_use]
    pub fn is_ownership(&self) -> bool {
        self.key.starts_with("snapferry:")
    }
}
