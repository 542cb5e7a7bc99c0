//! The vault: seals what the database may not show (account secrets, tenant keys) with AES-256-GCM under the master
//! key. The master key is in a file that only its owner can read, made on the first start, or in a variable of the
//! environment. Losing it makes every backup unreadable, so back it up apart from the database.
//!
//! A sealed value: version byte 1, 12 bytes of random nonce, ciphertext, 16 bytes of tag. What it is sealed for (such
//! as `hypervisor hv-…`) is authenticated with it, so that a value moved to another row does not open.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use zeroize::Zeroizing;

const VERSION: u8 = 1;

/// The master key cannot be used, or a value does not open.
#[derive(Debug, Error)]
pub enum VaultError {
    /// The file of the master key cannot be read or made.
    #[error("use the master key file {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read the file.
    #[error("the master key file {path} has mode {mode:o}; make it 600 so that only its owner can read it")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The text is not a key.
    #[error("the master key in {origin} is not 64 hexadecimal digits")]
    NotAKey {
        /// File or variable.
        origin: String,
    },
    /// The value was sealed with another key, for another purpose, or is damaged.
    #[error("{what} does not open with this master key; was the key file replaced or the database copied?")]
    Sealed {
        /// What it was sealed for.
        what: String,
    },
    /// The cryptographic library refused.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// Seals and opens.
pub struct Vault {
    key: RandomizedNonceKey,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault")
    }
}

impl Vault {
    /// A vault under a key of 32 bytes.
    ///
    /// # Errors
    /// [`VaultError::Crypto`].
    pub fn new(key: &[u8; 32]) -> Result<Self, VaultError> {
        Ok(Self { key: RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| VaultError::Crypto)? })
    }

    /// A vault under the key in `path`, which is made if it does not exist.
    ///
    /// # Errors
    /// [`VaultError`], naming the file.
    pub fn from_file(path: &Path) -> Result<Self, VaultError> {
        let file_error = |source| VaultError::File { path: path.to_owned(), source };
        if !path.try_exists().map_err(file_error)? {
            let text = Zeroizing::new(hex::encode(Zeroizing::new(random32()?).as_slice()));
            create_private(path, &text).map_err(file_error)?;
            tracing::warn!(path = %path.display(), "made a new master key; keep a copy apart from the database");
        }
        check_mode(path)?;
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(file_error)?);
        Self::from_hex(&text, || path.display().to_string())
    }

    /// A vault under the key in a secret of the configuration.
    ///
    /// # Errors
    /// [`VaultError::NotAKey`].
    pub fn from_secret(text: &SecretString, origin: &str) -> Result<Self, VaultError> {
        Self::from_hex(text.expose_secret(), || origin.to_owned())
    }

    fn from_hex(text: &str, origin: impl Fn() -> String) -> Result<Self, VaultError> {
        let mut key = Zeroizing::new([0_u8; 32]);
        hex::decode_to_slice(text.trim(), key.as_mut_slice())
            .map_err(|_| VaultError::NotAKey { origin: origin() })?;
        Self::new(&key)
    }

    /// Seals `plain` for `what`.
    ///
    /// # Errors
    /// [`VaultError::Crypto`].
    pub fn seal(&self, what: &str, plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut body = plain.to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(what.as_bytes()), &mut body)
            .map_err(|_| VaultError::Crypto)?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + body.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&body);
        Ok(sealed)
    }

    /// Opens what was sealed for `what`.
    ///
    /// # Errors
    /// [`VaultError::Sealed`].
    pub fn open(&self, what: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let refuse = || VaultError::Sealed { what: what.to_owned() };
        let (&version, rest) = sealed.split_first().ok_or_else(refuse)?;
        let (nonce, body) = rest.split_at_checked(NONCE_LEN).ok_or_else(refuse)?;
        if version != VERSION {
            return Err(refuse());
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| refuse())?;
        let mut body = Zeroizing::new(body.to_vec());
        let n_plain =
            self.key.open_in_place(nonce, Aad::from(what.as_bytes()), &mut body).map_err(|_| refuse())?.len();
        body.truncate(n_plain);
        Ok(body)
    }
}

/// 32 random bytes.
///
/// # Errors
/// [`VaultError::Crypto`].
pub fn random32() -> Result<[u8; 32], VaultError> {
    let mut bytes = [0_u8; 32];
    rand::fill(&mut bytes).map_err(|_| VaultError::Crypto)?;
    Ok(bytes)
}

fn create_private(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

#[cfg(unix)]
fn check_mode(path: &Path) -> Result<(), VaultError> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata =
        std::fs::metadata(path).map_err(|source| VaultError::File { path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(VaultError::Mode { path: path.to_owned(), mode }) }
}

#[cfg(not(unix))]
fn check_mode(_path: &Path) -> Result<(), VaultError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_for_what_it_was_sealed() {
        let vault = Vault::new(&[7; 32]).unwrap();
        let sealed = vault.seal("hypervisor a", b"secret").unwrap();
        assert_eq!(vault.open("hypervisor a", &sealed).unwrap().as_slice(), b"secret");
        assert!(vault.open("hypervisor b", &sealed).is_err());
        assert!(Vault::new(&[8; 32]).unwrap().open("hypervisor a", &sealed).is_err());
        for cut in 0..sealed.len() {
            assert!(vault.open("hypervisor a", &sealed[..cut]).is_err());
        }
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
    }

    #[test]
    fn the_key_file_is_made_once_and_must_be_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/master.key");
        let sealed = Vault::from_file(&path).unwrap().seal("x", b"1").unwrap();
        assert_eq!(Vault::from_file(&path).unwrap().open("x", &sealed).unwrap().as_slice(), b"1");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            assert!(matches!(Vault::from_file(&path), Err(VaultError::Mode { mode: 0o644, .. })));
        }
    }
}
