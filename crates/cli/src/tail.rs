//! All pages of a list, up to a limit that a person can still read.

use std::future::Future;

use anyhow::{Result, bail};
use snapferry_api::{ClientError, Page};

/// More than this is not for a terminal: use the API.
const MAX_ITEMS: usize = 10_000;

/// Asks for page after page; `ask` gets the cursor.
pub(crate) async fn all<T, F>(mut ask: impl FnMut(Option<String>) -> F) -> Result<Vec<T>>
where
    F: Future<Output = Result<Page<T>, ClientError>>,
{
    let mut items = Vec::new();
    let mut after = None;
    loop {
        let page = ask(after.take()).await?;
        items.extend(page.items);
        match page.next {
            Some(next) if items.len() < MAX_ITEMS => after = Some(next),
            Some(_) => bail!("more than {MAX_ITEMS} entries: narrow the list, or page through the HTTP API"),
            None => return Ok(items),
        }
    }
}
