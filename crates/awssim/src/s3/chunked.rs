//! The `aws-chunked` encoding: `size;chunk-signature=…`, data, and so on to a chunk of nothing, after which a trailer
//! may follow. Takes the body as it arrives; keeps no more than a line.

use aws_lc_rs::digest;
use bytes::{Buf as _, Bytes, BytesMut};

use super::error::S3Error;
use crate::server::sigv4::ChunkSigner;

/// Longest line before a chunk or in the trailer, in bytes.
const MOST_LINE_BYTES: usize = 4_096;

/// Lines of a trailer.
const MOST_TRAILERS: usize = 16;

/// Reads one body.
pub(super) struct Chunks {
    signer: Option<ChunkSigner>,
    has_trailer: bool,
    buffer: BytesMut,
    step: Step,
    hash: digest::Context,
    signature: String,
    trailers: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// A chunk's first line.
    Size,
    /// So many bytes of a chunk.
    Data(u64),
    /// The line end after a chunk's data.
    End,
    /// The lines after the last chunk.
    Trailer,
    /// Nothing more.
    Done,
}

impl Chunks {
    /// With a signer every chunk has to be signed.
    pub(super) fn new(signer: Option<ChunkSigner>, has_trailer: bool) -> Self {
        Self {
            signer,
            has_trailer,
            buffer: BytesMut::new(),
            step: Step::Size,
            hash: digest::Context::new(&digest::SHA256),
            signature: String::new(),
            trailers: Vec::new(),
        }
    }

    /// Takes what has arrived; hands the data in it to `data`.
    pub(super) fn push(&mut self, arrived: &Bytes, mut data: impl FnMut(Bytes)) -> Result<(), S3Error> {
        self.buffer.extend_from_slice(arrived);
        loop {
            match self.step {
                Step::Size => {
                    let Some(line) = self.line()? else { return Ok(()) };
                    self.begin(&line)?;
                }
                Step::Data(0) => self.end_chunk()?,
                Step::Data(left) => {
                    if self.buffer.is_empty() {
                        return Ok(());
                    }
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
                    let piece = self.buffer.split_to(here).freeze();
                    if self.signer.is_some() {
                        self.hash.update(&piece);
                    }
                    self.step = Step::Data(left - u64::try_from(here).unwrap_or(left));
                    data(piece);
                }
                Step::End => {
                    let Some(line) = self.line()? else { return Ok(()) };
                    if !line.is_empty() {
                        return Err(malformed("a chunk is longer than it says"));
                    }
                    self.step = Step::Size;
                }
                Step::Trailer => {
                    let Some(line) = self.line()? else { return Ok(()) };
                    self.trailer(&line)?;
                }
                // Some clients end with one line more than others.
                Step::Done => {
                    self.buffer.clear();
                    return Ok(());
                }
            }
        }
    }

    /// The body is over: the trailer's fields, with names in lower case.
    pub(super) fn finish(mut self) -> Result<Vec<(String, String)>, S3Error> {
        if self.step == Step::Trailer {
            // The empty line at the end may be left out.
            let rest = String::from_utf8_lossy(&self.buffer).trim().to_owned();
            self.buffer.clear();
            for line in rest.lines() {
                self.trailer(line.trim())?;
            }
            if self.step == Step::Trailer {
                self.trailer("")?;
            }
        }
        if self.step != Step::Done {
            return Err(S3Error::new(
                400,
                "IncompleteBody",
                "The request body terminated unexpectedly: its last chunk is missing",
            ));
        }
        Ok(self.trailers)
    }

