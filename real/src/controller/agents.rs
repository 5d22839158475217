//! The agents of a run as the controller holds them: their links, its own service, and the arrivals that are fed to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration as Wall, Instant as Clock};

use medes_engine::id::NodeId;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::link::{Event, Events, Link, Send as ToLink};
use super::run::TICK;
use super::{Arrival, Directory, Plan, RunError, settle, transport};
use crate::settings::TransportKind;
use crate::wire::MAX_MESSAGE;
use crate::wire::controller_server::ControllerServer;
use crate::wire::seal::{self, Tokens};

/// For the agents' last purges.
const LAST: Wall = Wall::from_secs(30);

/// Hands in arrivals at their times. A thread of its own: a timer of the runtime would be up to a millisecond late.
pub(super) fn feed(
    start: Clock,
    mut next_batch: impl FnMut(&mut Vec<Arrival>) -> bool,
    to: mpsc::UnboundedSender<Fed>,
    stop: &AtomicBool,
) {
    let mut batch = Vec::new();
    loop {
        batch.clear();
        let more = next_batch(&mut batch);
        for arrival in &batch {
            let at = start + Wall::from_micros(arrival.at.as_micros());
            loop {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let left = at.saturating_duration_since(Clock::now());
                if left.is_zero() {
                    break;
                }
                std::thread::sleep(left.min(TICK));
            }
            if to.send(Fed::Arrival(*arrival)).is_err() {
                return;
            }
        }
        if !more {
            // The loop may have ended already.
            let _ = to.send(Fed::End);
            return;
        }
    }
}

/// What the feeder says.
pub(super) enum Fed {
    Arrival(Arrival),
    End,
}

/// The links to the agents, and the controller's own service.
pub(super) struct Cluster {
    links: Vec<(mpsc::UnboundedSender<ToLink>, JoinHandle<()>)>,
    pub(super) events: mpsc::UnboundedReceiver<(NodeId, Clock, Event)>,
    pub(super) arrivals: mpsc::UnboundedSender<Fed>,
    pub(super) fed: mpsc::UnboundedReceiver<Fed>,
    service: JoinHandle<()>,
    pub(super) notes: Vec<String>,
    /// Told of agents that others cannot reach.
    pub(super) suspected: Vec<Arc<Notify>>,
    /// How base pages are read.
    pub(super) transport: TransportKind,
}

impl Cluster {
    /// Starts the service and the links, and waits for the agents. Those that are there, by generation; 0 for those that are not.
    pub(super) async fn reach<D: Directory>(
        plan: &Plan<'_>,
        directory: Arc<D>,
        tick: &mut impl FnMut(u64) -> bool,
    ) -> Result<(Self, Vec<u32>), RunError> {
        let fail = |source| RunError::Listen { address: plan.listen, source };
        let listener = TcpListener::bind(plan.listen).await.map_err(fail)?;
        let port = listener.local_addr().map_err(fail)?.port();
        let tokens = Tokens::default();
        let checked = tokens.clone();
        let server = ControllerServer::from_arc(directory)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let server = tonic::service::interceptor::InterceptedService::new(server, move |request: tonic::Request<()>| {
            checked.check(&request).map(|_| request)
        });
        let service = tokio::spawn(async move {
            let serving = Server::builder()
                .add_service(server)
                .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
            if let Err(e) = serving.await {
                tracing::error!("the controller's gRPC server ended: {e}");
            }
        });
        let mut settings = plan.settings.clone();
        let mut notes = Vec::new();
        let epoch = seal::number();
        settings.epoch = epoch;
        settings.controller = format!("{}:{port}", plan.host);
        let suspected: Vec<Arc<Notify>> = plan.nodes.iter().map(|_| Arc::default()).collect();
        let link = |i: usize, settings: &str| Link {
            node: NodeId(i as u32),
            address: plan.nodes[i].clone(),
            epoch,
            settings: settings.to_owned(),
            secret: plan.secret.clone(),
            tokens: tokens.clone(),
            suspected: suspected[i].clone(),
        };
        if settings.transport == TransportKind::Auto {
            let links = (0..plan.nodes.len()).map(|i| link(i, "")).collect();
            let chosen = transport::choose(links, plan.start_timeout, tick).await;
            let Some((kind, note)) = chosen else {
                service.abort();
                return Err(RunError::Stopped);
            };
            settings.transport = kind;
            notes.extend(note);
        }
        let text = serde_json::to_string(&settings).unwrap_or_default();
        let (events_to, events) = mpsc::unbounded_channel();
        let links = (0..plan.nodes.len()).map(|i| {
            let (orders, taken) = mpsc::unbounded_channel();
            (orders, tokio::spawn(link(i, &text).drive(taken, Events::clone(&events_to))))
        });
        let (arrivals, fed) = mpsc::unbounded_channel();
        let links = links.collect();
        let transport = settings.transport;
        let mut cluster = Self { links, events, arrivals, fed, service, notes, suspected, transport };
        let there = match cluster.wait(plan, tick).await {
            Ok(there) => cluster.rest(plan, tick).await.map(|()| there),
            Err(e) => Err(e),
        };
        match there {
            Ok(there) => Ok((cluster, there)),
            Err(e) => {
                cluster.close().await;
                Err(e)
            }
        }
    }

    async fn wait(&mut self, plan: &Plan<'_>, tick: &mut impl FnMut(u64) -> bool) -> Result<Vec<u32>, RunError> {
        let mut there = vec![0; plan.nodes.len()];
        let end = Clock::now() + plan.start_timeout;
        while there.contains(&0) && Clock::now() < end {
            if !tick(0) {
                return Err(RunError::Stopped);
            }
            match tokio::time::timeout(TICK, self.events.recv()).await {
                Ok(Some((node, _, Event::Up { generation, trouble }))) => {
                    there[node.index()] = generation;
                    if !trouble.is_empty() {
                        self.notes.push(format!("agent {node}: {trouble}"));
                    }
                }
                Ok(Some((node, _, Event::Lost { .. }))) => there[node.index()] = 0,
                Ok(Some((node, _, Event::Refused { address, reason }))) => {
                    return Err(RunError::Refused { node, address, reason });
                }
                _ => {}
            }
        }
        if there.iter().all(|g| *g == 0) {
            let nodes: Vec<String> = plan.nodes.iter().map(|n| n.borrow().clone()).collect();
            return Err(RunError::NoAgent { nodes: nodes.join(", "), after: plan.start_timeout });
        }
        Ok(there)
    }

    /// Waits for the machine to come to rest.
    async fn rest(&mut self, plan: &Plan<'_>, tick: &mut impl FnMut(u64) -> bool) -> Result<(), RunError> {
        let mut on = true;
        let at_work = settle::rest(plan.rest, || {
            on = tick(0);
            on
        });
        let note =
            |part| format!("the machine was at work when the run began: {:.0} % of its processors' time", 100.0 * part);
        self.notes.extend(at_work.await.map(note));
        if on { Ok(()) } else { Err(RunError::Stopped) }
    }

    pub(super) fn senders(&self) -> Vec<mpsc::UnboundedSender<ToLink>> {
        self.links.iter().map(|l| l.0.clone()).collect()
    }

    /// Ends the run at the agents.
    pub(super) async fn close(self) {
        let ended = async {
            for (orders, link) in self.links {
                drop(orders);
                // A link that panicked has no agent to end.
                let _ = link.await;
            }
        };
        let _ = tokio::time::timeout(LAST, ended).await;
        self.service.abort();
    }
}
