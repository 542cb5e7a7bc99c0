//! Data keys: made, opened, and sealed anew under another key. A sealed one names its key, so that it can be opened
//! without being told which; the encryption context is bound to it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Call, error, invalid};
use crate::faults::Refusal;
use crate::world::kms::KmsKey;

/// What a sealed data key begins with; the length of its key's ARN in one byte, the ARN, a nonce, and the sealed
/// bytes with their tag follow.
const MAGIC: &[u8] = b"awssim-1";

pub(super) fn generate(call: &Call<'_>, with_plaintext: bool) -> Result<Value, Refusal> {
    let action = if with_plaintext { "GenerateDataKey" } else { "GenerateDataKeyWithoutPlaintext" };
    let n_bytes = match (call.text("KeySpec"), call.number("NumberOfBytes")) {
        (Some("AES_256"), None) => 32,
        (Some("AES_128"), None) => 16,
        (None, Some(n @ 1..=1_024)) => usize::try_from(n).unwrap_or(32),
        _ => return Err(invalid("Please specify either number of bytes (1 to 1024) or key spec.")),
    };
    let key = call.usable_key("KeyId", action)?;
    call.end_dry_run()?;
    let plain: Vec<u8> = (0..n_bytes).map(|_| rand::random::<u8>()).collect();
    let sealed = seal(&key, context_of(call, "EncryptionContext"), &plain)?;
    let mut answer = json!({ "KeyId": key.arn, "CiphertextBlob": STANDARD.encode(sealed) });
    if let Some(fields) = answer.as_object_mut().filter(|_| with_plaintext) {
        fields.insert("Plaintext".to_owned(), STANDARD.encode(plain).into());
    }
    Ok(answer)
}

pub(super) fn decrypt(call: &Call<'_>) -> Result<Value, Refusal> {
    let (key, sealed) = source(call, "KeyId", "Decrypt")?;
    let plain =
        sealed.map(|sealed| open(&key, context_of(call, "EncryptionContext"), &sealed)).transpose()?;
    call.end_dry_run()?;
    let plain = plain.ok_or_else(bad_ciphertext)?;
    Ok(json!({
        "KeyId": key.arn,
        "Plaintext": STANDARD.encode(plain),
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
    }))
}

pub(super) fn re_encrypt(call: &Call<'_>) -> Result<Value, Refusal> {
    let (from, sealed) = source(call, "SourceKeyId", "ReEncryptFrom")?;
    let to = call.usable_key("DestinationKeyId", "ReEncryptTo")?;
    let context = context_of(call, "SourceEncryptionContext");
    let plain = sealed.map(|sealed| open(&from, context, &sealed)).transpose()?;
    call.end_dry_run()?;
    let plain = plain.ok_or_else(bad_ciphertext)?;
    let sealed = seal(&to, context_of(call, "DestinationEncryptionContext"), &plain)?;
    Ok(json!({
        "CiphertextBlob": STANDARD.encode(sealed),
        "SourceKeyId": from.arn,
        "KeyId": to.arn,
        "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
    }))
}

/// The key to open with, permitted and usable, and what is to be opened: nothing in a dry run that asks for the
/// permission alone.
fn source(call: &Call<'_>, parameter: &str, action: &str) -> Result<(KmsKey, Option<Vec<u8>>), Refusal> {
    let without =
        call.flag("DryRun") && call.texts("DryRunModifiers").iter().any(|m| m == "IGNORE_CIPHERTEXT");
    if call.text(parameter).is_some() {
        let key = call.usable_key(parameter, action)?;
        if without {
            return Ok((key, None));
        }
        let (arn, sealed) = read_blob(call)?;
        if arn != key.arn {
            let message =
                "The key ID in the request does not identify a key that can perform this operation.";
            return Err(error("IncorrectKeyException", message));
        }
        return Ok((key, Some(sealed)));
    }
    if without {
        return Err(invalid(format!("{parameter} must be given when the ciphertext is ignored")));
    }
    let (arn, sealed) = read_blob(call)?;
    let key = call.key_named(&arn, action)?;
    key.usable().map_err(super::refused)?;
    Ok((key, Some(sealed)))
}

fn bad_ciphertext() -> Refusal {
    error("InvalidCiphertextException", "The ciphertext is not valid under its key and context.")
}

/// ARN of the key, and nonce with sealed bytes, of the blob in the request.
fn read_blob(call: &Call<'_>) -> Result<(String, Vec<u8>), Refusal> {
    let blob = STANDARD.decode(call.required("CiphertextBlob")?).map_err(|_| bad_ciphertext())?;
    let parse = || {
        let (length, rest) = blob.strip_prefix(MAGIC)?.split_first()?;
        let (arn, sealed) = rest.split_at_checked(usize::from(*length))?;
        Some((String::from_utf8(arn.to_vec()).ok()?, sealed.to_vec()))
    };
    parse().ok_or_else(bad_ciphertext)
}

/// The encryption context as bytes; JSON objects keep their keys sorted.
fn context_of(call: &Call<'_>, name: &str) -> Vec<u8> {
    let context =
        call.parameters.get(name).filter(|context| context.as_object().is_some_and(|o| !o.is_empty()));
    context.map(Value::to_string).unwrap_or_default().into_bytes()
}

fn cipher(key: &KmsKey) -> Result<LessSafeKey, Refusal> {
    let material = hex::decode(&key.material).unwrap_or_default();
    let unbound = UnboundKey::new(&AES_256_GCM, &material);
    unbound.map(LessSafeKey::new).map_err(|_| error("KMSInternalException", "The key's material is damaged"))
}

fn seal(key: &KmsKey, context: Vec<u8>, plain: &[u8]) -> Result<Vec<u8>, Refusal> {
    let nonce: [u8; NONCE_LEN] = rand::random();
    let mut sealed = plain.to_vec();
    let done = cipher(key)?.seal_in_place_append_tag(
        Nonce::assume_unique_for_key(nonce),
        Aad::from(context),
        &mut sealed,
    );
    done.map_err(|_| error("KMSInternalException", "The data could not be sealed"))?;
    let length = u8::try_from(key.arn.len()).unwrap_or(u8::MAX);
    Ok([MAGIC, &[length], key.arn.as_bytes(), &nonce, &sealed].concat())
}

fn open(key: &KmsKey, context: Vec<u8>, sealed: &[u8]) -> Result<Vec<u8>, Refusal> {
    let (nonce, bytes) = sealed.split_at_checked(NONCE_LEN).ok_or_else(bad_ciphertext)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| bad_ciphertext())?;
    let mut bytes = bytes.to_vec();
    let plain =
        cipher(key)?.open_in_place(nonce, Aad::from(context), &mut bytes).map_err(|_| bad_ciphertext())?;
    Ok(plain.to_vec())
}