    fn line(&mut self) -> Result<Option<String>, S3Error> {
        let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') else {
            if self.buffer.len() > MOST_LINE_BYTES {
                return Err(malformed("a line is too long"));
            }
            return Ok(None);
        };
        let line = self.buffer.split_to(end);
        self.buffer.advance(1);
        if line.len() > MOST_LINE_BYTES {
            return Err(malformed("a line is too long"));
        }
        let line = String::from_utf8(line.to_vec()).map_err(|_| malformed("a line is no text"))?;
        Ok(Some(line.trim_end_matches('\r').to_owned()))
    }

    fn begin(&mut self, line: &str) -> Result<(), S3Error> {
        let (size, extension) = line.split_once(';').unwrap_or((line, ""));
        let size =
            u64::from_str_radix(size.trim(), 16).map_err(|_| malformed("a chunk's size is no number"))?;
        self.signature = extension.trim().strip_prefix("chunk-signature=").unwrap_or_default().to_owned();
        self.hash = digest::Context::new(&digest::SHA256);
        self.step = Step::Data(size);
        if size == 0 {
            self.check_chunk()?;
            self.step = Step::Trailer;
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), S3Error> {
        self.check_chunk()?;
        self.step = Step::End;
        Ok(())
    }

    fn check_chunk(&mut self) -> Result<(), S3Error> {
        let Some(signer) = &mut self.signer else { return Ok(()) };
        let hash = std::mem::replace(&mut self.hash, digest::Context::new(&digest::SHA256)).finish();
        Ok(signer.check_chunk(hash.as_ref(), &self.signature)?)
    }

    fn trailer(&mut self, line: &str) -> Result<(), S3Error> {
        if line.is_empty() {
            self.step = Step::Done;
            return self.check_trailer();
        }
        if self.trailers.len() >= MOST_TRAILERS {
            return Err(malformed("the trailer is too long"));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| malformed("a trailer has no name"))?;
        self.trailers.push((name.trim().to_lowercase(), value.trim().to_owned()));
        Ok(())
    }

    fn check_trailer(&mut self) -> Result<(), S3Error> {
        let signature = "x-amz-trailer-signature";
        let Some(signer) = self.signer.as_mut().filter(|_| self.has_trailer) else { return Ok(()) };
        let given = self.trailers.iter().find(|(name, _)| name == signature).map(|(_, value)| value.clone());
        self.trailers.retain(|(name, _)| name != signature);
        let text: String = self.trailers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        Ok(signer.check_trailer(&text, &given.unwrap_or_default())?)
    }
}

fn malformed(what: &str) -> S3Error {
    S3Error::new(400, "InvalidRequest", format!("The aws-chunked body is malformed: {what}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::sigv4::tests::documented_signer;

    /// Data and trailer.
    type Decoded = (Vec<u8>, Vec<(String, String)>);

    /// Decodes a body that arrives in pieces of `step` bytes.
    fn decode(mut chunks: Chunks, body: &[u8], step: usize) -> Result<Decoded, S3Error> {
        let mut out = Vec::new();
        for piece in body.chunks(step) {
            chunks.push(&Bytes::copy_from_slice(piece), |data| out.extend_from_slice(&data))?;
        }
        Ok((out, chunks.finish()?))
    }

    fn documented_body() -> Vec<u8> {
        let mut body = Vec::new();
        let chunks = [
            (65_536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
            (1_024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
            (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
        ];
        for (length, signature) in chunks {
            body.extend_from_slice(format!("{length:x};chunk-signature={signature}\r\n").as_bytes());
            body.extend_from_slice(&vec![b'a'; length]);
            body.extend_from_slice(b"\r\n");
        }
        body
    }

    #[test]
    fn the_documented_body_is_read_however_it_arrives() {
        for step in [1, 7, 65_537, 1 << 20] {
            let (out, trailers) =
                decode(Chunks::new(Some(documented_signer()), false), &documented_body(), step).unwrap();
            assert_eq!(out, vec![b'a'; 66_560], "{step}");
            assert!(trailers.is_empty());
        }
    }

    #[test]
    fn a_changed_byte_is_found_and_a_missing_end_too() {
        let mut body = documented_body();
        body[100] = b'b';
        assert!(decode(Chunks::new(Some(documented_signer()), false), &body, 4_096).is_err());
        let body = documented_body();
        assert!(decode(Chunks::new(Some(documented_signer()), false), &body[..66_000], 4_096).is_err());
    }

    #[test]
    fn an_unsigned_trailer_is_read() {
        for end in ["\r\n\r\n", "\r\n", ""] {
            let body = format!("3\r\nabc\r\n2\r\nde\r\n0\r\nX-Amz-Checksum-Crc32:AAAAAA=={end}");
            let (out, trailers) = decode(Chunks::new(None, true), body.as_bytes(), 2).unwrap();
            assert_eq!(out, b"abcde");
            assert_eq!(trailers, [("x-amz-checksum-crc32".to_owned(), "AAAAAA==".to_owned())]);
        }
        assert!(decode(Chunks::new(None, true), b"3\r\nabcd\r\n0\r\n\r\n", 2).is_err());
        assert!(decode(Chunks::new(None, true), b"zz\r\n", 2).is_err());
    }
}
