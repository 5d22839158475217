//! The page index as the controller's gRPC service.

use std::pin::Pin;
use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::index::{IndexError, Named, PageIndex};
use crate::wire::controller_server::Controller;
use crate::wire::{LookupAnswer, LookupBatch, RegisterAnswer, RegisterPart};

/// Answers that wait for a slow reader, of one stream.
const WAITING: usize = 4;

/// Serves an index.
pub struct IndexService(pub Arc<PageIndex>);

fn refused(error: IndexError) -> Status {
    match error {
        IndexError::Malformed(_) => Status::invalid_argument(error.to_string()),
        IndexError::Full { .. } => Status::resource_exhausted(error.to_string()),
        IndexError::Withdrawn(_) => Status::aborted(error.to_string()),
    }
}

#[tonic::async_trait]
impl Controller for IndexService {
    async fn register_pages(
        &self,
        request: Request<Streaming<RegisterPart>>,
    ) -> Result<Response<RegisterAnswer>, Status> {
        let mut parts = request.into_inner();
        let head = parts.next().await.transpose()?.and_then(|part| part.head);
        let head = head.ok_or_else(|| Status::invalid_argument("the first part has no head"))?;
        let mut registration = self.0.register(head).map_err(refused)?;
        while let Some(part) = parts.next().await {
            registration.part(&part?).map_err(refused)?;
        }
        registration.finish().map(Response::new).map_err(refused)
    }

    type LookupPagesStream = Pin<Box<dyn Stream<Item = Result<LookupAnswer, Status>> + Send>>;

    async fn lookup_pages(
        &self,
        request: Request<Streaming<LookupBatch>>,
    ) -> Result<Response<Self::LookupPagesStream>, Status> {
        let mut batches = request.into_inner();
        let (say, answers) = tokio::sync::mpsc::channel(WAITING);
        let index = self.0.clone();
        tokio::spawn(async move {
            let mut named = Named::default();
            while let Some(batch) = batches.next().await {
                let answer = batch.and_then(|batch| index.lookup(&batch, &mut named).map_err(refused));
                let last = answer.is_err();
                if say.send(answer).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}
