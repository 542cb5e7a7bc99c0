//! A simulated AWS with real signatures, and a client for the three protocols that keys matter in.

use std::time::{Duration, Instant};

use aws_lc_rs::{digest, hmac};
use awssim::faults::Quotas;
use awssim::world::AccessKey;
use awssim::{Config, Running, Server, World};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

pub(crate) const OWNER: &str = "111122223333";
pub(crate) const OTHER: &str = "444455556666";
pub(crate) const REGION: &str = "eu-central-1";
pub(crate) const BLOCK: usize = 524_288;

/// A running simulator.
pub(crate) struct Sim {
    pub(crate) server: Running,
    dir: tempfile::TempDir,
}

/// An answer, read.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) error: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// Somebody with an access key.
pub(crate) struct Client {
    endpoint: String,
    key: AccessKey,
    http: reqwest::Client,
}

impl Sim {
    pub(crate) async fn start() -> Self {
        Self::open(tempfile::tempdir().unwrap()).await
    }

    /// Stops and takes up again what was written down.
    pub(crate) async fn restart(self) -> Self {
        self.server.stop().await;
        Self::open(self.dir).await
    }

    async fn open(dir: tempfile::TempDir) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let server = Server::start(Config { listen, data_dir: dir.path().to_owned() }).await.unwrap();
        // Rates are not what is tested here.
        server.context().faults.set_quotas(Quotas::off());
        Self { server, dir }
    }

    pub(crate) fn world(&self) -> &World {
        &self.server.context().world
    }

    /// A user that may do everything.
    pub(crate) fn admin(&self, account: &str) -> Client {
        self.user(account, "admin", json!([{ "Effect": "Allow", "Action": "*", "Resource": "*" }]))
    }

    /// A user that may do what these statements say.
    pub(crate) fn user(&self, account: &str, name: &str, statements: Value) -> Client {
        let key = self.world().create_user(account, name, vec![json!({ "Statement": statements })]);
        Client { endpoint: self.server.endpoint(), key, http: reqwest::Client::new() }
    }

    /// A user that may do everything but use keys, of which it may do `allowed`.
    pub(crate) fn without_keys(&self, account: &str, name: &str, allowed: &[&str]) -> Client {
        let mut allowed = allowed.to_vec();
        allowed.extend(["ec2:*", "ebs:*", "iam:*"]);
        self.user(account, name, json!([{ "Effect": "Allow", "Action": allowed, "Resource": "*" }]))
    }

    /// A completed snapshot with one block, encrypted under a key if one is given.
    pub(crate) async fn snapshot(&self, by: &Client, key: Option<&str>) -> String {
        let start = match key {
            None => json!({ "VolumeSize": 1 }),
            Some(key) => json!({ "VolumeSize": 1, "Encrypted": true, "KmsKeyArn": key }),
        };
        let started = by.ebs("POST", "/snapshots", Some(start)).await;
        let id = started.json()["SnapshotId"].as_str().unwrap_or_else(|| panic!("{started:?}")).to_owned();
        assert_eq!(by.put_block(&id, 0).await.status, 201);
        let done = by.complete(&id, 1).await;
        assert_eq!(done.status, 202, "{done:?}");
        by.until("DescribeSnapshots", &[("SnapshotId.1", &id)], "status", "completed").await;
        id
    }
}

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The text of the first element with this name, in XML.
    pub(crate) fn xml(&self, tag: &str) -> String {
        let text = self.text();
        let inner =
            text.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
        inner.unwrap_or_else(|| panic!("no {tag} in {text}")).0.to_owned()
    }

    pub(crate) fn assert_refused(&self, code: &str) -> &Self {
        assert_eq!(self.error.as_deref(), Some(code), "{}", self.text());
        self
    }

    pub(crate) fn assert_done(&self) -> &Self {
        assert!(self.status < 300, "{}", self.text());
        self
    }
}

impl Client {
    pub(crate) async fn ec2(&self, action: &str, parameters: &[(&str, &str)]) -> Reply {
        let mut form = format!("Action={action}&Version=2016-11-15");
        for (name, value) in parameters {
            form.push_str(&format!("&{}={}", escape(name), escape(value)));
        }
        self.send("ec2", "POST", "/", &[], form.into_bytes()).await
    }

