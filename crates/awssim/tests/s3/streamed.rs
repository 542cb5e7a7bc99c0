//! Bodies in chunks, as the SDKs send them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, Response};

use crate::signing::{Chunks, Client};
use crate::{ACCOUNT, BUCKET, REGION, start};

const UNSIGNED: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
const SIGNED: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
const SIGNED_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";

/// The body in the encoding that `content` names, in chunks of 64 KiB.
fn encode(content: &str, data: &[u8], crc32: &str, mut chunks: Chunks) -> Vec<u8> {
    let is_signed = content != UNSIGNED;
    let mut body = Vec::new();
    for chunk in data.chunks(65_536).chain([&[][..]]) {
        let signature =
            if is_signed { format!(";chunk-signature={}", chunks.chunk(chunk)) } else { String::new() };
        body.extend_from_slice(format!("{:x}{signature}\r\n", chunk.len()).as_bytes());
        body.extend_from_slice(chunk);
        if !chunk.is_empty() {
            body.extend_from_slice(b"\r\n");
        }
    }
    if content != SIGNED {
        body.extend_from_slice(format!("x-amz-checksum-crc32:{crc32}\r\n").as_bytes());
    }
    if content == SIGNED_TRAILER {
        let signature = chunks.trailer(&format!("x-amz-checksum-crc32:{crc32}\n"));
        body.extend_from_slice(format!("x-amz-trailer-signature:{signature}\r\n").as_bytes());
    }
    body.extend_from_slice(b"\r\n");
    body
}

async fn put(client: &Client, content: &str, data: &[u8], crc32: &str, hurt: Option<usize>) -> Response {
    let length = data.len().to_string();
    let mut headers =
        vec![("content-encoding", "aws-chunked,x-own"), ("x-amz-decoded-content-length", length.as_str())];
    if content != SIGNED {
        headers.push(("x-amz-trailer", "x-amz-checksum-crc32"));
    }
    client
        .send_as(Method::PUT, "/images/a%20key", content, &headers, |chunks| {
            let mut body = encode(content, data, crc32, chunks);
            if let Some(at) = hurt {
                body[at] ^= 1;
            }
            body
        })
        .await
}

#[tokio::test]
async fn every_encoding_arrives_and_a_changed_byte_does_not() {
    let data = tempfile::tempdir().unwrap();
    let server = start(data.path()).await;
    let world = &server.context().world;
    let key = world.create_user(ACCOUNT, "tester", Vec::new());
    world.create_bucket(ACCOUNT, REGION, BUCKET).unwrap();
    let client = Client::new(&server, &key, "s3", REGION);
    let data: Vec<u8> = (0..200_000_u32).map(|n| (n % 249).to_le_bytes()[0]).collect();
    let mut crc32 = flate2::Crc::new();
    crc32.update(&data);
    let crc32 = STANDARD.encode(crc32.sum().to_be_bytes());
    for content in [UNSIGNED, SIGNED, SIGNED_TRAILER] {
        let response = put(&client, content, &data, &crc32, Some(100_000)).await;
        let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
        let code = if content == UNSIGNED { (400, "BadDigest") } else { (403, "SignatureDoesNotMatch") };
        assert!(status == code.0 && text.contains(code.1), "{content}: {status} {text}");
        assert_eq!(client.send(Method::HEAD, "/images/a%20key", b"").await.status(), 404);
        assert_eq!(put(&client, content, &data, &crc32, None).await.status(), 200, "{content}");
        let back = client.send(Method::GET, "/images/a%20key", b"").await;
        assert_eq!(back.headers()["content-encoding"], "x-own");
        assert_eq!(back.bytes().await.unwrap(), data, "{content}");
        assert_eq!(client.send(Method::DELETE, "/images/a%20key", b"").await.status(), 204);
    }
    let wrong = put(&client, SIGNED_TRAILER, &data, "AAAAAA==", None).await;
    assert!(wrong.text().await.unwrap().contains("BadDigest"));
    // What was refused left no file behind.
    let left = world.inventory(Some(ACCOUNT));
    assert!(left["s3_objects"].is_empty());
    server.stop().await;
}
