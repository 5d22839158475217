//! How an agent asks the index at the controller: in the same process, or by gRPC.

use std::sync::Arc;
use std::time::Instant;

use tokio_stream::StreamExt;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use super::in_time;
use super::index::{IndexError, Named, PageIndex};
use crate::ops::OpError;
use crate::wire::controller_client::ControllerClient;
use crate::wire::seal::Token;
use crate::wire::{BaseHead, LookupAnswer, LookupBatch, MAX_MESSAGE, RegisterAnswer, RegisterPart};

/// The index, as an agent sees it. Calls block.
pub trait IndexClient: Send + Sync {
    /// Enters a base. Done twice it is there once.
    ///
    /// # Errors
    /// The controller does not answer in time, or refuses.
    fn register(&self, head: BaseHead, parts: Vec<RegisterPart>, deadline: Instant) -> Result<RegisterAnswer, OpError>;

    /// Asks for base pages, batch after batch; an answer for each.
    ///
    /// # Errors
    /// The controller does not answer in time, or refuses.
    fn lookup(&self, batches: Vec<LookupBatch>, deadline: Instant) -> Result<Vec<LookupAnswer>, OpError>;
}

fn refused(error: IndexError) -> OpError {
    OpError::Controller(error.to_string())
}

/// In the same process.
impl IndexClient for PageIndex {
    fn register(&self, head: BaseHead, parts: Vec<RegisterPart>, deadline: Instant) -> Result<RegisterAnswer, OpError> {
        let mut registration = PageIndex::register(self, head).map_err(refused)?;
        for part in parts {
            in_time("entering a base", deadline)?;
            registration.part(&part).map_err(refused)?;
        }
        registration.finish().map_err(refused)
    }

    fn lookup(&self, batches: Vec<LookupBatch>, deadline: Instant) -> Result<Vec<LookupAnswer>, OpError> {
        let mut named = Named::default();
        let mut answers = Vec::with_capacity(batches.len());
        for batch in batches {
            in_time("looking up base pages", deadline)?;
            answers.push(PageIndex::lookup(self, &batch, &mut named).map_err(refused)?);
        }
        Ok(answers)
    }
}

/// By gRPC.
pub struct GrpcIndex {
    client: ControllerClient<Channel>,
    token: Token,
    runtime: tokio::runtime::Handle,
}

impl GrpcIndex {
    /// For a controller at `host:port`; connects when it is first asked. Calls run on `runtime` and must not be made from it.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(address: &str, token: Token, runtime: tokio::runtime::Handle) -> Result<Arc<Self>, OpError> {
        let bad = |e: tonic::transport::Error| OpError::Controller(format!("address '{address}': {e}"));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(bad)?.tcp_nodelay(true);
        let channel = {
            let _on = runtime.enter();
            endpoint.connect_lazy()
        };
        let client = ControllerClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(Arc::new(Self { client, token, runtime }))
    }

    /// Runs a call until its deadline.
    fn call<T>(
        &self,
        what: &str,
        deadline: Instant,
        call: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Result<T, OpError> {
        let timed = async { tokio::time::timeout_at(deadline.into(), call).await };
        let done = self.runtime.block_on(timed).map_err(|_| OpError::Late { what: what.into() })?;
        done.map_err(|s| OpError::Controller(format!("{what}: {}", s.message())))
    }
}

impl IndexClient for GrpcIndex {
    fn register(&self, head: BaseHead, parts: Vec<RegisterPart>, deadline: Instant) -> Result<RegisterAnswer, OpError> {
        let first = RegisterPart { head: Some(head), ..RegisterPart::default() };
        let request = self.token.stamp(Request::new(tokio_stream::iter(std::iter::once(first).chain(parts))));
        let mut client = self.client.clone();
        self.call("entering a base", deadline, async move { Ok(client.register_pages(request).await?.into_inner()) })
    }

    fn lookup(&self, batches: Vec<LookupBatch>, deadline: Instant) -> Result<Vec<LookupAnswer>, OpError> {
        let request = self.token.stamp(Request::new(tokio_stream::iter(batches)));
        let mut client = self.client.clone();
        self.call("looking up base pages", deadline, async move {
            let mut answers = client.lookup_pages(request).await?.into_inner();
            let mut out = Vec::new();
            while let Some(answer) = answers.next().await {
                out.push(answer?);
            }
            Ok(out)
        })
    }
}
