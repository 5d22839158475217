//! Which transport a run takes when its file leaves that to the agents.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::link::{Link, has_verbs};
use super::run::TICK;
use crate::settings::TransportKind;

/// Between questions to an agent that is not there yet.
const PAUSE: Duration = Duration::from_millis(100);

/// `verbs` if there are several agents and all that are there by the end of `patience` can do it, else `tcp`; with a note if that is not
/// plain. Nothing if `tick` stopped it.
pub(super) async fn choose(
    links: Vec<Link>,
    patience: Duration,
    tick: &mut impl FnMut(u64) -> bool,
) -> Option<(TransportKind, Option<String>)> {
    // Nobody to read from.
    if links.len() < 2 {
        return Some((TransportKind::Tcp, None));
    }
    let end = Instant::now() + patience;
    let mut asked = JoinSet::new();
    for link in links {
        asked.spawn(async move {
            while Instant::now() < end {
                if let Some(said) = has_verbs(&link).await {
                    return Some((link.node, said));
                }
                tokio::time::sleep(PAUSE).await;
            }
            None
        });
    }
    let (mut can, mut cannot) = (0, Vec::new());
    while !asked.is_empty() {
        if !tick(0) {
            return None;
        }
        match tokio::time::timeout(TICK, asked.join_next()).await {
            Ok(Some(Ok(Some((_, Ok(())))))) => can += 1,
            Ok(Some(Ok(Some((node, Err(why)))))) => cannot.push(format!("agent {node} has none ({why})")),
            // One that is not there, or a tick.
            _ => {}
        }
    }
    Some(decide(can, &cannot))
}

fn decide(can: usize, cannot: &[String]) -> (TransportKind, Option<String>) {
    match (can, cannot) {
        (0, _) => (TransportKind::Tcp, None),
        (_, []) => (TransportKind::Verbs, Some("base pages were read over verbs: all agents have RDMA devices".into())),
        (_, cannot) => {
            let why = cannot.join("; ");
            (TransportKind::Tcp, Some(format!("base pages were read over tcp, not over verbs: {why}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_only_where_all_have_it() {
        assert_eq!(decide(0, &["agent 0 has none (no)".into()]), (TransportKind::Tcp, None));
        assert_eq!(decide(3, &[]).0, TransportKind::Verbs);
        let (kind, note) = decide(2, &["agent 1 has none (no device)".into()]);
        assert_eq!(kind, TransportKind::Tcp);
        assert!(note.is_some_and(|n| n.contains("agent 1") && n.contains("no device")));
    }
}
