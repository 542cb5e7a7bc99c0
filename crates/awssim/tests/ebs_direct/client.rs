//! The six calls with plain HTTP, so that a test can also say what no client would.

use awssim::store::{BLOCK_LEN, sha256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

/// A client of one server.
pub(crate) struct Client {
    pub(crate) http: reqwest::Client,
    base: String,
}

/// An answer, read.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) error: Option<String>,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Code and reason of an error.
    pub(crate) fn refusal(&self) -> (String, String) {
        let code = self.error.clone().unwrap_or_else(|| panic!("no error but {}", self.status));
        (code, self.json()["Reason"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    pub(crate) fn assert_refused(&self, code: &str, reason: &str) {
        assert_eq!(self.refusal(), (code.to_owned(), reason.to_owned()), "{}", self.json());
    }
}

pub(crate) fn content(byte: u8) -> Bytes {
    Bytes::from(vec![byte; BLOCK_LEN])
}

pub(crate) fn base64_sha256(data: &[u8]) -> String {
    STANDARD.encode(sha256(data))
}

impl Client {
    pub(crate) fn new(base: String) -> Self {
        Self { http: reqwest::Client::new(), base }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub(crate) async fn read(response: Response) -> reqwest::Result<Reply> {
        let error = response.headers().get("x-amzn-errortype").map(|v| v.to_str().unwrap().to_owned());
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Reply { status, error, headers, body: response.bytes().await? })
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        Self::read(self.request(Method::GET, path).send().await.unwrap()).await.unwrap()
    }

    pub(crate) async fn start(&self, body: Value) -> Reply {
        let request = self.request(Method::POST, "/snapshots").body(body.to_string());
        Self::read(request.send().await.unwrap()).await.unwrap()
    }

    pub(crate) async fn started(&self) -> String {
        let reply = self.start(json!({ "VolumeSize": 1 })).await;
        reply.json()["SnapshotId"].as_str().unwrap().to_owned()
    }

    pub(crate) fn put_request(&self, id: &str, index: u32, data: &Bytes) -> RequestBuilder {
        self.request(Method::PUT, &format!("/snapshots/{id}/blocks/{index}"))
            .header("x-amz-Data-Length", BLOCK_LEN)
            .header("x-amz-Checksum", base64_sha256(data))
            .header("x-amz-Checksum-Algorithm", "SHA256")
            .body(data.clone())
    }

    pub(crate) async fn put(&self, id: &str, index: u32, data: &Bytes) -> Reply {
        Self::read(self.put_request(id, index, data).send().await.unwrap()).await.unwrap()
    }

    pub(crate) async fn complete(&self, id: &str, count: u64) -> Reply {
        let request = self.request(Method::POST, &format!("/snapshots/completion/{id}"));
        Self::read(request.header("x-amz-ChangedBlocksCount", count).send().await.unwrap()).await.unwrap()
    }

    /// A completed snapshot with these blocks.
    pub(crate) async fn written(&self, blocks: &[(u32, u8)], parent: Option<&str>) -> String {
        let mut start = json!({ "VolumeSize": 1 });
        if let Some(parent) = parent {
            start["ParentSnapshotId"] = json!(parent);
        }
        let id = self.start(start).await.json()["SnapshotId"].as_str().unwrap().to_owned();
        for (index, byte) in blocks {
            assert_eq!(self.put(&id, *index, &content(*byte)).await.status, 201);
        }
        let reply = self.complete(&id, u64::try_from(blocks.len()).unwrap()).await;
        assert_eq!((reply.status, reply.json()), (202, json!({ "Status": "completed" })));
        id
    }

    /// Every page of a listing.
    pub(crate) async fn pages(&self, path: &str) -> Vec<Value> {
        let mut pages = Vec::new();
        let mut token = String::new();
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let page = self.get(&format!("{path}{joint}pageToken={token}")).await.json();
            let next = page["NextToken"].as_str().map(escape);
            pages.push(page);
            match next {
                Some(next) => token = next,
                None => return pages,
            }
        }
    }

    /// Every block of a listing as (index, token).
    pub(crate) async fn blocks(&self, id: &str) -> Vec<(u64, String)> {
        let pages = self.pages(&format!("/snapshots/{id}/blocks")).await;
        let blocks = pages.iter().flat_map(|page| page["Blocks"].as_array().unwrap());
        blocks
            .map(|b| (b["BlockIndex"].as_u64().unwrap(), b["BlockToken"].as_str().unwrap().to_owned()))
            .collect()
    }
}

/// A token for a query.
pub(crate) fn escape(token: &str) -> String {
    token.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}

pub(crate) fn block_path(id: &str, (index, token): &(u64, String)) -> String {
    format!("/snapshots/{id}/blocks/{index}?blockToken={}", escape(token))
}
