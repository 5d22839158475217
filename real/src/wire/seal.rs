//! The shared secret on the control plane: a challenge in the greeting, a keyed seal with every call. Never sent, never shown.
//!
//! The controller sends a nonce and the agent seals it with its own: who answers knows the secret. All calls of the session, both ways,
//! then carry a seal over both nonces, so that what is overheard in one session opens no other.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use crate::transport::Secret;
use crate::wire::{Hello, Welcome};

/// Open sessions at once.
const SESSIONS: usize = 256;
/// Metadata key.
const KEY: &str = "medes-seal";

/// What the calls of one session carry; empty without a secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Token(String);

fn words(hello: &Hello, agent_nonce: &[u8], incarnation: u64) -> Vec<u8> {
    let mut words = Vec::with_capacity(64);
    words.extend_from_slice(&hello.epoch.to_le_bytes());
    words.extend_from_slice(&incarnation.to_le_bytes());
    words.extend_from_slice(&(hello.nonce.len() as u64).to_le_bytes());
    words.extend_from_slice(&hello.nonce);
    words.extend_from_slice(agent_nonce);
    words
}

/// 16 random bytes.
pub fn nonce() -> Vec<u8> {
    let mut nonce = vec![0; 16];
    // Without the system's randomness there is no fresh nonce; the time is one that differs at least.
    if getrandom::fill(&mut nonce).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        nonce.copy_from_slice(&now.as_nanos().to_le_bytes());
    }
    nonce
}

/// A random number, for epochs and incarnations.
pub fn number() -> u64 {
    nonce().iter().take(8).fold(0, |n, b| n << 8 | u64::from(*b))
}

/// The agent's seal in its welcome.
pub fn answer(secret: Option<&Secret>, hello: &Hello, nonce: &[u8], incarnation: u64) -> Vec<u8> {
    secret.map(|s| s.seal("agent", &words(hello, nonce, incarnation)).to_vec()).unwrap_or_default()
}

/// Whether an agent knows the secret; any does where there is none.
pub fn knows(secret: Option<&Secret>, hello: &Hello, welcome: &Welcome) -> bool {
    secret.is_none_or(|s| {
        s.sealed("agent", &words(hello, &welcome.nonce, welcome.incarnation), &welcome.seal) && welcome.seal.len() == 32
    })
}

impl Token {
    /// Of a session.
    pub fn new(secret: Option<&Secret>, hello: &Hello, agent_nonce: &[u8], incarnation: u64) -> Self {
        let Some(secret) = secret else { return Self::default() };
        let seal = secret.seal("session", &words(hello, agent_nonce, incarnation));
        Self(seal.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// Puts it on a call.
    pub fn stamp<T>(&self, mut request: Request<T>) -> Request<T> {
        if let Ok(value) = MetadataValue::try_from(self.0.as_str())
            && !self.0.is_empty()
        {
            request.metadata_mut().insert(KEY, value);
        }
        request
    }

    /// Whether a call carries it; any does where there is no secret. Takes as long whatever the difference.
    ///
    /// # Errors
    /// `unauthenticated`.
    pub fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let given = request.metadata().get(KEY).map(|v| v.as_bytes()).unwrap_or_default();
        let same =
            given.len() == self.0.len() && given.iter().zip(self.0.as_bytes()).fold(0, |d, (a, b)| d | (a ^ b)) == 0;
        if self.0.is_empty() || same {
            Ok(())
        } else {
            Err(Status::unauthenticated(
                "the call is not sealed with the cluster's secret; give all the same MEDES_SECRET",
            ))
        }
    }
}

/// The sessions that are open; the oldest go.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Arc<Mutex<VecDeque<Token>>>);

impl Tokens {
    /// Opens a session.
    pub fn add(&self, token: Token) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() == SESSIONS {
            tokens.pop_front();
        }
        tokens.push_back(token);
    }

    /// The session that a call belongs to.
    ///
    /// # Errors
    /// `unauthenticated`.
    pub fn check<T>(&self, request: &Request<T>) -> Result<Token, Status> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = tokens.iter().rev().find(|t| t.check(request).is_ok()).cloned();
        found.ok_or_else(|| {
            Status::unauthenticated(
                "the call belongs to no session: greet first, and give all the same secret (MEDES_SECRET)",
            )
        })
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_open_to_who_knows_the_secret_and_to_nobody_else() {
        let (ours, theirs) = (Secret::new("ours"), Secret::new("theirs"));
        let hello = Hello { version: 1, node: 0, epoch: 3, nonce: nonce() };
        let (agent, incarnation) = (nonce(), number());
        let seal = answer(Some(&ours), &hello, &agent, incarnation);
        let welcome = Welcome { nonce: agent.clone(), incarnation, seal, ..Welcome::default() };
        assert!(knows(Some(&ours), &hello, &welcome) && knows(None, &hello, &welcome));
        assert!(!knows(Some(&theirs), &hello, &welcome));
        assert!(!knows(Some(&ours), &hello, &Welcome { seal: Vec::new(), ..welcome }));
        let token = Token::new(Some(&ours), &hello, &agent, incarnation);
        assert!(token.check(&token.stamp(Request::new(()))).is_ok());
        assert!(token.check(&Request::new(())).is_err());
        let other = Token::new(Some(&theirs), &hello, &agent, incarnation);
        assert!(token.check(&other.stamp(Request::new(()))).is_err());
        let next = Token::new(Some(&ours), &Hello { nonce: nonce(), ..hello }, &agent, incarnation);
        assert!(token.check(&next.stamp(Request::new(()))).is_err(), "a seal opens its own session only");
        assert!(Token::default().check(&Request::new(())).is_ok());
        assert_eq!(format!("{token:?}"), "Token");
    }
}
