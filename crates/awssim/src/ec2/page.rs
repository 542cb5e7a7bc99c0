//! Pages: MaxResults and NextToken over lists that are sorted by id.

use super::Call;
use crate::faults::Refusal;
use crate::server::form::ec2_error;

/// One page of `items`, and the token of the next one.
pub(super) fn cut<T>(
    call: &Call<'_>,
    items: Vec<T>,
    id: impl Fn(&T) -> &str,
) -> Result<(Vec<T>, Option<String>), Refusal> {
    let most = match call.form.number("MaxResults")? {
        None => usize::MAX,
        Some(most @ 1..=1_000) => usize::try_from(most).unwrap_or(1_000),
        Some(other) => {
            return Err(ec2_error(
                "InvalidParameterValue",
                format!(
                    "Value ( {other} ) for parameter maxResults is invalid. Expecting a value between 1 and 1000."
                ),
            ));
        }
    };
    let after = match call.form.text("NextToken") {
        None => None,
        Some(token) => Some(
            decode(token)
                .ok_or_else(|| ec2_error("InvalidNextToken", format!("The token '{token}' is invalid")))?,
        ),
    };
    let mut rest: Vec<T> =
        items.into_iter().filter(|one| after.as_deref().is_none_or(|after| id(one) > after)).collect();
    if rest.len() <= most {
        return Ok((rest, None));
    }
    rest.truncate(most);
    let next = rest.last().map(|last| hex::encode(id(last)));
    Ok((rest, next))
}

fn decode(token: &str) -> Option<String> {
    String::from_utf8(hex::decode(token).ok()?).ok()
}
