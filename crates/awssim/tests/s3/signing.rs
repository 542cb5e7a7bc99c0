//! Requests with signatures of version 4.

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use awssim::Running;
use awssim::store::sha256;
use awssim::world::AccessKey;
use reqwest::{Method, Response};

/// A client of one service in one region.
pub(crate) struct Client {
    http: reqwest::Client,
    endpoint: String,
    key: AccessKey,
    service: &'static str,
    region: String,
}

/// How the chunks of a body are signed.
pub(crate) struct Chunks {
    signing_key: Vec<u8>,
    scope: String,
    time: String,
    previous: String,
}

fn sign(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&Key::new(HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

impl Chunks {
    fn next(&mut self, kind: &str, hashes: &str) -> String {
        let text = format!("{kind}\n{}\n{}\n{}\n{hashes}", self.time, self.scope, self.previous);
        self.previous = hex::encode(sign(&self.signing_key, &text));
        self.previous.clone()
    }

    /// The signature of the next chunk.
    pub(crate) fn chunk(&mut self, data: &[u8]) -> String {
        let hashes = format!("{}\n{}", hex::encode(sha256(b"")), hex::encode(sha256(data)));
        self.next("AWS4-HMAC-SHA256-PAYLOAD", &hashes)
    }

    /// The signature of the trailer.
    pub(crate) fn trailer(&mut self, text: &str) -> String {
        self.next("AWS4-HMAC-SHA256-TRAILER", &hex::encode(sha256(text.as_bytes())))
    }
}

impl Client {
    pub(crate) fn new(server: &Running, key: &AccessKey, service: &'static str, region: &str) -> Self {
        Self {
            http: reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap(),
            endpoint: server.endpoint(),
            key: key.clone(),
            service,
            region: region.to_owned(),
        }
    }

    /// Sends a request whose body is signed by its hash.
    pub(crate) async fn send(&self, method: Method, path: &str, body: &[u8]) -> Response {
        let body = body.to_vec();
        let hash = hex::encode(sha256(&body));
        self.send_as(method, path, &hash, &[], |_| body).await
    }

    /// Sends a request whose `x-amz-content-sha256` is `content`; the body is made when the signature is known.
    pub(crate) async fn send_as(
        &self,
        method: Method,
        path: &str,
        content: &str,
        more: &[(&str, &str)],
        body: impl FnOnce(Chunks) -> Vec<u8>,
    ) -> Response {
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let date = &time[..8];
        let host = self.endpoint.strip_prefix("http://").unwrap();
        let mut headers = vec![("host", host), ("x-amz-content-sha256", content), ("x-amz-date", &time)];
        headers.extend_from_slice(more);
        headers.sort_unstable();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let (bare, query) = path.split_once('?').unwrap_or((path, ""));
        let canonical = format!("{method}\n{bare}\n{query}\n{lines}\n{names}\n{content}");
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let text =
            format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex::encode(sha256(canonical.as_bytes())));
        let secret = format!("AWS4{}", self.key.secret_access_key).into_bytes();
        let parts = [date, &self.region, self.service, "aws4_request"];
        let signing_key = parts.into_iter().fold(secret, |key, part| sign(&key, part));
        let signature = hex::encode(sign(&signing_key, &text));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.key.access_key_id
        );
        let chunks = Chunks { signing_key, scope, time: time.clone(), previous: signature };
        let mut request = self.http.request(method, format!("{}{path}", self.endpoint));
        for (name, value) in &headers {
            request = request.header(*name, *value);
        }
        request.header("authorization", authorization).body(body(chunks)).send().await.unwrap()
    }

    /// A call of EC2; parameters as `Name=value&…`, with every value safe as it is.
    pub(crate) async fn ec2(&self, parameters: &str) -> String {
        let body = format!("Version=2016-11-15&{parameters}");
        self.send(Method::POST, "/", body.as_bytes()).await.text().await.unwrap()
    }
}
