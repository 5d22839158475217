//! An agent: carries out the controller's orders on its node, says how far they are and what memory measures.
//!
//! Orders come over one stream and are taken up in their order; those of one sandbox follow each other, those that take memory wait for
//! the purges before them, all others run side by side. The answers of an order are kept until the controller has them, so that the
//! same order sent again after a broken stream is answered again and not done again.
//!
//! An agent without a controller for longer than its lease purges all it has; one that a controller started for itself then ends.

mod service;
mod world;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::ops::{OpError, Sandboxes};
use crate::settings::Settings;
use crate::transport::{PeerEvent, Secret};
use crate::wire::agent_server::AgentServer;
use crate::wire::seal::Token;
use crate::wire::{MAX_MESSAGE, seal};

/// How an agent behaves.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Which node it is.
    pub node: u32,
    /// What the cluster shares.
    pub secret: Option<Secret>,
    /// Hosts of the cluster, which may call; this host may always, and if there are none any may.
    pub callers: Vec<IpAddr>,
    /// So long without a controller, and all sandboxes are purged.
    pub lease: Duration,
    /// Whether it then ends.
    pub ends_with_lease: bool,
    /// Memory is measured and said this often.
    pub report_every: Duration,
    /// What cannot be done here, for the controller's log; empty if all is well.
    pub trouble: String,
    /// Whether base pages can be read over verbs, and why not.
    pub verbs: Result<(), String>,
}

impl AgentConfig {
    /// With the default times.
    pub fn new(node: u32, secret: Option<Secret>) -> Self {
        Self {
            node,
            secret,
            callers: Vec::new(),
            lease: Duration::from_secs(10),
            ends_with_lease: false,
            report_every: Duration::from_millis(500),
            trouble: String::new(),
            verbs: Err("nobody looked for an RDMA device".into()),
        }
    }
}

/// How the parts of an agent ask the controller.
#[derive(Clone, Debug)]
pub struct ControllerLink {
    /// `host:port` of its service.
    pub address: String,
    /// What calls carry.
    pub token: Token,
    /// Where asynchronous calls run: operations block.
    pub runtime: tokio::runtime::Handle,
    /// Which node asks.
    pub node: u32,
    /// Process of the agent.
    pub incarnation: u64,
    /// Where it is said what the transport sees of other agents.
    pub peers: mpsc::UnboundedSender<PeerEvent>,
}

/// Makes the sandboxes of a run; what it made before is purged when this is called.
pub type Begin = dyn Fn(&Settings, ControllerLink) -> Result<Arc<dyn Sandboxes>, OpError> + Send + Sync;

/// Why an agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its address cannot be used.
    #[error("agent {node} cannot listen on {address}: {source}; choose another port, or 0 for any that is free")]
    Listen {
        /// Which node.
        node: u32,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its server ended.
    #[error("agent {node}: its gRPC server ended: {source}")]
    Serve {
        /// Which node.
        node: u32,
        /// What tonic said.
        source: tonic::transport::Error,
    },
}

/// Binds an agent's address; port 0 takes any that is free.
///
/// # Errors
/// The address cannot be used.
pub async fn listen(node: u32, address: SocketAddr) -> Result<TcpListener, AgentError> {
    TcpListener::bind(address).await.map_err(|source| AgentError::Listen { node, address, source })
}

/// Serves until the controller says `Terminate`, the lease runs out (if the agent ends with it), or `stop` is ready; all sandboxes are
/// purged then.
///
/// # Errors
/// The server ended by itself.
pub async fn serve(
    config: AgentConfig,
    listener: TcpListener,
    begin: Arc<Begin>,
    stop: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let node = config.node;
    let agent = Arc::new(service::Agent::new(config, seal::number(), begin));
    let server = AgentServer::from_arc(agent.clone())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let watched = agent.clone();
    let serving = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(2)))
        .http2_keepalive_timeout(Some(Duration::from_secs(4)))
        .add_service(server)
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    let served = tokio::select! {
        served = serving => served.map_err(|source| AgentError::Serve { node, source }),
        () = watched.ended() => Ok(()),
        () = stop => Ok(()),
    };
    agent.drop_world().await;
    served
}
