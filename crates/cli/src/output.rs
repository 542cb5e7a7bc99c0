//! Data goes to standard output, as a table or as JSON; everything else goes to standard error.

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::{Table, presets};
use jiff::Timestamp;
use serde::Serialize;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs: the API's own JSON.
    Json,
}

/// Prints a list.
pub(crate) fn list<T: Serialize>(
    format: Format,
    items: &[T],
    head: &[&str],
    row: impl Fn(&T) -> Vec<String>,
) -> Result<()> {
    match format {
        Format::Json => json(&items),
        Format::Table => {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header(head.iter().map(|name| name.to_uppercase()));
            for item in items {
                table.add_row(row(item));
            }
            println!("{}", table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n"));
            Ok(())
        }
    }
}

/// Prints one thing: `pairs` of a name and a value for people.
pub(crate) fn one<T: Serialize>(format: Format, item: &T, pairs: &[(&str, String)]) -> Result<()> {
    match format {
        Format::Json => json(item),
        Format::Table => {
            let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
                println!("{name:width$}  {value}");
            }
            Ok(())
        }
    }
}

/// Prints JSON.
pub(crate) fn json<T: Serialize>(item: &T) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(item)?);
    Ok(())
}

/// A moment, to the second, in the local time zone.
pub(crate) fn time(at: Timestamp) -> String {
    at.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}
