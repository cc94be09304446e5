//! Digests of files and of folders.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// A sha256, written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of what went into the hasher.
    pub(crate) fn of_hasher(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// The digits without the prefix.
    pub(crate) fn hex(&self) -> String {
        let halves = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        halves
            .filter_map(|half| char::from_digit(u32::from(half), 16))
            .collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not of the form sha256:<64 hex digits>");
        let hex = text.strip_prefix("sha256:").ok_or_else(wrong)?;
        if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// One file of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its path inside the folder, with `/` between the parts.
    pub(crate) path: String,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// The digest of its bytes.
    pub(crate) digest: Digest,
}

/// The digest of a folder: the sha256 of its manifest, one line `path size sha256` for each file,
/// sorted by path.
pub(crate) fn manifest(entries: &[Entry]) -> Digest {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
    let lines: Vec<String> = sorted
        .iter()
        .map(|entry| format!("{} {} {}\n", entry.path, entry.size, entry.digest.hex()))
        .collect();
    Digest::of(lines.concat().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_is_written_as_it_is_read() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
    }

    #[test]
    fn anything_but_a_whole_sha256_is_refused() {
        for wrong in [
            "",
            "sha256:",
            "sha256:abc",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
        ] {
            assert!(wrong.parse::<Digest>().is_err(), "{wrong:?}");
        }
        EMPTY.replace("e3", "+3").parse::<Digest>().unwrap_err();
    }

    #[test]
    fn a_manifest_does_not_depend_on_the_order_of_its_files() {
        let entry = |path: &str, bytes: &[u8]| Entry {
            path: path.to_owned(),
            size: 1,
            digest: Digest::of(bytes),
        };
        let (a, b) = (entry("a/1", b"x"), entry("b", b"y"));
        assert_eq!(
            manifest(&[a.clone(), b.clone()]),
            manifest(&[b.clone(), a.clone()])
        );
        let lines = format!("a/1 1 {}\nb 1 {}\n", a.digest.hex(), b.digest.hex());
        assert_eq!(manifest(&[b, a]), Digest::of(lines.as_bytes()));
    }
}
