//! A page of rows: one more row than asked for tells whether another page follows.

use snapferry_api::Page;
use sqlx::any::AnyRow;

use super::StoreError;

pub(super) fn page_of<T>(
    rows: &[AnyRow],
    limit: u32,
    read: impl Fn(&AnyRow) -> Result<T, StoreError>,
    cursor: impl Fn(&T) -> String,
) -> Result<Page<T>, StoreError> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let items = rows.iter().take(limit).map(read).collect::<Result<Vec<_>, _>>()?;
    let next = if rows.len() > limit { items.last().map(cursor) } else { None };
    Ok(Page { items, next })
}
