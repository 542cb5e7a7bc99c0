//! Which action a method and a path name, with the parameters in path and query.

use http::Method;

use super::error::EbsError;

/// A request's action and what its URI says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) action: Action,
    /// Empty for StartSnapshot.
    pub(super) snapshot_id: String,
    pub(super) block_index: Option<u32>,
    query: Vec<(String, String)>,
}

/// The six actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    ListSnapshotBlocks,
    ListChangedBlocks,
    GetSnapshotBlock,
    StartSnapshot,
    PutSnapshotBlock,
    CompleteSnapshot,
}

impl Action {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ListSnapshotBlocks => "ListSnapshotBlocks",
            Self::ListChangedBlocks => "ListChangedBlocks",
            Self::GetSnapshotBlock => "GetSnapshotBlock",
            Self::StartSnapshot => "StartSnapshot",
            Self::PutSnapshotBlock => "PutSnapshotBlock",
            Self::CompleteSnapshot => "CompleteSnapshot",
        }
    }
}

impl Route {
    pub(super) fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Self, EbsError> {
        let segments: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (action, snapshot_id, block) = match (method, segments.as_slice()) {
            (&Method::POST, ["snapshots"]) => (Action::StartSnapshot, "", None),
            (&Method::POST, ["snapshots", "completion", id]) => (Action::CompleteSnapshot, *id, None),
            (&Method::GET, ["snapshots", id, "blocks"]) => (Action::ListSnapshotBlocks, *id, None),
            (&Method::GET, ["snapshots", id, "changedblocks"]) => (Action::ListChangedBlocks, *id, None),
            (&Method::GET, ["snapshots", id, "blocks", block]) => {
                (Action::GetSnapshotBlock, *id, Some(*block))
            }
            (&Method::PUT, ["snapshots", id, "blocks", block]) => {
                (Action::PutSnapshotBlock, *id, Some(*block))
            }
            _ => return Err(EbsError::unknown_operation(method, path)),
        };
        if action != Action::StartSnapshot {
            check_snapshot_id(snapshot_id)?;
        }
        let block_index = block.map(|text| index(text, "BlockIndex")).transpose()?;
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let query = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let query = query.map(|(name, value)| (decode(name), decode(value))).collect();
        Ok(Self { action, snapshot_id: snapshot_id.to_owned(), block_index, query })
    }

    /// A query parameter that is there and not empty.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// `startingBlockIndex`, 0 when not given.
    pub(super) fn starting_block_index(&self) -> Result<u32, EbsError> {
        self.query("startingBlockIndex").map_or(Ok(0), |text| index(text, "StartingBlockIndex"))
    }

    /// `maxResults`, the most when not given.
    pub(super) fn max_results(&self) -> Result<usize, EbsError> {
        let Some(text) = self.query("maxResults") else { return Ok(MAX_RESULTS) };
        let value = text.parse::<usize>().ok().filter(|n| (MIN_RESULTS..=MAX_RESULTS).contains(n));
        value.ok_or_else(|| {
            let message = format!("MaxResults must be between {MIN_RESULTS} and {MAX_RESULTS}, not {text}.");
            EbsError::validation("INVALID_PARAMETER_VALUE", message)
        })
    }
}

const MIN_RESULTS: usize = 100;
const MAX_RESULTS: usize = 10_000;

/// The API's index is a signed 32-bit number that is not negative.
fn index(text: &str, name: &str) -> Result<u32, EbsError> {
    let value = text.parse::<u32>().ok().filter(|n| i32::try_from(*n).is_ok());
    value.ok_or_else(|| {
        EbsError::validation(
            "INVALID_PARAMETER_VALUE",
            format!("{name} must be a number from 0, not {text}."),
        )
    })
}

/// `snap-` and hexadecimal digits, 64 characters at most.
pub(super) fn check_snapshot_id(id: &str) -> Result<(), EbsError> {
    let digits = id.strip_prefix("snap-").unwrap_or_default();
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    if !digits.is_empty() && id.len() <= 64 && digits.bytes().all(hex) {
        return Ok(());
    }
    let shown: String = id.chars().take(64).collect();
    Err(EbsError::validation("INVALID_SNAPSHOT_ID", format!("The snapshot ID {shown} is not valid.")))
}

/// Takes percent signs out; what is not a valid escape stays as it is. A plus stays a plus, as in tokens.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let escaped = digits.filter(|_| *first == b'%').and_then(|d| u8::from_str_radix(d, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = after.get(if escaped.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_its_address() {
        let action = |method, path| Route::parse(&method, path, None).map(|route| route.action).ok();
        assert_eq!(action(Method::POST, "/snapshots"), Some(Action::StartSnapshot));
        assert_eq!(action(Method::POST, "/snapshots/completion/snap-1"), Some(Action::CompleteSnapshot));
        assert_eq!(action(Method::GET, "/snapshots/snap-1/blocks"), Some(Action::ListSnapshotBlocks));
        assert_eq!(action(Method::GET, "/snapshots/snap-1/changedblocks"), Some(Action::ListChangedBlocks));
        assert_eq!(action(Method::GET, "/snapshots/snap-1/blocks/7"), Some(Action::GetSnapshotBlock));
        assert_eq!(action(Method::PUT, "/snapshots/snap-1/blocks/7"), Some(Action::PutSnapshotBlock));
        assert_eq!(action(Method::DELETE, "/snapshots/snap-1"), None);
        assert_eq!(action(Method::GET, "/snapshots/snap-XYZ/blocks"), None);
        assert_eq!(action(Method::GET, "/snapshots/snap-1/blocks/-7"), None);
    }

    #[test]
    fn tokens_come_out_of_the_query_as_they_went_in() {
        let query = Some("pageToken=AB%2BC%2Fd%3D%3D&maxResults=100");
        let route = Route::parse(&Method::GET, "/snapshots/snap-1/blocks", query).unwrap();
        assert_eq!(route.query("pageToken"), Some("AB+C/d=="));
        assert_eq!(route.max_results().unwrap(), 100);
    }
}
