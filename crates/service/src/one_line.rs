//! An error for people, who read one line.

use std::error::Error;

/// The error and its causes. One whose words the line has already is not said again.
#[must_use]
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::SecretRef;

    #[test]
    fn no_cause_is_said_twice_and_none_is_left_out() {
        let missing = SecretRef::File(PathBuf::from("/nowhere/token")).read().unwrap_err();
        assert_eq!(
            in_one_line(&missing),
            "read the secret in /nowhere/token: No such file or directory (os error 2)"
        );

        #[derive(Debug, thiserror::Error)]
        #[error("start")]
        struct Outer(#[source] crate::secret::SecretError);
        assert_eq!(
            in_one_line(&Outer(missing)),
            "start: read the secret in /nowhere/token: No such file or directory (os error 2)"
        );
    }
}
