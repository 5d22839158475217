//! How a reader on another machine learns which regions `medes rdma serve` has: over TCP, for those who know the cluster's secret. (Agents
//! do that over gRPC; here no agent runs.)

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use medes_engine::id::NodeId;
use serde::{Deserialize, Serialize};

use crate::transport::{Region, Secret};

const PURPOSE: &str = "bench offers";
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize)]
struct Offer {
    transport: String,
    owner: NodeId,
    incarnation: u64,
    address: u64,
    key: u64,
    pages: u32,
}

/// Tells everybody who knows the secret what there is, one after the other, until accepting fails.
///
/// # Errors
/// The listener's.
pub fn serve(listener: &TcpListener, secret: &Secret, regions: &[(String, Region)]) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        // Who hangs up or does not know the secret has no say in whether others are served.
        let _ = answer(stream, secret, regions);
    }
}

fn answer(mut stream: TcpStream, secret: &Secret, regions: &[(String, Region)]) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    stream.write_all(&nonce)?;
    let mut seal = [0; 32];
    stream.read_exact(&mut seal)?;
    if !secret.sealed(PURPOSE, &nonce, &seal) {
        return Ok(());
    }
    let offers: Vec<Offer> = regions
        .iter()
        .map(|(transport, r)| Offer {
            transport: transport.clone(),
            owner: r.owner,
            incarnation: r.incarnation,
            address: r.address,
            key: r.key,
            pages: r.pages,
        })
        .collect();
    stream.write_all(&serde_json::to_vec(&offers)?)
}

/// What a server has.
///
/// # Errors
/// Nobody serves there, or it has another secret.
pub fn ask(server: SocketAddr, secret: &Secret) -> io::Result<Vec<(String, Region)>> {
    let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut nonce = [0; 16];
    stream.read_exact(&mut nonce)?;
    stream.write_all(&secret.seal(PURPOSE, &nonce))?;
    let mut text = Vec::new();
    stream.take(1 << 20).read_to_end(&mut text)?;
    if text.is_empty() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the secrets differ"));
    }
    let offers: Vec<Offer> = serde_json::from_slice(&text)?;
    let region = |o: Offer| {
        let Offer { transport, owner, incarnation, address, key, pages } = o;
        (transport, Region { owner, incarnation, address, key, pages })
    };
    Ok(offers.into_iter().map(region).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_knows_the_secret_is_told_and_nobody_else() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let region = Region { owner: NodeId(1), incarnation: u64::MAX, address: 1 << 46, key: 77, pages: 9 };
        std::thread::spawn(move || serve(&listener, &Secret::new("ours"), &[("tcp".into(), region)]));
        let error = ask(address, &Secret::new("theirs")).expect_err("another secret");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(ask(address, &Secret::new("ours")).expect("told"), [("tcp".to_owned(), region)]);
    }
}
