//! What the message of a denial says beside its code: the action that is missing, and on what.

/// The action that a message names as not allowed, and the resource where it names one.
pub(crate) fn named_in(message: &str) -> Option<(&str, Option<&str>)> {
    let action = word_after(message, "not authorized to perform: ").filter(|word| is_action(word))?;
    Some((action, word_after(message, "on resource: ")))
}

/// The word that follows a phrase.
fn word_after<'a>(text: &'a str, phrase: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(phrase)?;
    let word = rest.split_whitespace().next()?.trim_matches(|c| matches!(c, '.' | ',' | ';' | '"' | '\''));
    (!word.is_empty()).then_some(word)
}

/// Whether a word has the shape of an IAM action, such as `kms:Decrypt`.
fn is_action(word: &str) -> bool {
    word.split_once(':').is_some_and(|(service, call)| {
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_name(service) && is_name(call)
    })
}

#[cfg(test)]
mod tests {
    use crate::error::{Asked, AwsError};

    const ASKED: Asked<'_> = Asked::new("ec2:DeleteSnapshot", "snapshot", "snap-1");

    #[test]
    fn a_denial_that_names_another_action_is_about_that_one() {
        let key = "arn:aws:kms:eu-central-1:111122223333:key/1";
        let message = format!(
            "User: arn:aws:sts::111122223333:assumed-role/r/s is not authorized to perform: kms:Decrypt on resource: \
             {key} because no policy allows it"
        );
        let denied = ASKED.sort_code("AccessDeniedException", &message, 400);
        let AwsError::AccessDenied { action, resource, .. } = denied else { panic!("{denied}") };
        assert_eq!((action.as_str(), resource.as_str()), ("kms:Decrypt", key));
        let same =
            "not authorized to perform: ec2:DeleteSnapshot on resource: arn:aws:ec2:x::snapshot/snap-1";
        let denied = ASKED.sort_code("UnauthorizedOperation", same, 403).to_string();
        assert!(denied.starts_with("ec2:DeleteSnapshot on snapshot snap-1 is denied"), "{denied}");
        let odd = ASKED.sort_code("AccessDenied", "not authorized to perform: this", 403);
        assert!(matches!(odd, AwsError::AccessDenied { action, .. } if action == "ec2:DeleteSnapshot"));
    }
}
