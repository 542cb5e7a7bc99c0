//! Configuration: a TOML file, then variables of the environment on top, then the process's own type, which refuses
//! unknown keys (`#[serde(deny_unknown_fields)]`). This is the only place that reads the environment.
//!
//! Each program has its prefix. With `SNAPFERRY_SCHEDULER_`, `SNAPFERRY_SCHEDULER_HTTP__LISTEN=127.0.0.1:8080` sets
//! `listen` in the table `[http]`: the prefix goes, two underscores go down one table, the rest is the key in lower
//! case. Values that are TOML (numbers, booleans, arrays, quoted text) are taken as such, everything else as text.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use thiserror::Error;
use toml::{Table, Value};

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration file {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not valid TOML: {reason}")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// The parser's sentence, with line and column.
        reason: String,
    },
    /// A key is unknown, missing, or has a value of the wrong kind.
    #[error("configuration {origin}: {reason}")]
    Invalid {
        /// The file, and the variables that were laid over it.
        origin: String,
        /// The key and what is wrong with it.
        reason: String,
    },
    /// A variable of the environment runs across a value.
    #[error("the variable {variable} asks for a table where the configuration has a value")]
    Overlay {
        /// The variable.
        variable: String,
    },
}

/// Reads `path` (nothing when `None`), lays the variables that begin with `env_prefix` over it, and makes a `T`.
///
/// # Errors
/// [`ConfigError`], naming file, key and variable.
pub fn load<T: DeserializeOwned>(path: Option<&Path>, env_prefix: &str) -> Result<T, ConfigError> {
    let variables = std::env::vars().filter(|(name, _)| name.starts_with(env_prefix)).collect::<Vec<_>>();
    load_from(path, env_prefix, variables)
}

/// [`load`] with given variables, for tests and for embedding.
///
/// # Errors
/// [`ConfigError`], naming file, key and variable.
pub fn load_from<T: DeserializeOwned>(
    path: Option<&Path>,
    env_prefix: &str,
    mut variables: Vec<(String, String)>,
) -> Result<T, ConfigError> {
    let mut table = match path {
        Some(path) => read(path)?,
        None => Table::new(),
    };
    variables.sort();
    for (name, text) in &variables {
        let Some(rest) = name.strip_prefix(env_prefix) else { continue };
        let keys = rest.trim_start_matches('_').to_lowercase();
        overlay(&mut table, &keys, value_of(text))
            .ok_or_else(|| ConfigError::Overlay { variable: name.clone() })?;
    }
    let origin = origin(path, &variables);
    Value::Table(table).try_into().map_err(|error: toml::de::Error| ConfigError::Invalid {
        origin,
        reason: error.to_string().trim().replace('\n', " "),
    })
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn overlay(table: &mut Table, keys: &str, value: Value) -> Option<()> {
    match keys.split_once("__") {
        None => {
            table.insert(keys.to_owned(), value);
            Some(())
        }
        Some((first, rest)) => {
            let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            overlay(inner.as_table_mut()?, rest, value)
        }
    }
}

fn value_of(text: &str) -> Value {
    format!("value = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn origin(path: Option<&Path>, variables: &[(String, String)]) -> String {
    let mut origin = path.map_or_else(|| "from defaults".to_owned(), |path| path.display().to_string());
    for (index, (name, _)) in variables.iter().enumerate() {
        origin.push_str(if index == 0 { " with " } else { ", " });
        origin.push_str(name);
    }
    origin
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: String,
        http: Http,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Http {
        listen: String,
        workers: u16,
    }

    fn sample(text: &str, variables: &[(&str, &str)]) -> Result<Sample, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load_from(Some(file.path()), "SNAPFERRY_", variables)
    }

    #[test]
    fn a_variable_lies_over_the_file() {
        let text = "name = 'a'\n[http]\nlisten = '127.0.0.1:1'\nworkers = 2";
        let sample = sample(text, &[("SNAPFERRY_HTTP__WORKERS", "7"), ("SNAPFERRY_NAME", "b c")]).unwrap();
        assert_eq!((sample.name.as_str(), sample.http.workers), ("b c", 7));
        assert_eq!(sample.http.listen, "127.0.0.1:1");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let text = "name = 'a'\nnmae = 'b'\n[http]\nlisten = 'x'\nworkers = 2";
        let error = sample(text, &[]).unwrap_err().to_string();
        assert!(error.contains("nmae"), "{error}");
    }

    #[test]
    fn a_variable_that_runs_across_a_value_is_named() {
        let text = "name = 'a'\n[http]\nlisten = 'x'\nworkers = 2";
        let error = sample(text, &[("SNAPFERRY_NAME__DEEPER", "1")]).unwrap_err().to_string();
        assert!(error.contains("SNAPFERRY_NAME__DEEPER"), "{error}");
    }
}
