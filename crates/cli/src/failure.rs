//! From an error to what a person reads and the code a script sees.

use snapferry_api::{ClientError, ProblemCode};
use snapferry_service::{ConfigError, Exit, in_one_line};
use thiserror::Error;

/// A watched job that did not succeed.
#[derive(Debug, Error)]
#[error("job {id} {state}{}", why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
pub(crate) struct JobFailed {
    pub(crate) id: snapferry_types::JobId,
    pub(crate) state: &'static str,
    pub(crate) why: Option<String>,
}

/// Prints the error with its causes and answers the exit code.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    eprintln!("error: {}", in_one_line(error.as_ref()));
    exit_of(error)
}

fn exit_of(error: &anyhow::Error) -> Exit {
    if let Some(failed) = error.downcast_ref::<JobFailed>() {
        return failed.into();
    }
    if error.downcast_ref::<ConfigError>().is_some() {
        return Exit::Usage;
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Url { .. }) => Exit::Usage,
        Some(ClientError::Unreachable { .. }) => Exit::Unreachable,
        Some(ClientError::Problem(problem)) => match problem.code {
            ProblemCode::NotFound => Exit::NotFound,
            ProblemCode::Unauthenticated | ProblemCode::Forbidden => Exit::Denied,
            ProblemCode::InvalidRequest => Exit::Usage,
            ProblemCode::Unavailable => Exit::Unreachable,
            _ => Exit::Failed,
        },
        Some(ClientError::Answer { .. }) | None => Exit::Failed,
    }
}
