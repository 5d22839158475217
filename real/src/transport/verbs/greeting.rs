//! What two agents say to each other while they connect: who they are, and that they know the cluster's secret.
//!
//! It travels in the connection manager's private data (56 bytes at most). The reader's greeting is sealed for one owner and one address;
//! the owner's answer is sealed over the reader's nonce, so that a reader knows that it reads from an agent of its cluster. Left
//! out: a greeting that somebody recorded opens a connection again, from an address of the cluster; who can record on an RDMA network reads
//! the pages as they pass, for nothing there is encrypted.

use medes_engine::id::NodeId;

use crate::transport::Secret;

const MAGIC: [u8; 4] = *b"mdv1";
const SEAL: usize = 16;

/// Why an owner says no. The numbers travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Refusal {
    /// The address or node is not in the cluster file.
    Stranger = 1,
    /// The secret differs.
    WrongSecret = 2,
    /// Another version, or no agent at all.
    NotUnderstood = 3,
    /// The owner could not make a connection.
    Trouble = 4,
}

impl Refusal {
    /// The refusal with this number.
    pub fn from_number(n: u8) -> Self {
        [Self::Stranger, Self::WrongSecret, Self::NotUnderstood]
            .into_iter()
            .find(|r| *r as u8 == n)
            .unwrap_or(Self::Trouble)
    }
}

/// A reader's first words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    /// Who wants to read.
    pub reader: NodeId,
    /// From whom.
    pub owner: NodeId,
    /// New each time.
    pub nonce: [u8; 16],
}

impl Greeting {
    fn words(&self) -> Vec<u8> {
        [&MAGIC[..], &self.reader.0.to_le_bytes(), &self.owner.0.to_le_bytes(), &self.nonce].concat()
    }

    /// For the wire.
    pub fn sealed(&self, secret: &Secret) -> Vec<u8> {
        let mut words = self.words();
        let seal = secret.seal("verbs reader", &words);
        words.extend(&seal[..SEAL]);
        words
    }

    /// From the wire. More bytes may follow: the connection manager pads.
    pub fn open(data: &[u8], secret: &Secret) -> Result<Self, Refusal> {
        let (words, seal) = data.split_at_checked(28).ok_or(Refusal::NotUnderstood)?;
        let number = |at: usize| u32::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
        let mut greeting = Self { reader: NodeId(number(4)), owner: NodeId(number(8)), nonce: [0; 16] };
        greeting.nonce.copy_from_slice(&words[12..]);
        let seal = seal.get(..SEAL).filter(|_| words[..4] == MAGIC).ok_or(Refusal::NotUnderstood)?;
        let known = secret.sealed("verbs reader", words, seal);
        if known { Ok(greeting) } else { Err(Refusal::WrongSecret) }
    }
}

/// The owner's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    /// Of the owner's process: regions of another process are gone.
    pub incarnation: u64,
}

impl Welcome {
    fn words(self, greeting: &Greeting) -> Vec<u8> {
        [&greeting.words()[..], &self.incarnation.to_le_bytes()].concat()
    }

    /// For the wire.
    pub fn sealed(self, greeting: &Greeting, secret: &Secret) -> Vec<u8> {
        let seal = secret.seal("verbs owner", &self.words(greeting));
        [&self.incarnation.to_le_bytes()[..], &seal[..SEAL]].concat()
    }

    /// From the wire; nothing if it is not from an agent that knows the secret.
    pub fn open(data: &[u8], greeting: &Greeting, secret: &Secret) -> Option<Self> {
        let welcome = Self { incarnation: u64::from_le_bytes(*data.first_chunk()?) };
        let seal = data.get(8..8 + SEAL)?;
        secret.sealed("verbs owner", &welcome.words(greeting), seal).then_some(welcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_opens_a_greeting_and_its_welcome() {
        let (ours, theirs) = (Secret::new("correct horse"), Secret::new("battery staple"));
        let greeting = Greeting { reader: NodeId(3), owner: NodeId(1), nonce: [7; 16] };
        let mut wire = greeting.sealed(&ours);
        assert!(wire.len() <= 56);
        wire.resize(56, 0);
        assert_eq!(Greeting::open(&wire, &ours), Ok(greeting));
        assert_eq!(Greeting::open(&wire, &theirs), Err(Refusal::WrongSecret));
        assert_eq!(Greeting::open(&wire[..43], &ours), Err(Refusal::NotUnderstood));
        let welcome = Welcome { incarnation: 42 };
        let answer = welcome.sealed(&greeting, &ours);
        assert_eq!(Welcome::open(&answer, &greeting, &ours), Some(welcome));
        assert_eq!(Welcome::open(&answer, &greeting, &theirs), None);
        assert_eq!(Welcome::open(&answer, &Greeting { nonce: [8; 16], ..greeting }, &ours), None, "an old answer");
        for at in 0..44 {
            wire[at] ^= 1;
            assert!(Greeting::open(&wire, &ours).is_err(), "byte {at}");
            wire[at] ^= 1;
        }
    }
}
