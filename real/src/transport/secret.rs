//! The secret that the agents of a cluster share.

use std::fmt;

/// What all agents of a cluster know and nobody else. Never shown.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// From a phrase, or the contents of a file.
    pub fn new(phrase: &str) -> Self {
        Self(blake3::derive_key("medes 2026 transport secret", phrase.as_bytes()))
    }

    /// A tag that only who knows the secret can make: for what, over what.
    pub fn seal(&self, purpose: &str, words: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&(purpose.len() as u64).to_le_bytes()).update(purpose.as_bytes()).update(words);
        *hasher.finalize().as_bytes()
    }

    /// Whether `seal` is the first part of the tag. Takes as long whatever the difference.
    pub fn sealed(&self, purpose: &str, words: &[u8], seal: &[u8]) -> bool {
        let right = self.seal(purpose, words);
        !seal.is_empty() && seal.len() <= right.len() && right.iter().zip(seal).fold(0, |d, (a, b)| d | (a ^ b)) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_for_one_purpose_one_text_and_one_secret_and_is_never_shown() {
        let (ours, theirs) = (Secret::new("ours"), Secret::new("theirs"));
        let seal = ours.seal("greeting", b"words");
        assert!(ours.sealed("greeting", b"words", &seal) && ours.sealed("greeting", b"words", &seal[..16]));
        assert!(!ours.sealed("greeting", b"word", &seal) && !ours.sealed("answer", b"words", &seal));
        assert!(!theirs.sealed("greeting", b"words", &seal) && !ours.sealed("greeting", b"words", &[]));
        assert_eq!(format!("{ours:?}"), "Secret");
    }
}
