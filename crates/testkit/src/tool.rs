//! Programs that the tests need.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// A program of another package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// The broker.
    RabbitmqServer,
    /// The broker's command line.
    Rabbitmqctl,
    /// Erlang's port mapper.
    Epmd,
    /// Makes a database cluster.
    Initdb,
    /// The database server.
    Postgres,
    /// The database's command line.
    Psql,
    /// Starts a program as another user.
    Setpriv,
    /// Makes certificates.
    Openssl,
}

impl Tool {
    const fn places(self) -> &'static [&'static str] {
        match self {
            Self::RabbitmqServer => &["/usr/lib/rabbitmq/bin/rabbitmq-server"],
            Self::Rabbitmqctl => &["/usr/lib/rabbitmq/bin/rabbitmqctl"],
            Self::Epmd => &["/usr/bin/epmd", "/usr/local/bin/epmd"],
            Self::Initdb => &[
                "/usr/lib/postgresql/17/bin/initdb",
                "/usr/lib/postgresql/16/bin/initdb",
                "/usr/lib/postgresql/15/bin/initdb",
            ],
            Self::Postgres => &[
                "/usr/lib/postgresql/17/bin/postgres",
                "/usr/lib/postgresql/16/bin/postgres",
                "/usr/lib/postgresql/15/bin/postgres",
            ],
            Self::Psql => &[
                "/usr/lib/postgresql/17/bin/psql",
                "/usr/lib/postgresql/16/bin/psql",
                "/usr/lib/postgresql/15/bin/psql",
            ],
            Self::Setpriv => &["/usr/bin/setpriv", "/bin/setpriv"],
            Self::Openssl => &["/usr/bin/openssl", "/usr/local/bin/openssl"],
        }
    }

    const fn package(self) -> &'static str {
        match self {
            Self::RabbitmqServer | Self::Rabbitmqctl => "rabbitmq-server",
            Self::Epmd => "erlang-base",
            Self::Initdb | Self::Postgres => "postgresql",
            Self::Psql => "postgresql-client",
            Self::Setpriv => "util-linux",
            Self::Openssl => "openssl",
        }
    }
}

/// Where the program is.
///
/// # Errors
/// Names the Debian package that brings it, when it is not installed.
pub fn require(tool: Tool) -> Result<PathBuf> {
    match tool.places().iter().map(PathBuf::from).find(|path| path.exists()) {
        Some(path) => Ok(path),
        None => bail!(
            "{tool:?} is not at any of {:?}: run `sudo apt-get install {}` or `cargo xtask test`",
            tool.places(),
            tool.package()
        ),
    }
}
