//! One file a noun.

mod fleet;
mod hypervisor;
mod instance;
mod job;
mod ledger;
mod recovery_point;
mod restore;
mod submit;

pub(crate) use job::show as show_job;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use secrecy::SecretString;
use snapferry_api::Client;
use snapferry_service::{Exit, SecretRef};

use crate::args::{Args, Command};
use crate::{demo, up};

/// Runs a command line.
pub(crate) async fn run(args: Args) -> Result<Exit> {
    let format = args.output;
    let client = || client(&args);
    match &args.command {
        Command::Hypervisor(verb) => hypervisor::run(&client()?, format, verb).await?,
        Command::Instance(verb) => instance::run(&client()?, format, verb).await?,
        Command::Backup(backup) => submit::backup(&client()?, format, backup).await?,
        Command::IntelliSnap(snap) => submit::intelli_snap(&client()?, format, snap).await?,
        Command::BackupCopy(copy) => submit::backup_copy(&client()?, format, copy).await?,
        Command::Restore(restore) => restore::run(&client()?, format, restore).await?,
        Command::Replicate(crossing) => submit::replicate(&client()?, format, crossing).await?,
        Command::Convert(crossing) => submit::convert(&client()?, format, crossing).await?,
        Command::Job(verb) => job::run(&client()?, format, verb).await?,
        Command::RecoveryPoint(verb) => recovery_point::run(&client()?, format, verb).await?,
        Command::AccessNode(verb) => fleet::access_nodes(&client()?, format, *verb).await?,
        Command::MediaAgent(verb) => fleet::media_agents(&client()?, format, *verb).await?,
        Command::Ledger(verb) => ledger::run(&client()?, format, verb).await?,
        Command::Up(up) => up::run(up).await?,
        Command::Demo(demo) => return demo::run(demo).await,
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Args::command(), "snapferry", &mut std::io::stdout());
        }
    }
    Ok(Exit::Success)
}

fn client(args: &Args) -> Result<Client> {
    let token: Option<SecretString> = match &args.token_file {
        Some(file) => Some(SecretRef::File(file.clone()).read()?),
        None => SecretRef::Env("SNAPFERRY_TOKEN".to_owned()).read().ok(),
    };
    Ok(Client::new(&args.server, token)?)
}

/// The secret in a file that the command line names.
fn secret_of(file: Option<&std::path::Path>, option: &str) -> Result<snapferry_api::Secret> {
    use secrecy::ExposeSecret as _;
    let file = file.with_context(|| format!("{option} is needed"))?;
    let secret = SecretRef::File(file.to_owned()).read()?;
    Ok(secret.expose_secret().into())
}
