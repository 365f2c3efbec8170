//! Whether somebody who is trusted here signed a file: minisign's format, Ed25519 over BLAKE2b.
#![expect(clippy::disallowed_methods, reason = "programs are files")]

use std::fs::File;
use std::io::Read;
use std::path::Path;

use minisign_verify::{PublicKey, Signature};

use super::{UpgradeError, io};

/// Bytes of a file that are read at once.
const PIECE: usize = 64 << 10;
/// A signature is a few lines.
pub const SIGNATURE_BYTES: u64 = 4 << 10;

/// A public key as it stands in agent.toml: the second line of `minisign.pub`.
pub fn is_key(text: &str) -> bool {
    PublicKey::from_base64(text).is_ok()
}

/// Checks a file against a signature and the keys that are trusted. Returns the trusted comment, which
/// is signed as well.
pub fn check(file: &Path, signature: &str, keys: &[String]) -> Result<String, UpgradeError> {
    check_bytes(|| File::open(file), &file.display().to_string(), signature, keys)
}

/// The same for bytes that can be read anew for each key.
pub(super) fn check_bytes<R: Read>(
    open: impl Fn() -> std::io::Result<R>,
    name: &str,
    signature: &str,
    keys: &[String],
) -> Result<String, UpgradeError> {
    let refuse = |reason: String| UpgradeError::Unsigned { file: name.to_owned(), reason };
    if keys.is_empty() {
        return Err(refuse(
            "no key is trusted here: put the public key of whoever signs releases into agent.toml, under [upgrade], \
             keys = [\"RW...\"]"
                .into(),
        ));
    }
    let signature = Signature::decode(signature).map_err(|error| {
        refuse(format!("its signature makes no sense ({error}): make one with minisign -S -m FILE"))
    })?;
    let mut why = String::new();
    for key in keys {
        let Ok(key) = PublicKey::from_base64(key) else { continue };
        let mut verifier = match key.verify_stream(&signature) {
            Ok(verifier) => verifier,
            // Not this key's, or not hashed first as every minisign since 0.6 does.
            Err(error) => {
                why = error.to_string();
                continue;
            }
        };
        let step = || io(format!("read {name}"));
        let mut bytes = open().map_err(step())?;
        let mut piece = vec![0; PIECE];
        loop {
            match bytes.read(&mut piece).map_err(step())? {
                0 => break,
                read => verifier.update(&piece[..read]),
            }
        }
        match verifier.finalize() {
            Ok(()) => return Ok(signature.trusted_comment().to_owned()),
            Err(error) => why = error.to_string(),
        }
    }
    Err(refuse(format!("it is signed by none of the {} keys in agent.toml ({why})", keys.len())))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The key and signature of minisign's own documentation, over the four bytes `test`.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    pub(crate) const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1633700835\tfile:test\tprehashed
wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==";

    #[test]
    fn only_what_was_signed_by_a_trusted_key_passes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("test");
        std::fs::write(&file, "test").unwrap();
        let keys = [KEY.to_owned()];
        assert!(check(&file, SIGNATURE, &keys).unwrap().contains("file:test"));
        let refused = |signature: &str, keys: &[String]| check(&file, signature, keys).unwrap_err().to_string();
        assert!(refused(SIGNATURE, &[]).contains("agent.toml"));
        assert!(refused("", &keys).contains("minisign -S"));
        let other = "RWSmKaOrT6m3TGwjwBovgOmlhSbyBUw3hyhnSOYruHXbJa36xHr8rq2M".to_owned();
        assert!(is_key(&other));
        assert!(refused(SIGNATURE, &[other]).contains("none of the 1 keys"));
        let changed = SIGNATURE.replace("file:test", "file:text");
        assert!(refused(&changed, &keys).contains("none of the 1 keys"), "the comment is signed too");
        std::fs::write(&file, "tesT").unwrap();
        assert!(refused(SIGNATURE, &keys).contains("none of the 1 keys"));
        assert!(!is_key("RWQ") && !is_key(""));
    }
}