    pub(crate) async fn kms(&self, action: &str, parameters: Value) -> Reply {
        let target = [("x-amz-target", format!("TrentService.{action}"))];
        self.send("kms", "POST", "/", &target, parameters.to_string().into_bytes()).await
    }

    pub(crate) async fn ebs(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.send("ebs", method, path, &[], body.into_bytes()).await
    }

    pub(crate) async fn put_block(&self, snapshot: &str, index: u32) -> Reply {
        let data = vec![7_u8; BLOCK];
        let headers = [
            ("x-amz-data-length", BLOCK.to_string()),
            ("x-amz-checksum", STANDARD.encode(digest::digest(&digest::SHA256, &data))),
            ("x-amz-checksum-algorithm", "SHA256".to_owned()),
        ];
        self.send("ebs", "PUT", &format!("/snapshots/{snapshot}/blocks/{index}"), &headers, data).await
    }

    pub(crate) async fn complete(&self, snapshot: &str, n_blocks: u32) -> Reply {
        let headers = [("x-amz-changedblockscount", n_blocks.to_string())];
        self.send("ebs", "POST", &format!("/snapshots/completion/{snapshot}"), &headers, Vec::new()).await
    }

    /// Asks again until the first element with this name has this text, at most ten seconds.
    pub(crate) async fn until(
        &self,
        action: &str,
        parameters: &[(&str, &str)],
        tag: &str,
        text: &str,
    ) -> Reply {
        let limit = Instant::now() + Duration::from_secs(10);
        loop {
            let reply = self.ec2(action, parameters).await;
            reply.assert_done();
            if reply.xml(tag) == text {
                return reply;
            }
            assert!(Instant::now() < limit, "{tag} did not become {text}: {}", reply.text());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn send(
        &self,
        service: &str,
        method: &str,
        path_and_query: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Reply {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let (date, _) = time.split_once('T').unwrap();
        let hash = if method == "PUT" { "UNSIGNED-PAYLOAD".to_owned() } else { sha256(&body) };
        let host = self.endpoint.trim_start_matches("http://");
        let canonical = format!(
            "{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{hash}\nx-amz-date:{time}\n\n\
             host;x-amz-content-sha256;x-amz-date\n{hash}"
        );
        let scope = format!("{date}/{REGION}/{service}/aws4_request");
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let mut key = format!("AWS4{}", self.key.secret_access_key).into_bytes();
        for part in [date, REGION, service, "aws4_request", &to_sign] {
            let signing = hmac::Key::new(hmac::HMAC_SHA256, &key);
            key = hmac::sign(&signing, part.as_bytes()).as_ref().to_vec();
        }
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={}",
            self.key.access_key_id,
            hex::encode(key)
        );
        let url = format!("{}{path_and_query}", self.endpoint);
        let mut request = self.http.request(method.parse().unwrap(), url);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request
            .header("x-amz-content-sha256", &hash)
            .header("x-amz-date", &time)
            .header("authorization", authorization)
            .body(body);
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let error = response.headers().get("x-amzn-errortype").map(|code| code.to_str().unwrap().to_owned());
        Reply { status, error, body: response.bytes().await.unwrap().to_vec() }
    }
}

fn sha256(data: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, data))
}

pub(crate) fn escape(text: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    text.bytes().map(|b| if is_plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A key policy with these statements beside the one that hands the decision to the owner's account.
pub(crate) fn policy_with(statements: &[Value]) -> Value {
    let root = json!({ "Effect": "Allow", "Action": "kms:*", "Resource": "*",
        "Principal": { "AWS": format!("arn:aws:iam::{OWNER}:root") } });
    let mut all = vec![root];
    all.extend(statements.iter().cloned());
    json!({ "Version": "2012-10-17", "Statement": all })
}

/// A statement that lets another account use the key as EC2 and EBS need it.
pub(crate) fn lets(account: &str) -> Value {
    json!({ "Effect": "Allow", "Resource": "*", "Principal": { "AWS": format!("arn:aws:iam::{account}:root") },
        "Action": ["kms:DescribeKey", "kms:CreateGrant", "kms:Decrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"] })
}
