//! What S3 refuses, sorted like all else that AWS refuses. The store keeps S3's answer only as text.

use std::error::Error as StdError;

use crate::error::{Asked, AwsError};

/// Sorts an error of the store.
pub(super) fn sort(asked: &Asked<'_>, error: &object_store::Error) -> AwsError {
    if let Some(ours) = our_own(error) {
        return ours;
    }
    let text = error.to_string();
    let (code, message) = code_and_message(&text);
    if text.contains("redirect without LOCATION") {
        return asked.invalid("PermanentRedirect", "the bucket is in another region than the one asked");
    }
    match error {
        object_store::Error::InvalidPath { .. } => asked.invalid("InvalidKey", text),
        object_store::Error::NotFound { .. } => {
            asked.sort_code(code.unwrap_or("NoSuchKey"), message.unwrap_or(&text), 404)
        }
        object_store::Error::PermissionDenied { .. } => {
            asked.sort_code(code.unwrap_or_default(), message.unwrap_or(&text), 403)
        }
        object_store::Error::Unauthenticated { .. } => {
            asked.sort_code(code.unwrap_or("MissingAuthenticationToken"), message.unwrap_or(&text), 401)
        }
        _ => match (code, status_in(&text)) {
            (None, None) => asked.unavailable(text),
            (code, status) => {
                asked.sort_code(code.unwrap_or_default(), message.unwrap_or(&text), status.unwrap_or(0))
            }
        },
    }
}

/// An error of ours that came through the store: the credentials could not be had.
fn our_own(error: &object_store::Error) -> Option<AwsError> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(ours) = cause.downcast_ref::<AwsError>() {
            return Some(ours.clone());
        }
        source = cause.source();
    }
    None
}

/// Code and message of S3's XML answer.
pub(super) fn code_and_message(text: &str) -> (Option<&str>, Option<&str>) {
    (between(text, "<Code>", "</Code>"), between(text, "<Message>", "</Message>"))
}

/// The text between two marks.
pub(super) fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(inside, _)| inside)
}

fn status_in(text: &str) -> Option<u16> {
    text.split_once("status code: ").and_then(|(_, rest)| rest.get(..3)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked<'_> = Asked::new("s3:PutObject", "object", "bucket/key");

    fn generic(text: &str) -> AwsError {
        let source = text.to_owned().into();
        sort(&ASKED, &object_store::Error::Generic { store: "S3", source })
    }

    #[test]
    fn the_code_in_the_answer_decides() {
        let expired = generic(
            "Server returned non-2xx status code: 400 Bad Request: <Error><Code>ExpiredToken</Code>\
             <Message>The provided token has expired.</Message></Error>",
        );
        assert!(matches!(expired, AwsError::Expired { .. }), "{expired}");
        let denied = sort(
            &ASKED,
            &object_store::Error::PermissionDenied {
                path: "key".to_owned(),
                source: "<Code>AccessDenied</Code><Message>User: u is not authorized to perform: \
                         kms:GenerateDataKey on resource: arn:aws:kms:x:1:key/1</Message>"
                    .into(),
            },
        );
        assert!(denied.to_string().starts_with("kms:GenerateDataKey on arn:aws:kms:x:1:key/1"), "{denied}");
    }

    #[test]
    fn no_answer_is_unavailable_and_a_server_error_too() {
        assert!(generic("connection refused").retryable());
        assert!(generic("Server returned non-2xx status code: 503 Service Unavailable: ").retryable());
        assert!(!generic("Server returned non-2xx status code: 400 Bad Request: ").retryable());
    }

    #[test]
    fn credentials_that_cannot_be_had_keep_their_reason() {
        let ours = AwsError::RoleRefused { role_arn: "arn".to_owned(), message: "no".to_owned() };
        let error = object_store::Error::Generic { store: "S3", source: Box::new(ours.clone()) };
        assert_eq!(sort(&ASKED, &error), ours);
    }
}
