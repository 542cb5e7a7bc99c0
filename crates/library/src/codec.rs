//! Fixed little-endian layouts: a cursor that reads them strictly and a writer that makes them.
//!
//! Nothing here knows a format. A read past the end, a bad mark or bytes left over is a [`Malformed`], never a
//! panic, and no length read from disk is trusted before the bytes are known to be there.

use thiserror::Error;

/// Bytes that do not have the layout they should have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("malformed {what}: {why}")]
pub struct Malformed {
    /// The structure that was read.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl Malformed {
    pub(crate) fn new(what: &'static str, why: impl Into<String>) -> Self {
        Self { what, why: why.into() }
    }
}

/// Reads a layout from its first byte to its last.
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(crate) fn fail(&self, why: impl Into<String>) -> Malformed {
        Malformed::new(self.what, why)
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        match self.rest.split_at_checked(n) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(self.fail(format!("{n} bytes wanted, {} left", self.rest.len()))),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.bytes(N)?;
        <[u8; N]>::try_from(bytes).map_err(|_| self.fail("short array"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, Malformed> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// A length as u32, at most `limit`, then that many bytes.
    pub(crate) fn blob(&mut self, limit: usize) -> Result<&'a [u8], Malformed> {
        let n = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if n > limit {
            return Err(self.fail(format!("a part of {n} bytes is over its limit of {limit}")));
        }
        self.bytes(n)
    }

    /// A blob that is UTF-8.
    pub(crate) fn text(&mut self, limit: usize) -> Result<String, Malformed> {
        let bytes = self.blob(limit)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| self.fail("a text is not UTF-8"))
    }

    pub(crate) fn magic(&mut self, magic: &[u8]) -> Result<(), Malformed> {
        let found = self.bytes(magic.len())?;
        if found == magic {
            Ok(())
        } else {
            Err(self.fail(format!("it does not start with {:?}", String::from_utf8_lossy(magic))))
        }
    }

    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.fail(format!("{} bytes left over", self.rest.len())))
        }
    }
}

/// Checks and takes off the CRC-32C that ends `bytes`.
pub(crate) fn take_crc<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
    let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
        return Err(Malformed::new(what, "too short for a checksum"));
    };
    let (stored, found) = (u32::from_le_bytes(*crc), crc32c::crc32c(body));
    if stored == found {
        Ok(body)
    } else {
        Err(Malformed::new(what, format!("checksum {found:08x} found, {stored:08x} stored")))
    }
}

/// Makes a layout.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn with_capacity(n: usize) -> Self {
        Self(Vec::with_capacity(n))
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u128(&mut self, value: u128) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// A length as u32 and the bytes. Every caller has limited the length far below 4 GiB.
    pub(crate) fn blob(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).expect("limited by the caller")).bytes(bytes)
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }

    /// The bytes followed by their CRC-32C.
    pub(crate) fn done_with_crc(mut self) -> Vec<u8> {
        let crc = crc32c::crc32c(&self.0);
        self.u32(crc);
        self.0
    }
}
