//! The name of a task queue: `snapferry.task.v1.<region>.<os>.<group>`. It is also the routing key of its tickets,
//! matched exactly, so a ticket can reach one queue only.

use std::fmt;
use std::str::FromStr;

use snapferry_types::Region;
use snapferry_types::instance::OsFamily;
use thiserror::Error;

const PREFIX: &str = "snapferry.task.v1";

/// Longest group name, in bytes. AMQP allows 255 for a whole queue name; region and prefix take at most 60.
pub const MAX_GROUP_LEN: usize = 64;

/// A queue of tickets for the access nodes of one region, operating system and group.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueName {
    text: String,
}

/// Text that names no task queue.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueueNameError {
    /// The group has a character that is not allowed, or the wrong length.
    #[error(
        "access node group {group:?} is not usable in a queue name: use 1 to {MAX_GROUP_LEN} of a-z, 0-9, '-' and '_'"
    )]
    Group {
        /// What was given, cut to 80 characters.
        group: String,
    },
    /// Not of the shape at all.
    #[error("{name:?} is no task queue: expected {PREFIX}.<region>.<linux|windows>.<group>")]
    Shape {
        /// What was given, cut to 80 characters.
        name: String,
    },
}

impl QueueName {
    /// The queue of a group of access nodes.
    ///
    /// # Errors
    /// [`QueueNameError::Group`] when the group does not fit in a name.
    pub fn new(region: &Region, os: OsFamily, group: &str) -> Result<Self, QueueNameError> {
        let fits = (1..=MAX_GROUP_LEN).contains(&group.len())
            && group.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
            });
        if !fits {
            return Err(QueueNameError::Group { group: cut(group) });
        }
        Ok(Self { text: format!("{PREFIX}.{region}.{}.{group}", os.as_str()) })
    }

    /// The name, which is also the routing key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for QueueName {
    type Err = QueueNameError;

    fn from_str(text: &str) -> Result<Self, QueueNameError> {
        let shape = || QueueNameError::Shape { name: cut(text) };
        let rest = text.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('.')).ok_or_else(shape)?;
        let mut parts = rest.splitn(3, '.');
        let (Some(region), Some(os), Some(group)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(shape());
        };
        let region = region.parse::<Region>().map_err(|_| shape())?;
        let os = match os {
            "linux" => OsFamily::Linux,
            "windows" => OsFamily::Windows,
            _ => return Err(shape()),
        };
        Self::new(&region, os, group)
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_round_trips() {
        let region = "eu-central-1".parse().unwrap();
        let name = QueueName::new(&region, OsFamily::Linux, "default").unwrap();
        assert_eq!(name.as_str(), "snapferry.task.v1.eu-central-1.linux.default");
        assert_eq!(name.as_str().parse::<QueueName>().unwrap(), name);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let region = "eu-central-1".parse().unwrap();
        for group in ["", "a.b", "Über", "UP", "a b", "#", "*", &"x".repeat(65)] {
            assert!(matches!(
                QueueName::new(&region, OsFamily::Windows, group),
                Err(QueueNameError::Group { .. })
            ));
        }
        for text in [
            "",
            "snapferry.task.v1",
            "snapferry.task.v2.eu-west-1.linux.a",
            "snapferry.task.v1.eu-west-1.mac.a",
        ] {
            assert!(matches!(text.parse::<QueueName>(), Err(QueueNameError::Shape { .. })));
        }
    }
}
