//! Exit codes of every Snapferry program.

use std::process::ExitCode;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Success,
    /// 1: the operation failed; the message says why.
    Failed,
    /// 2: the command line or the configuration is wrong; nothing was started.
    Usage,
    /// 3: the named thing does not exist.
    NotFound,
    /// 4: the scheduler cannot be reached.
    Unreachable,
    /// 5: not allowed.
    Denied,
    /// 6: the job was watched to its end, and it failed or was cancelled.
    JobFailed,
    /// 130: interrupted from the keyboard.
    Interrupted,
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Unreachable => 4,
            Self::Denied => 5,
            Self::JobFailed => 6,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
