//! The agent's side of the `Agent` service: who may speak, and which run is on.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::world::World;
use super::{AgentConfig, Begin, ControllerLink};
use crate::settings::Settings;
use crate::wire::seal::{self, Token, Tokens};
use crate::wire::{Hello, Nothing, Order, OrderKind, PROTOCOL, Said, Terminate, Welcome, agent_server};

pub(super) struct Agent {
    config: AgentConfig,
    incarnation: u64,
    nonce: Vec<u8>,
    begin: Arc<Begin>,
    tokens: Tokens,
    /// One at a time is made or dropped; the lock is held meanwhile.
    world: tokio::sync::Mutex<Option<Arc<World>>>,
    contact: Arc<Mutex<Contact>>,
    terminated: Notify,
}

struct Contact {
    streams: u32,
    last: Instant,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    pub(super) fn new(config: AgentConfig, incarnation: u64, begin: Arc<Begin>) -> Self {
        Self {
            config,
            incarnation,
            nonce: seal::nonce(),
            begin,
            tokens: Tokens::default(),
            world: tokio::sync::Mutex::default(),
            contact: Arc::new(Mutex::new(Contact { streams: 0, last: Instant::now() })),
            terminated: Notify::new(),
        }
    }

    /// Ready when the agent is to end: told so, or alone for too long. Watches the lease meanwhile.
    pub(super) async fn ended(&self) {
        let mut tick = tokio::time::interval(self.config.lease / 10);
        loop {
            tokio::select! {
                () = self.terminated.notified() => return,
                _ = tick.tick() => {
                    let alone = {
                        let contact = lock(&self.contact);
                        contact.streams == 0 && contact.last.elapsed() > self.config.lease
                    };
                    if alone {
                        self.drop_world().await;
                        if self.config.ends_with_lease {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Purges everything.
    pub(super) async fn drop_world(&self) {
        if let Some(world) = self.world.lock().await.take() {
            world.end().await;
        }
    }

    /// The run that a stream begins, or goes on with.
    async fn begin(&self, order: &Order, token: Token) -> Result<Arc<World>, Status> {
        if order.kind() != OrderKind::Begin {
            return Err(Status::failed_precondition("the first order of a stream is Begin"));
        }
        let settings: Settings = serde_json::from_str(&order.arguments)
            .map_err(|e| Status::invalid_argument(format!("settings of the run: {e}")))?;
        let mut world = self.world.lock().await;
        match world.take() {
            Some(there) if order.again && there.epoch == settings.epoch => {
                *world = Some(there.clone());
                return Ok(there);
            }
            Some(other) => other.end().await,
            None => {}
        }
        if order.again {
            return Err(Status::not_found("nothing is left of that run"));
        }
        let (peers, seen) = mpsc::unbounded_channel();
        let link = ControllerLink {
            peers,
            address: settings.controller.clone(),
            token,
            runtime: tokio::runtime::Handle::current(),
            node: self.config.node,
            incarnation: self.incarnation,
        };
        let (begin, epoch) = (self.begin.clone(), settings.epoch);
        let made = tokio::task::spawn_blocking(move || begin(&settings, link))
            .await
            .map_err(|e| Status::internal(format!("making sandboxes possible: {e}")))?
            .map_err(|e| Status::failed_precondition(format!("agent {}: {e}", self.config.node)))?;
        let made = Arc::new(World::new(epoch, made, self.config.report_every));
        made.clone().tell_of_peers(seen);
        *world = Some(made.clone());
        Ok(made)
    }
}

/// Whether a host may call an agent: its own host, the hosts of its cluster file, any where it has no such file.
fn may_call(callers: &[IpAddr], from: IpAddr) -> bool {
    let from = from.to_canonical();
    callers.is_empty() || from.is_loopback() || callers.iter().any(|c| c.to_canonical() == from)
}

/// Counts a stream as long as it lives.
struct InContact(Arc<Mutex<Contact>>);

impl InContact {
    fn new(contact: &Arc<Mutex<Contact>>) -> Self {
        lock(contact).streams += 1;
        Self(contact.clone())
    }
}

impl Drop for InContact {
    fn drop(&mut self) {
        let mut contact = lock(&self.0);
        contact.streams -= 1;
        contact.last = Instant::now();
    }
}

#[tonic::async_trait]
impl agent_server::Agent for Agent {
    async fn hello(&self, request: Request<Hello>) -> Result<Response<Welcome>, Status> {
        // Every other call belongs to a session, and sessions begin here.
        if let Some(from) = request.remote_addr().filter(|from| !may_call(&self.config.callers, from.ip())) {
            return Err(Status::permission_denied(format!(
                "agent {} takes no orders from {}, which is no host of its cluster file: mend cluster.json there, or call from a host it names",
                self.config.node,
                from.ip()
            )));
        }
        let hello = request.into_inner();
        if hello.version != PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "agent {} speaks protocol {PROTOCOL}, the controller {}: run the same build of medes on all hosts",
                self.config.node, hello.version
            )));
        }
        if hello.node != self.config.node {
            return Err(Status::failed_precondition(format!(
                "this is agent {}, the controller took it for agent {}: mend cluster.json or --node",
                self.config.node, hello.node
            )));
        }
        let secret = self.config.secret.as_ref();
        let token = Token::new(secret, &hello, &self.nonce, self.incarnation);
        self.tokens.add(token);
        Ok(Response::new(Welcome {
            version: PROTOCOL,
            node: self.config.node,
            incarnation: self.incarnation,
            nonce: self.nonce.clone(),
            seal: seal::answer(secret, &hello, &self.nonce, self.incarnation),
            trouble: self.config.trouble.clone(),
            verbs: self.config.verbs.is_ok(),
            no_verbs: self.config.verbs.clone().err().unwrap_or_default(),
        }))
    }

    type WorkStream = Pin<Box<dyn Stream<Item = Result<Said, Status>> + Send>>;

    async fn work(&self, request: Request<Streaming<Order>>) -> Result<Response<Self::WorkStream>, Status> {
        let token = self.tokens.check(&request)?;
        let contact = InContact::new(&self.contact);
        let mut orders = request.into_inner();
        let Some(first) = orders.message().await? else {
            return Err(Status::failed_precondition("the first order of a stream is Begin"));
        };
        let world = self.begin(&first, token).await?;
        let said = world.attach();
        let taking = world.clone();
        let stream = UnboundedReceiverStream::new(said).map(Ok);
        tokio::spawn(async move {
            // Ends with the stream, or with an error on it: the controller is gone then, or comes again.
            while let Ok(Some(order)) = orders.message().await {
                taking.take(order);
            }
            drop(contact);
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn terminate(&self, request: Request<Terminate>) -> Result<Response<Nothing>, Status> {
        self.tokens.check(&request)?;
        self.drop_world().await;
        self.terminated.notify_one();
        Ok(Response::new(Nothing {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_the_cluster_and_the_own_host_may_call() {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        let callers = [ip("10.0.0.1"), ip("fd00::1")];
        for from in ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "127.0.0.1", "::1"] {
            assert!(may_call(&callers, ip(from)), "{from}");
        }
        for from in ["10.0.0.2", "fd00::2"] {
            assert!(!may_call(&callers, ip(from)) && may_call(&[], ip(from)), "{from}");
        }
    }
}
