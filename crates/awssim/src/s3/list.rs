//! ListObjectsV2: pages over the keys in order, with what lies below a delimiter as one.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::error::S3Error;
use super::{Answer, Call, quoted, time};
use crate::server::sigv4::encode;
use crate::world::Object;

/// Keys on a page.
const MOST_KEYS: usize = 1_000;

/// A line of a listing.
enum Item {
    /// Key, size in bytes, ETag, time.
    Object(String, u64, String, u64),
    /// The prefix that the keys below a delimiter share.
    Below(String),
}

impl Item {
    /// Where the next page goes on after this.
    fn token(&self) -> String {
        match self {
            Self::Object(key, ..) => hex::encode(format!("k{key}")),
            Self::Below(prefix) => hex::encode(format!("p{prefix}")),
        }
    }
}

/// Where a page begins.
enum After {
    Start,
    Key(String),
    /// After all keys that begin so.
    Below(String),
}

pub(super) fn objects(call: &Call<'_>) -> Answer {
    let target = call.target;
    let prefix = target.text("prefix").unwrap_or_default();
    let delimiter = target.text("delimiter");
    call.bucket()?;
    call.demand(&call.asked("ListBucket", None).with("s3:prefix", prefix))?;
    let after = match (target.text("continuation-token"), target.text("start-after")) {
        (Some(token), _) => parse_token(token)
            .ok_or_else(|| S3Error::invalid_argument("The continuation token provided is incorrect"))?,
        (None, Some(key)) => After::Key(key.to_owned()),
        (None, None) => After::Start,
    };
    let most = target.limit("max-keys", MOST_KEYS)?;
    let (items, has_more) = {
        let state = call.context.world.read();
        let bucket = state.buckets.get(&target.bucket).ok_or_else(S3Error::no_such_bucket)?;
        page(&bucket.objects, prefix, delimiter, &after, most)
    };
    let is_encoded = target.text("encoding-type") == Some("url");
    let shown = |text: &str| {
        if is_encoded { encode(text).replace("%2F", "/") } else { text.to_owned() }
    };
    call.document("ListBucketResult", |xml| {
        xml.text("Name", &target.bucket);
        xml.text("Prefix", shown(prefix));
        xml.maybe("Delimiter", delimiter.map(shown));
        xml.maybe("StartAfter", target.text("start-after").map(shown));
        xml.maybe("ContinuationToken", target.text("continuation-token"));
        xml.text("MaxKeys", most);
        xml.text("KeyCount", items.len());
        xml.text("IsTruncated", has_more);
        xml.maybe("EncodingType", is_encoded.then_some("url"));
        xml.maybe("NextContinuationToken", items.last().filter(|_| has_more).map(Item::token));
        for item in &items {
            match item {
                Item::Object(key, size_bytes, etag, modified_ms) => xml.nest("Contents", |xml| {
                    xml.text("Key", shown(key));
                    xml.text("LastModified", time(*modified_ms));
                    xml.text("ETag", quoted(etag));
                    xml.text("Size", size_bytes);
                    xml.text("StorageClass", "STANDARD");
                }),
                Item::Below(prefix) => {
                    xml.nest("CommonPrefixes", |xml| xml.text("Prefix", shown(prefix)));
                }
            }
        }
    })
}

fn parse_token(token: &str) -> Option<After> {
    let text = String::from_utf8(hex::decode(token).ok()?).ok()?;
    match text.split_at_checked(1)? {
        ("k", key) => Some(After::Key(key.to_owned())),
        ("p", prefix) => Some(After::Below(prefix.to_owned())),
        _ => None,
    }
}

/// Up to `most` items, and whether there are more.
fn page(
    objects: &BTreeMap<String, Object>,
    prefix: &str,
    delimiter: Option<&str>,
    after: &After,
    most: usize,
) -> (Vec<Item>, bool) {
    let from = match after {
        After::Key(key) if key.as_str() >= prefix => Bound::Excluded(key.as_str()),
        After::Below(below) if below.as_str() >= prefix => Bound::Included(below.as_str()),
        After::Start | After::Key(_) | After::Below(_) => Bound::Included(prefix),
    };
    let mut items: Vec<Item> = Vec::new();
    for (key, object) in objects.range::<str, _>((from, Bound::Unbounded)) {
        let Some(rest) = key.strip_prefix(prefix) else { break };
        let below = delimiter.and_then(|delimiter| {
            let end = rest.find(delimiter)? + delimiter.len();
            key.get(..prefix.len() + end)
        });
        let is_listed = match (below, after, items.last()) {
            (Some(below), After::Below(done), _) if below == done => true,
            (Some(below), _, Some(Item::Below(last))) => below == last,
            _ => false,
        };
        if is_listed {
            continue;
        }
        if items.len() >= most {
            // A page of nothing has nothing to go on from.
            return (items, most > 0);
        }
        items.push(match below {
            Some(below) => Item::Below(below.to_owned()),
            None => Item::Object(key.clone(), object.size_bytes(), object.etag.clone(), object.modified_ms),
        });
    }
    (items, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(keys: &[&str]) -> BTreeMap<String, Object> {
        let object =
            Object { pieces: Vec::new(), etag: String::new(), modified_ms: 0, headers: BTreeMap::new() };
        keys.iter().map(|key| ((*key).to_owned(), object.clone())).collect()
    }

    #[test]
    fn pages_of_any_length_hold_everything_once() {
        let objects = objects(&["a/1", "a/2", "a/b/1", "b", "c/1", "c/2", "d", "é/x"]);
        for (prefix, delimiter, wanted) in [
            ("", None, vec!["a/1", "a/2", "a/b/1", "b", "c/1", "c/2", "d", "é/x"]),
            ("", Some("/"), vec!["a/", "b", "c/", "d", "é/"]),
            ("a/", Some("/"), vec!["a/1", "a/2", "a/b/"]),
            ("c", None, vec!["c/1", "c/2"]),
            ("x", None, vec![]),
        ] {
            for most in 1..9 {
                let (mut seen, mut after) = (Vec::new(), After::Start);
                loop {
                    let (items, has_more) = page(&objects, prefix, delimiter, &after, most);
                    assert!(items.len() <= most);
                    let last = items.last().map(Item::token);
                    seen.extend(items.into_iter().map(|item| match item {
                        Item::Object(key, ..) => key,
                        Item::Below(prefix) => prefix,
                    }));
                    if !has_more {
                        break;
                    }
                    after = parse_token(&last.unwrap()).unwrap();
                }
                assert_eq!(seen, wanted, "{prefix} {delimiter:?} {most}");
            }
        }
    }
}
