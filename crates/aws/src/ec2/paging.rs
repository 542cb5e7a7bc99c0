//! Pages of EC2 lists, with a limit.

use std::future::Future;

use crate::error::{Asked, AwsError};

/// Pages of one list that are believed; at the usual 1,000 entries a page these are ten million.
const MAX_PAGES: u32 = 10_000;

/// Collects all pages; `page` takes the token of a page and gives its entries and the token of the next.
pub(super) async fn all_pages<T, F, Fut>(asked: Asked<'_>, mut page: F) -> Result<Vec<T>, AwsError>
where
    F: FnMut(Option<String>) -> Fut,
    Fut: Future<Output = Result<(Vec<T>, Option<String>), AwsError>>,
{
    let mut all = Vec::new();
    let mut token = None;
    for _ in 0..MAX_PAGES {
        let (entries, next) = page(token).await?;
        all.extend(entries);
        token = next.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(all);
        }
    }
    Err(asked.lacks(format!("an end after {MAX_PAGES} pages")))
}
